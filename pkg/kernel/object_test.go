package kernel_test

import (
	"net/netip"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// TestNeighborMatches: an entry that follows is right with any address that it
// has come to have; a permanent one only with its own.
func TestNeighborMatches(t *testing.T) {
	t.Parallel()
	one, other := ether.Addr{0x0e, 5: 1}, ether.Addr{0x0e, 5: 2}
	entry := func(mac ether.Addr, follows bool) kernel.Neighbor {
		return kernel.Neighbor{Link: "vx0", Address: netip.MustParseAddr("10.244.2.0"), MAC: mac, Follows: follows}
	}
	elsewhere := entry(one, true)
	elsewhere.Address = netip.MustParseAddr("10.244.2.1")
	for _, c := range []struct {
		name string
		want kernel.Neighbor
		have reconcile.Object
		ok   bool
	}{
		{"permanent", entry(one, false), entry(one, false), true},
		{"permanent, other address", entry(one, false), entry(other, false), false},
		{"permanent, has one that follows", entry(one, false), entry(one, true), false},
		{"follows", entry(one, true), entry(one, true), true},
		{"follows, other address", entry(one, true), entry(other, true), true},
		{"follows, no address", entry(one, true), entry(ether.Addr{}, true), false},
		{"follows, has a permanent one", entry(one, true), entry(one, false), false},
		{"follows, another neighbour", entry(one, true), elsewhere, false},
		{"follows, something else", entry(one, true), kernel.Up{Link: "vx0"}, false},
	} {
		if got := c.want.Matches(c.have); got != c.ok {
			t.Errorf("%s: %v.Matches(%v) is %v", c.name, c.want, c.have, got)
		}
	}
}
