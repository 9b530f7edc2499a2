package lease_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// A node claims its block of a network, comes back after a reboot, and another
// node sees where the block is.
func Example() {
	dir, err := os.MkdirTemp("", "lease")
	if err != nil {
		log.Print(err)
		return
	}
	defer os.RemoveAll(dir)
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		log.Print(err)
		return
	}
	defer s.Close()

	ctx := context.Background()
	r := &lease.Registry{Store: s, TTL: lease.DefaultTTL}
	pods := lease.Network{Name: "pods", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}.Complete()
	if _, err := r.Join(ctx, &pods); err != nil {
		log.Print(err)
		return
	}
	claim := &lease.Claim{Network: pods, Node: "node-1", VTEP: lease.VTEP{
		Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.11")}, MAC: pods.MAC("node-1"),
	}}
	for _, when := range []string{"first start", "after a reboot"} {
		own, err := r.Acquire(ctx, claim)
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Println(when, own[0].Block)
	}
	view, err := r.View(ctx, "pods")
	if err != nil {
		log.Print(err)
		return
	}
	for _, l := range view.Leases {
		fmt.Println(l.Block, "is behind", l.VTEP.UnderlayOf(lease.IPv4), "at", l.VTEP.MAC)
	}
	// Output:
	// first start 10.244.195.0/24
	// after a reboot 10.244.195.0/24
	// 10.244.195.0/24 is behind 192.0.2.11 at 0e:6f:60:be:2e:06
}
