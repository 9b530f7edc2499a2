package blocks_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// TestTwinTakesNothing: a second machine of a node's name, whose clock is far
// ahead or which is the first to come back after an outage, doesn't get the
// first one's blocks while that reaches the store.
func TestTwinTakesNothing(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(c *cluster, twin *machine){
		"its clock is ahead": func(c *cluster, twin *machine) { twin.offset = 30 * c.world.ttl },
		"after an outage":    func(c *cluster, _ *machine) { c.at += c.world.ttl + c.world.fence + c.world.notice },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(astray(), fastDir(t), rand.New(rand.NewPCG(1, 0)).IntN)
			c.fatalf = t.Fatalf
			first := c.nodes[0]
			c.sync(first)
			twin := c.add(first.name)
			prepare(c, twin)
			for range 6 {
				c.at += c.world.notice / 3
				c.sync(twin)
				c.sync(first)
				if !slices.ContainsFunc(c.held(), func(h *held) bool { return h.Family() == lease.IPv4 && h.Instance == first.instance }) {
					t.Fatalf("leases are %v", c.leased())
				}
			}
		})
	}
}
