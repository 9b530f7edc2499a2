package space

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// counting counts what a store is asked for.
type counting struct {
	store.Store
	calls map[string]int
}

func (c *counting) Get(ctx context.Context, key string) (store.Entry, error) {
	c.calls["get"]++
	return c.Store.Get(ctx, key)
}

func (c *counting) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	c.calls["list"]++
	return c.Store.List(ctx, prefix)
}

func (c *counting) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	c.calls["create"]++
	return c.Store.Create(ctx, key, value)
}

func (c *counting) Update(ctx context.Context, key string, value []byte, at store.Revision) (store.Revision, error) {
	c.calls["update"]++
	return c.Store.Update(ctx, key, value, at)
}

func (c *counting) Delete(ctx context.Context, key string, at store.Revision) error {
	c.calls["delete"]++
	return c.Store.Delete(ctx, key, at)
}

// cluster is a store, and nodes that come and go.
type cluster struct {
	*testing.T
	dir   string
	store *counting
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	s, err := local.Open(filepath.Join(dir, "store"), local.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t, dir, &counting{s, map[string]int{}}}
}

func (c *cluster) ledger(m Machine) string {
	return filepath.Join(c.dir, m.Node+"-"+m.Instance+".ledger")
}

func (c *cluster) open(m Machine) *Space {
	c.Helper()
	s, err := Open(&Options{Store: c.store, Name: "net", Machine: m, Ledger: c.ledger(m)})
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = s.Close() })
	return s
}

func machine(node string) Machine {
	return Machine{Node: node, Instance: "i-" + node, Boot: "boot of " + node}
}

func pod(n int) ipam.Attachment {
	return ipam.Attachment{ContainerID: fmt.Sprintf("c%d", n), Interface: "eth0"}
}

func (c *cluster) allocate(s *Space, a ipam.Attachment, sets []ipam.RangeSet, fixed ...netip.Addr) []netip.Addr {
	c.Helper()
	got, err := s.Allocate(c.Context(), ipam.Request{Attachment: a, Sets: sets, Addresses: fixed})
	if err != nil {
		c.Fatal(err)
	}
	return got
}

func (c *cluster) refuses(s *Space, a ipam.Attachment, sets []ipam.RangeSet, want error, fixed ...netip.Addr) string {
	c.Helper()
	got, err := s.Allocate(c.Context(), ipam.Request{Attachment: a, Sets: sets, Addresses: fixed})
	if !errors.Is(err, want) {
		c.Fatalf("got %v, %v, want %v", got, err, want)
	}
	return err.Error()
}

func (c *cluster) release(s *Space, a ipam.Attachment) {
	c.Helper()
	if _, err := s.Release(c.Context(), a); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) claimed() []Claim {
	c.Helper()
	claims, err := Claims(c.Context(), c.store, "net")
	if err != nil {
		c.Fatal(err)
	}
	return claims
}

func set(first, last string, exclude ...string) []ipam.RangeSet {
	return []ipam.RangeSet{{between(first, last, exclude...)}}
}

// TestCost: what a store is asked for in a space that isn't nearly full.
func TestCost(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, sets := c.open(machine("n1")), set("10.0.0.1", "10.0.255.254")
	c.allocate(s, pod(0), sets) // of the first in a boot leftovers are looked for
	for n := 1; n < 20; n++ {
		clear(c.store.calls)
		c.allocate(s, pod(n), sets)
		if got := fmt.Sprint(c.store.calls); got != "map[create:1]" {
			t.Errorf("an Allocate costs %s", got)
		}
	}
	for n := 1; n < 20; n++ {
		clear(c.store.calls)
		c.release(s, pod(n))
		if got := fmt.Sprint(c.store.calls); got != "map[delete:1 get:1]" {
			t.Errorf("a Release costs %s", got)
		}
	}
	clear(c.store.calls)
	c.release(s, pod(1))
	if len(c.store.calls) > 0 {
		t.Errorf("a Release of nothing costs %v", c.store.calls)
	}
}

