package lease_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// podCIDRs is a network whose blocks Kubernetes allocates, and a node's claim.
func podCIDRs(node string, given ...string) *lease.Claim {
	n := network("pods", "10.244.0.0/16", "fd00:10:244::/48")
	n.PodCIDRs = true
	c := claim(n, node)
	for _, text := range given {
		c.Given = append(c.Given, netip.MustParsePrefix(text))
	}
	return c
}

func TestGivenBlocksAreClaimed(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	c := podCIDRs("a", "10.244.7.0/24", "fd00:10:244:7::/64", "192.0.2.0/24")
	for range 2 {
		own := acquire(t, r, c)
		if len(own) != 2 || own[0].Block != c.Given[0] || own[1].Block != c.Given[1] {
			t.Errorf("the node has %+v", own)
		}
	}
	_, err := r.Acquire(t.Context(), podCIDRs("b", "192.0.2.0/24"))
	wantError(t, err, lease.ErrNoBlock, "node b has no spec.podCIDRs in network pods", "192.0.2.0/24")
	_, err = r.Acquire(t.Context(), podCIDRs("b", "10.244.7.0/25"))
	wantError(t, err, lease.ErrNoBlock, "10.244.7.0/25", "node b", "10.244.7.0/24 of node a")
}

// TestGivenBlockOfAnother: a block that was another node's is taken when that one
// doesn't object, though its lease hasn't expired; while it does, it keeps it.
func TestGivenBlockOfAnother(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	old, heir := podCIDRs("a", "10.244.7.0/24"), podCIDRs("b", "10.244.7.0/24")
	acquire(t, r, old)
	for range 12 { // with an owner that is alive
		_, err := r.Acquire(t.Context(), heir)
		wantError(t, err, lease.ErrNoBlock, "of node a")
		clock.advance(lease.DefaultNotice / 3)
		acquire(t, r, old)
	}
	start := clock.now()
	for {
		own, err := r.Acquire(t.Context(), heir)
		if err == nil {
			if own[0].Block != heir.Given[0] || own[0].Node != "b" {
				t.Errorf("the heir has %+v", own)
			}
			break
		}
		wantError(t, err, lease.ErrNoBlock, "of node a")
		clock.advance(lease.DefaultNotice / 3)
	}
	if took := clock.now().Sub(start); took < lease.DefaultNotice || took > 2*lease.DefaultNotice {
		t.Errorf("it took %s, with a notice of %s", took, lease.DefaultNotice)
	}
	_, err := r.Acquire(t.Context(), old)
	wantError(t, err, lease.ErrNoBlock, "of node b")
	clock.advance(time.Second)
	acquire(t, r, heir)
}
