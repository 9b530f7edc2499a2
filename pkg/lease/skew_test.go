package lease_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// skewed is a node whose clock goes wrong by a fixed time.
type skewed struct {
	name     string
	registry *lease.Registry
	skew     time.Duration
	down     bool
	// until is when its lease ends, by the time that really passes.
	until time.Duration
	block string
}

// world is nodes with clocks of their own, and few blocks.
type world struct {
	t       *rapid.T
	elapsed time.Duration
	nodes   []*skewed
	network lease.Network
}

func (w *world) now() time.Time { return time.Unix(1_700_000_000, 0).Add(w.elapsed) }

// look lets all nodes that are up do what they do every now and then.
func (w *world) look() {
	for _, n := range w.nodes {
		if n.down {
			continue
		}
		own, err := n.registry.Acquire(w.t.Context(), claim(w.network, n.name))
		switch {
		case err == nil:
			n.block, n.until = own[0].Block.String(), w.elapsed+own[0].Expires.Sub(w.now().Add(n.skew))
		case errors.Is(err, lease.ErrNoBlock):
			n.block = ""
		default:
			w.t.Fatal(err)
		}
	}
	holders := map[string]string{}
	for _, n := range w.nodes {
		if n.block == "" || w.elapsed >= n.until {
			continue
		}
		if other := holders[n.block]; other != "" {
			w.t.Fatalf("after %s both %s and %s hold %s", w.elapsed, other, n.name, n.block)
		}
		holders[n.block] = n.name
	}
}

func newWorld(t *testing.T, rt *rapid.T, most time.Duration) *world {
	s, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		rt.Fatal(err)
	}
	rt.Cleanup(func() { _ = s.Close() })
	w := &world{t: rt, network: network("pods", "10.244.0.0/23")}
	for i := range 4 {
		n := &skewed{name: fmt.Sprintf("node-%d", i), skew: time.Duration(rapid.Int64Range(-int64(most), int64(most)).Draw(rt, "skew"))}
		n.registry = &lease.Registry{
			Store: s, TTL: ttl, Fence: fence,
			Now: func() time.Time { return w.now().Add(n.skew) }, Elapsed: func() time.Duration { return w.elapsed },
		}
		w.nodes = append(w.nodes, n)
	}
	return w
}

// TestSkewedClocks: nodes whose clocks differ by less than the fence, and that
// come and go, never hold a block together.
func TestSkewedClocks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rt, (fence-time.Second)/2)
		rt.Repeat(map[string]func(*rapid.T){
			"pass": func(rt *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(rt, "looks") {
					w.elapsed += lease.DefaultNotice / 3
					w.look()
				}
			},
			"leap": func(rt *rapid.T) { // nobody could reach the store
				w.elapsed += time.Duration(rapid.Int64Range(0, int64(2*(ttl+fence))).Draw(rt, "leap"))
				w.look()
			},
			"switch": func(rt *rapid.T) {
				n := rapid.SampledFrom(w.nodes).Draw(rt, "node")
				n.down = !n.down
			},
		})
	})
}

// TestWildClocks: however wrong its clock, a node that is there keeps its block.
func TestWildClocks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rt, 100*ttl)
		w.look()
		held := map[string]string{}
		for _, n := range w.nodes {
			if n.block != "" {
				held[n.name] = n.block
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "looks") {
			w.elapsed += lease.DefaultNotice / 3
			w.look()
			for _, n := range w.nodes {
				if held[n.name] != "" && n.block != held[n.name] {
					rt.Fatalf("after %s %s has lost %s, which it had", w.elapsed, n.name, held[n.name])
				}
			}
		}
	})
}
