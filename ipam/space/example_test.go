package space_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/ipam/space"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// Two nodes with one store give addresses of one space.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, err := local.Open(filepath.Join(dir, "store"), local.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	sets := []ipam.RangeSet{{{First: netip.MustParseAddr("192.0.2.1"), Last: netip.MustParseAddr("192.0.2.2")}}}
	for _, node := range []string{"n1", "n2", "n3"} {
		space, err := space.Open(&space.Options{
			Store: store, Name: "storage", Ledger: filepath.Join(dir, node+".ledger"),
			Machine: space.Machine{Node: node, Instance: node + "'s own", Boot: "the first"},
		})
		if err != nil {
			log.Fatal(err)
		}
		attachment := ipam.Attachment{ContainerID: "c1", Interface: "net1"}
		addresses, err := space.Allocate(ctx, ipam.Request{Attachment: attachment, Sets: sets})
		fmt.Println(len(addresses), err)
		if err := space.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 1 <nil>
	// 1 <nil>
	// 0 no free address in [192.0.2.1-192.0.2.2] of space storage
}
