package lease_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// TestInstances: a machine keeps its block under a new name, at a new address
// and without its instance; another machine of the name doesn't get it.
func TestInstances(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	claim := func(node, instance, underlay string) *lease.Claim {
		return &lease.Claim{
			Network: network("pods", "10.244.0.0/16"), Node: node, Instance: instance,
			VTEP: lease.VTEP{Underlay: []netip.Addr{netip.MustParseAddr(underlay)}, MAC: ether.Local([5]byte{1, 2, 3, 4, 5})},
		}
	}
	for _, c := range []struct {
		name  string
		again *lease.Claim
		later time.Duration
		same  bool // it gets the first one's block
		fails bool
	}{
		{"itself", claim("n1", "a", "192.0.2.1"), 0, true, false},
		{"at a new address", claim("n1", "a", "192.0.2.9"), 0, true, false},
		{"under a new name", claim("n9", "a", "192.0.2.1"), 0, true, false},
		{"installed anew", claim("n1", "b", "192.0.2.1"), 0, true, false},
		{"another machine of the name", claim("n1", "b", "192.0.2.2"), 0, false, true},
		{"another one, when the first is long gone", claim("n1", "b", "192.0.2.2"), 2 * time.Hour, false, true},
		{"another machine", claim("n2", "b", "192.0.2.2"), 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, _ := newRegistry(t)
			r.TTL, r.Now = time.Hour, func() time.Time { return now }
			first, err := r.Acquire(t.Context(), claim("n1", "a", "192.0.2.1"))
			if err != nil {
				t.Fatal(err)
			}
			r.Now = func() time.Time { return now.Add(c.later) }
			second, err := r.Acquire(t.Context(), c.again)
			if c.fails {
				wantError(t, err, lease.ErrConflict, "n1", "192.0.2.1", first[0].Block.String())
				return
			}
			if err != nil || (second[0].Block == first[0].Block) != c.same {
				t.Errorf("after %v it got %v, %v", first, second, err)
			}
		})
	}
}

// TestInherit: another machine of the name gets the first one's block when that
// is long gone, and doesn't object.
func TestInherit(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/16")
	machine := func(instance string, underlay string) *lease.Claim {
		c := claim(n, "n1")
		c.Instance, c.VTEP.Underlay = instance, []netip.Addr{netip.MustParseAddr(underlay)}
		return c
	}
	first := acquire(t, r, machine("a", "192.0.2.1"))[0]
	clock.advance(ttl + fence)
	twin := machine("b", "192.0.2.2")
	for range 1 + lease.DefaultNotice/look {
		_, err := r.Acquire(t.Context(), twin)
		wantError(t, err, lease.ErrConflict, "n1", "192.0.2.1", first.Block.String(), "unless it is renewed")
		clock.advance(look)
	}
	if got := acquire(t, r, twin); len(got) != 1 || got[0].Block != first.Block || got[0].Instance != "b" || got[0].Notice != nil {
		t.Errorf("got %+v", got)
	}
}

// TestLastLeaseTakesTheRegistration: so that the network may be another when
// somebody joins again.
func TestLastLeaseTakesTheRegistration(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := network("pods", "10.244.0.0/16")
	for _, node := range []string{"n1", "n2"} {
		if _, err := r.Join(t.Context(), &n); err != nil {
			t.Fatal(err)
		}
		c := &lease.Claim{Network: n, Node: node, VTEP: lease.VTEP{
			Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, MAC: ether.Local([5]byte{1}),
		}}
		if _, err := r.Acquire(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	other := network("pods", "10.9.0.0/16")
	for i, node := range []string{"n1", "n2"} {
		if _, err := r.Join(t.Context(), &other); err == nil {
			t.Errorf("with %d nodes in it the network could be changed", 2-i)
		}
		if err := errors.Join(r.Release(t.Context(), "pods", node), r.Forget(t.Context(), "pods")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Join(t.Context(), &other); err != nil {
		t.Error(err)
	}
	if _, err := r.Acquire(t.Context(), &lease.Claim{Network: other}); err == nil {
		t.Error("a claim without a node succeeded")
	}
}
