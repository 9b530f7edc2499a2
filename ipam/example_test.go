package ipam_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/ipam"
)

func Example() {
	dir, err := os.MkdirTemp("", "ipam")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ledger, err := ipam.OpenLedger(filepath.Join(dir, "pods"), ipam.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer ledger.Close()

	v4 := ipam.Range{
		First:   netip.MustParseAddr("10.244.7.0"),
		Last:    netip.MustParseAddr("10.244.7.255"),
		Exclude: []netip.Prefix{netip.MustParsePrefix("10.244.7.0/31"), netip.MustParsePrefix("10.244.7.255/32")},
	}
	v6 := ipam.Range{First: netip.MustParseAddr("fd00:10:244:7::1"), Last: netip.MustParseAddr("fd00:10:244:7:ffff:ffff:ffff:ffff")}
	request := ipam.Request{
		Attachment: ipam.Attachment{ContainerID: "4f2a", Interface: "eth0"},
		Sets:       []ipam.RangeSet{{v4}, {v6}},
	}
	ctx := context.Background()
	addresses, err := ledger.Allocate(ctx, request)
	fmt.Println(addresses, err)
	again, err := ledger.Allocate(ctx, request)
	fmt.Println(again, err)
	usage, err := ledger.Usage(ctx, request.Sets[:1])
	fmt.Printf("%+v %v\n", usage, err)
	freed, err := ledger.Release(ctx, request.Attachment)
	fmt.Println(freed, err)
	// Output:
	// [10.244.7.2 fd00:10:244:7::1] <nil>
	// [10.244.7.2 fd00:10:244:7::1] <nil>
	// [{Taken:1 Free:252 Total:253 Withdrawn:0}] <nil>
	// [10.244.7.2 fd00:10:244:7::1] <nil>
}