// TestCostOfAFullSpace: the store is listed once, however many are taken.
func TestCostOfAFullSpace(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	sets := set("10.0.0.1", "10.0.0.250")
	n1, n2 := c.open(machine("n1")), c.open(machine("n2"))
	for n := range 248 {
		c.allocate(n1, pod(n), sets)
	}
	c.allocate(n2, pod(0), sets)
	clear(c.store.calls)
	c.allocate(n2, pod(1), sets)
	if calls := c.store.calls; calls["list"] > 1 || calls["create"] > probes+1 || calls["update"] > 0 {
		t.Errorf("the last address costs %v", calls)
	}
	clear(c.store.calls)
	c.refuses(n2, pod(2), sets, ipam.ErrFull)
	if calls := c.store.calls; calls["list"] != 1 || calls["create"] > probes {
		t.Errorf("that there is none costs %v", calls)
	}
	usage, err := n2.Usage(t.Context(), sets)
	if err != nil || usage[0] != (ipam.Usage{Taken: 250, Total: 250}) {
		t.Errorf("usage %+v, %v", usage, err)
	}
}

// TestRaces: many nodes at once, each through a store and a ledger of its own,
// want all that there is.
func TestRaces(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	sets := []ipam.RangeSet{{between("10.0.0.1", "10.0.0.40", "10.0.0.8/30")}, {between("fd00::", "fd00::ff")}}
	const nodes, pods = 6, 6 // 36 for 36 addresses
	var all errgroup.Group
	for n := range nodes {
		all.Go(func() error {
			own, err := local.Open(filepath.Join(c.dir, "store"), local.Options{NoSync: true})
			if err != nil {
				return err
			}
			m := machine(fmt.Sprintf("n%d", n))
			s, err := Open(&Options{Store: own, Name: "net", Machine: m, Ledger: c.ledger(m)})
			if err != nil {
				return err
			}
			for p := range pods {
				if _, err := s.Allocate(context.Background(), ipam.Request{Attachment: pod(p), Sets: sets}); err != nil {
					return err
				}
			}
			return s.Close()
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	claims := c.claimed()
	for i, claim := range claims[:36] {
		if !gives(sets[0], claim.Address) || i > 0 && claims[i-1].Address == claim.Address {
			t.Errorf("%s", &claim)
		}
	}
	if len(claims) != 72 {
		t.Errorf("%d addresses are claimed", len(claims))
	}
}

func TestFixed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	sets := set("10.0.0.1", "10.0.0.9", "10.0.0.4/32")
	n1, n2 := c.open(machine("n1")), c.open(machine("n2"))
	if got := c.allocate(n1, pod(1), sets, addr("::ffff:10.0.0.7")); !slices.Equal(got, []netip.Addr{addr("10.0.0.7")}) {
		t.Errorf("got %v", got)
	}
	message := c.refuses(n2, pod(2), sets, ipam.ErrTaken, addr("10.0.0.7"))
	for _, text := range []string{"10.0.0.7", "n1", "c1", "eth0"} {
		if !strings.Contains(message, text) {
			t.Errorf("%q doesn't name %s", message, text)
		}
	}
	c.refuses(n1, pod(2), sets, ipam.ErrTaken, addr("10.0.0.7"))
	c.refuses(n1, pod(2), sets, ipam.ErrOutsideRange, addr("10.0.0.4"))
	c.refuses(n1, pod(1), sets, ipam.ErrHeld, addr("10.0.0.8"))
	c.refuses(n1, pod(3), []ipam.RangeSet{{}}, ipam.ErrInvalid)
	if held, err := n2.Lookup(t.Context(), pod(2)); err != nil || len(held) > 0 || len(c.claimed()) != 1 {
		t.Errorf("refused ones left %v, %v, %v", held, c.claimed(), err)
	}
}

// TestReboot: what a machine had claimed before it was booted is nobody's, and it
// is the machine itself that knows.
func TestReboot(t *testing.T) {
	t.Parallel()
	sets := set("10.0.0.1", "10.0.0.9")
	again := func(m Machine) Machine { m.Boot += " again"; return m }
	for name, act := range map[string]func(c *cluster){
		"the first Allocate clears leftovers away": func(c *cluster) {
			c.allocate(c.open(again(machine("n1"))), pod(9), sets)
			if claims := c.claimed(); len(claims) != 2 {
				c.Errorf("claimed are %v", claims)
			}
		},
		"Sweep clears leftovers away": func(c *cluster) {
			if err := c.open(again(machine("n1"))).Sweep(c.Context()); err != nil {
				c.Error(err)
			}
			if claims := c.claimed(); len(claims) != 1 {
				c.Errorf("claimed are %v", claims)
			}
		},
		"a lost ledger isn't restored from another boot": func(c *cluster) {
			m := again(machine("n1"))
			if err := os.Remove(c.ledger(m)); err != nil {
				c.Fatal(err)
			}
			if held, err := c.open(m).Lookup(c.Context(), pod(1)); err != nil || len(held) > 0 {
				c.Errorf("held is %v, %v", held, err)
			}
		},
		"a fixed address is taken over": func(c *cluster) {
			s := c.open(again(machine("n1")))
			c.allocate(s, pod(8), sets, addr("10.0.0.9"))
			late := Claim{Machine: machine("n1"), Attachment: pod(1), Address: addr("10.0.0.1")}
			value, err := late.encode()
			if err == nil {
				_, err = c.store.Create(c.Context(), key("net", late.Address), value)
			}
			if err != nil {
				c.Fatal(err)
			}
			if err := s.Check(c.Context(), pod(3), c.allocate(s, pod(3), sets, late.Address)); err != nil {
				c.Error(err)
			}
		},
		"another node can't know": func(c *cluster) {
			if err := c.open(machine("n2")).Collect(c.Context(), nil); err != nil {
				c.Error(err)
			}
			if claims := c.claimed(); len(claims) != 2 || claims[0].Node != "n1" {
				c.Errorf("claimed are %v", claims)
			}
		},
		"nor can another machine of its name": func(c *cluster) {
			other := Machine{Node: "n1", Instance: "other", Boot: "other"}
			if err := c.open(other).Collect(c.Context(), nil); err != nil {
				c.Error(err)
			}
			if claims := c.claimed(); len(claims) != 3 {
				c.Errorf("claimed are %v", claims)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			n1 := c.open(machine("n1"))
			c.allocate(n1, pod(1), sets, addr("10.0.0.1"))
			c.allocate(n1, pod(2), sets, addr("10.0.0.2"))
			c.allocate(c.open(machine("n2")), pod(1), sets, addr("10.0.0.5"))
			act(c)
		})
	}
}

// TestLeftoverOfThisBoot: whoever made it may still be at work, so that it is
// swept, and not taken over.
func TestLeftoverOfThisBoot(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, sets := c.open(machine("n1")), set("10.0.0.1", "10.0.0.2")
	c.allocate(s, pod(1), sets, addr("10.0.0.1"))
	claim := Claim{Machine: machine("n1"), Attachment: pod(2), Address: addr("10.0.0.2")}
	value, err := claim.encode()
	if err == nil {
		_, err = c.store.Create(t.Context(), key("net", claim.Address), value)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.refuses(s, pod(3), sets, ipam.ErrTaken, claim.Address)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.allocate(s, pod(3), sets, claim.Address)
}

// TestLostLedger: the containers live, and so their addresses stay theirs.
func TestLostLedger(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Machine){
		"the ledger alone":   func(*Machine) {},
		"all that was there": func(m *Machine) { m.Instance = "new" },
		"and was renamed":    func(m *Machine) { m.Node = "new" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			m, sets := machine("n1"), set("10.0.0.1", "10.0.0.2")
			got := c.allocate(c.open(m), pod(1), sets)
			if err := os.Remove(c.ledger(m)); err != nil {
				t.Fatal(err)
			}
			change(&m)
			s := c.open(m)
			if err := errors.Join(s.Collect(t.Context(), []ipam.Attachment{pod(1)}), s.Check(t.Context(), pod(1), got)); err != nil {
				t.Error(err)
			}
			c.allocate(s, pod(2), sets)
			c.refuses(s, pod(3), sets, ipam.ErrFull)
			c.release(s, pod(1))
			c.release(s, pod(2))
			if claims := c.claimed(); len(claims) > 0 {
				t.Errorf("leaked: %v", claims)
			}
		})
	}
}

// TestOvertakenAllocate: a Release that comes while an Allocate runs leaves
// nothing, wherever it comes in between.
func TestOvertakenAllocate(t *testing.T) {
	t.Parallel()
	for allocated := range 9 {
		for released := range 6 {
			dir := t.TempDir()
			s, err := local.Open(filepath.Join(dir, "store"), local.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(1, dir, s, t.Fatalf)
			n := w.nodes[0]
			forward := func(p *process, calls int) {
				for i := 0; i < calls && slices.Contains(w.running, p); i++ {
					w.step(p, proceed)
				}
			}
			add := w.start(n, "add", pod(1), func(s *Space) error {
				_, err := s.Allocate(context.Background(), ipam.Request{Attachment: pod(1), Sets: worldSets[:1]})
				return err
			})
			forward(add, allocated)
			del := w.start(n, "del", pod(1), func(s *Space) error {
				_, err := s.Release(context.Background(), pod(1))
				return err
			})
			forward(del, released)
			forward(add, math.MaxInt)
			forward(del, math.MaxInt)
			space := w.open(n)
			v, err := space.look(t.Context())
			if left := v.leftovers(n.machine); err != nil || len(left) > 0 {
				t.Errorf("after %d calls of Allocate and %d of Release: %v, %v\n%s",
					allocated, released, left, err, strings.Join(w.history, "\n"))
			}
			_ = space.Close()
		}
	}
}

func TestReleaseNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	sets := set("10.0.0.1", "10.0.0.9")
	gone := machine("n1")
	c.allocate(c.open(gone), pod(1), sets)
	c.allocate(c.open(machine("n2")), pod(1), sets)
	c.allocate(c.open(Machine{Node: "n1", Instance: "successor", Boot: "x"}), pod(1), sets)
	if _, err := ReleaseNode(t.Context(), c.store, "net", "n1", ""); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("of two machines one was chosen: %v", err)
	}
	freed, err := ReleaseNode(t.Context(), c.store, "net", "n1", gone.Instance)
	if err != nil || len(freed) != 1 || freed[0].Machine != gone {
		t.Errorf("freed %v, %v", freed, err)
	}
	if freed, err = ReleaseNode(t.Context(), c.store, "net", "n1", ""); err != nil || len(freed) != 1 || len(c.claimed()) != 1 {
		t.Errorf("freed %v, %v; claimed are %v", freed, err, c.claimed())
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s, sets := c.open(machine("n1")), set("10.0.0.1", "10.0.0.9")
	got := c.allocate(s, pod(1), sets)
	if err := s.Check(t.Context(), pod(1), got); err != nil {
		t.Error(err)
	}
	if err := s.Check(t.Context(), pod(2), got); !errors.Is(err, ErrNotHeld) {
		t.Errorf("the ledger: %v", err)
	}
	if _, err := ReleaseNode(t.Context(), c.store, "net", "n1", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), pod(1), got); !errors.Is(err, ErrNotHeld) {
		t.Errorf("the store: %v", err)
	}
	c.allocate(c.open(machine("n2")), pod(7), sets, got[0])
	if err := s.Check(t.Context(), pod(1), got); !errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), "n2") {
		t.Errorf("another node: %v", err)
	}
	// An ADD that comes again has lost its address to the other node.
	if again := c.allocate(s, pod(1), sets); again[0] == got[0] {
		t.Errorf("%v was given twice", again)
	}
}

