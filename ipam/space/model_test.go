package space

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func between(first, last string, exclude ...string) ipam.Range {
	r := ipam.Range{First: addr(first), Last: addr(last)}
	for _, p := range exclude {
		r.Exclude = append(r.Exclude, netip.MustParsePrefix(p))
	}
	return r
}

// worldSets are so small that nodes meet all the time.
var worldSets = []ipam.RangeSet{
	{between("10.0.0.0", "10.0.0.6", "10.0.0.2/31")},
	{between("fd00::1", "fd00::2"), between("fd00::10", "fd00::12")},
}

const sequences, steps = 40, 250

// TestSequences does what can happen to a cluster in random order, one call to a
// store or ledger at a time: operations on three nodes at once, of which two have
// one name, processes killed and stores that fail at each call, reboots, lost
// ledgers. SHARED_SEED and SHARED_SEQUENCES say which sequences instead.
func TestSequences(t *testing.T) {
	t.Parallel()
	first, count := number(t, "SHARED_SEED", 1), number(t, "SHARED_SEQUENCES", sequences)
	counts := map[string]int{}
	for seed := first; seed < first+count; seed++ {
		for what, n := range sequence(t, seed) {
			counts[what] += n
		}
	}
	t.Logf("seeds %d to %d: %v", first, first+count-1, counts)
	if count < sequences {
		return
	}
	for _, what := range []string{"added", "again", "full", "taken", "kill", "fault", "reboot", "ledger lost", "released meanwhile"} {
		if counts[what] == 0 {
			t.Errorf("%q never happened", what)
		}
	}
}

// number is that of an environment variable.
func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sequence(t *testing.T, seed uint64) map[string]int {
	t.Helper()
	dir := t.TempDir()
	s, err := local.Open(filepath.Join(dir, "store"), local.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	var w *world
	w = newWorld(seed, dir, s, func(format string, args ...any) {
		t.Fatalf("seed %d: %s\n%s", seed, fmt.Sprintf(format, args...), strings.Join(w.history, "\n"))
	})
	for range steps {
		w.act()
	}
	w.finish(func(*process) bool { return true })
	w.end()
	return w.counts
}

// act is the next thing that happens.
func (w *world) act() {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	switch draw := w.random.IntN(100); {
	case draw < 70 && len(w.running) > 0:
		p := w.running[w.random.IntN(len(w.running))]
		what := proceed
		if !p.killed && w.random.IntN(12) == 0 {
			what = action(1 + w.random.IntN(4))
			w.counts[map[bool]string{true: "kill", false: "fault"}[what <= killAfter]]++
		}
		w.step(p, what)
	case draw < 85:
		w.add(n)
	case draw < 94:
		w.del(n)
	case draw < 96:
		w.collect(n)
	case draw < 97:
		w.start(n, "sweep", ipam.Attachment{}, func(s *Space) error { return s.Sweep(context.Background()) })
	case draw < 98:
		w.lose(n)
	case draw < 99:
		w.reboot(n)
	}
}

func (w *world) attachment() ipam.Attachment {
	return ipam.Attachment{ContainerID: fmt.Sprintf("c%d", w.random.IntN(4)), Interface: "eth0"}
}

// add begins an ADD, as a runtime would that keeps those of an attachment and GC
// and ADD of a node apart.
func (w *world) add(n *node) {
	a := w.attachment()
	if w.busyWith(n, a, "del") || w.busyWith(n, a, "add") || w.busy(n, "collect") {
		return
	}
	req := ipam.Request{Attachment: a, Sets: worldSets[:1+w.random.IntN(2)]}
	if w.random.IntN(5) == 0 {
		req.Addresses = []netip.Addr{addr(fmt.Sprintf("10.0.0.%d", w.random.IntN(2)))}
	}
	if held := n.live[a]; held != nil {
		w.counts["again"]++
	}
	before := n.deleted[a]
	w.start(n, "add", a, func(s *Space) error {
		got, err := s.Allocate(context.Background(), req)
		for what, is := range map[string]error{"full": ipam.ErrFull, "taken": ipam.ErrTaken, "released meanwhile": ErrReleased} {
			if errors.Is(err, is) {
				w.counts[what]++
			}
		}
		if err != nil || before != n.deleted[a] {
			return err
		}
		w.counts["added"]++
		n.live[a] = got
		return nil
	})
}

// del begins a DEL: the container is gone, whatever comes of it. It may come
// while the ADD still runs.
func (w *world) del(n *node) {
	a := w.attachment()
	delete(n.live, a)
	n.deleted[a]++
	w.start(n, "del", a, func(s *Space) error {
		_, err := s.Release(context.Background(), a)
		return err
	})
}

// collect begins a GC: the runtime knows what lives and what is being made.
func (w *world) collect(n *node) {
	keep := slices.Collect(maps.Keys(n.live))
	for _, p := range w.running {
		if p.node == n && p.verb == "add" {
			keep = append(keep, p.about)
		}
	}
	w.start(n, "collect", ipam.Attachment{}, func(s *Space) error { return s.Collect(context.Background(), keep) })
}

// end collects on all nodes. What lives keeps its addresses, what doesn't has none;
// and when nothing lives nothing is held.
func (w *world) end() {
	for _, n := range w.nodes {
		for _, left := range w.left(n) {
			if n.live[left] == nil {
				w.fatalf("%s of %s doesn't live and holds an address", left, n.machine.Instance)
			}
		}
	}
	w.check()
	for _, n := range w.nodes {
		clear(n.live)
		if left := w.left(n); len(left) > 0 {
			w.fatalf("%s still holds addresses of %v", n.machine.Instance, left)
		}
	}
	if claims, err := Claims(context.Background(), w.store, "net"); err != nil || len(claims) > 0 {
		w.fatalf("still claimed are %v, %v", claims, err)
	}
}

// left is who holds addresses of a node after a GC that knows what lives, by the
// ledger or by the store.
func (w *world) left(n *node) []ipam.Attachment {
	s := w.open(n)
	defer s.Close()
	ctx := context.Background()
	if err := s.Collect(ctx, slices.Collect(maps.Keys(n.live))); err != nil {
		w.fatalf("%v", err)
	}
	v, err := s.look(ctx)
	if err != nil {
		w.fatalf("%v", err)
	}
	var left []ipam.Attachment
	for _, h := range v.held {
		left = append(left, h.Attachment)
	}
	for i := range v.claims {
		if c := &v.claims[i]; c.Instance == n.machine.Instance {
			left = append(left, c.Attachment)
		}
	}
	return left
}
