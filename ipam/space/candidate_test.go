package space

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// TestChooser: every address that a set gives is proposed, once each as they are
// taken, and no other.
func TestChooser(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		set  ipam.RangeSet
		want int
	}{
		{ipam.RangeSet{between("10.0.0.1", "10.0.0.1")}, 1},
		{ipam.RangeSet{between("10.0.0.1", "10.0.0.1", "10.0.0.1/32")}, 0},
		{ipam.RangeSet{between("10.0.0.0", "10.0.0.9", "10.0.0.4/31", "10.0.0.0/32", "10.0.0.9/32")}, 6},
		{ipam.RangeSet{between("255.255.255.250", "255.255.255.255", "255.255.255.254/31")}, 4},
		{ipam.RangeSet{between("10.0.0.1", "10.0.0.3"), between("10.1.0.1", "10.1.0.3"), between("9.0.0.0", "9.0.0.1")}, 8},
		{ipam.RangeSet{between("fd00::", "fd00::1:0:0:0:ffff", "fd00::/65", "fd00::8000:0:0:0/65", "fd00:0:0:1::/113")}, 1 << 15},
		{ipam.RangeSet{between("fd00::fffe", "fd00::1:1"), between("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}, 6},
		{ipam.RangeSet{between("::ffff:10.0.0.1", "::ffff:10.0.0.4", "::ffff:10.0.0.2/127")}, 2},
		{ipam.RangeSet{between("10.0.0.0", "10.0.255.255")}, 1 << 16},
	} {
		for node := range uint64(3) {
			c := newChooser(test.set, node*0x9e3779b97f4a7c15, rand.New(rand.NewPCG(node, 7)))
			taken := map[netip.Addr]bool{}
			for {
				a, ok := c.next(taken)
				if !ok {
					break
				}
				if taken[a] || !gives(c.set, a) {
					t.Fatalf("%v: %s is proposed", test.set, a)
				}
				if taken[a] = true; len(taken) > 100 && test.want > 1000 {
					break // and so on
				}
			}
			if len(taken) != min(test.want, 101) {
				t.Errorf("%v gives %d, want %d", test.set, len(taken), test.want)
			}
		}
	}
}

// TestWindow: a node prefers few addresses of many, others than other nodes do.
func TestWindow(t *testing.T) {
	t.Parallel()
	for _, set := range []ipam.RangeSet{
		{between("10.0.0.0", "10.255.255.255")}, {between("fd00::", "fd00::ffff:ffff:ffff:ffff")}, {between("fd00::", "fdff::")},
	} {
		owner := map[netip.Addr]int{}
		for node := range 20 {
			random := rand.New(rand.NewPCG(uint64(node), 0))
			c := newChooser(set, digest(string(rune('a'+node))), random)
			own := map[netip.Addr]bool{}
			for range 20_000 {
				a, _ := c.next(nil)
				own[a] = true
			}
			if len(own) > window {
				t.Errorf("a node wants %d addresses of %v", len(own), set)
			}
			for a := range own {
				owner[a]++
			}
		}
		twice := 0
		for _, n := range owner {
			if n > 1 {
				twice++
			}
		}
		if len(owner) < 15*window || twice > 3*window {
			t.Errorf("20 nodes want %d addresses of %v, %d of them twice", len(owner), set, twice)
		}
	}
}