// TestCorrupt: a claim that can't be read is named, and nothing is given.
func TestCorrupt(t *testing.T) {
	t.Parallel()
	for key, value := range map[string]string{
		"addresses/net/10.0.0.1":       `{`,
		"addresses/net/10.0.0.300":     `{}`,
		"addresses/net/fd00:0::1":      `{}`,
		"addresses/net/10.0.0.1/extra": `{}`,
	} {
		c := newCluster(t)
		if _, err := c.store.Create(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
		message := c.refuses(c.open(machine("n1")), pod(1), set("10.0.0.1", "10.0.0.9"), store.ErrCorrupt)
		if !strings.Contains(message, key) {
			t.Errorf("%q doesn't name %s", message, key)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{Name: "net", Machine: Machine{Node: "n1"}},
		{Name: "net", Machine: Machine{Instance: "x"}},
		{Name: "a/b", Machine: machine("n1")},
		{Name: "", Machine: machine("n1")},
	} {
		if _, err := Open(&o); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestLeftover: a claim is a leftover unless the ledger has just this one.
func TestLeftover(t *testing.T) {
	t.Parallel()
	own, since := machine("n1"), time.Unix(1, 2)
	rebooted, renamed := own, own
	rebooted.Boot, renamed.Node = "before", "before"
	held := map[netip.Addr]ipam.Allocation{addr("10.0.0.1"): {Attachment: pod(1), Address: addr("10.0.0.1"), Since: since}}
	for _, test := range []struct {
		name string
		c    Claim
		want bool
	}{
		{"held", Claim{Machine: own, Address: addr("10.0.0.1"), Since: since}, false},
		{"held under the old name", Claim{Machine: renamed, Address: addr("10.0.0.1"), Since: since}, false},
		{"of another boot", Claim{Machine: rebooted, Address: addr("10.0.0.1"), Since: since}, true},
		{"of another time", Claim{Machine: own, Address: addr("10.0.0.1"), Since: since.Add(1)}, true},
		{"not held", Claim{Machine: own, Address: addr("10.0.0.2"), Since: since}, true},
		{"another node's", Claim{Machine: machine("n2"), Address: addr("10.0.0.2"), Since: since}, false},
	} {
		if got := (&view{held: held}).leftover(&test.c, own); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}
