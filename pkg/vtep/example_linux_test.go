package vtep_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// A node with one peer: what should exist, without touching anything.
func ExampleObjects() {
	spec, peers := twoNodes()
	fmt.Print(reconcile.Format(vtep.Objects(spec, peers)))
	// Output:
	// link ovx4096 vxlan id 4096 local 192.0.2.11 dstport 4789 nolearning mtu 1450 address 0e:00:00:00:00:01
	// link ovx4096 up
	// address 10.244.1.0/32 dev ovx4096
	// fdb 0e:00:00:00:00:02 dst 192.0.2.12 dev ovx4096
	// neighbor 10.244.2.0 lladdr 0e:00:00:00:00:02 dev ovx4096
	// route 10.244.2.0/24 via 10.244.2.0 dev ovx4096 metric 127462693
	// route blackhole 10.244.1.0/24 metric 2147483648
}

// Bring the kernel in line, as often as something may have changed. It needs
// CAP_NET_ADMIN.
func ExampleReconcile() {
	spec, peers := twoNodes()
	conn, err := kernel.Open()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close() }()
	changes, err := vtep.Reconcile(context.Background(), conn, spec, peers)
	for _, c := range changes {
		fmt.Println(c)
	}
	if err != nil {
		fmt.Println(err)
	}
}

func twoNodes() (*vtep.Spec, []vtep.Peer) {
	spec := &vtep.Spec{
		Device: vtep.DeviceName(4096), VNI: 4096, Port: 4789, MTU: 1450,
		Local:  netip.MustParseAddr("192.0.2.11"),
		MAC:    ether.Addr{0x0e, 0, 0, 0, 0, 1},
		Blocks: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Within: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	}
	peer := vtep.Peer{
		Underlay: netip.MustParseAddr("192.0.2.12"),
		MAC:      ether.Addr{0x0e, 0, 0, 0, 0, 2},
		Blocks:   []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")},
	}
	return spec, []vtep.Peer{peer}
}
