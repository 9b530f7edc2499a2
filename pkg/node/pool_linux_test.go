package node_test

// Pooled networks: blocks come and go with the pods.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

func pool(cidr string, length int) lease.Pool {
	return lease.Pool{CIDR: netip.MustParsePrefix(cidr), BlockLength: length}
}

// joinPools is a member whose network has pools: blocks of 16 addresses, of which
// pods can have 14, and 15 of IPv6.
func joinPools(t testing.TB, h *lab.Node, dir string, pools ...lease.Pool) *member {
	t.Helper()
	m := join(t, h, dir)
	m.Spec = lease.Network{Name: "pods", Pools: pools}.Complete()
	return m
}

func newPooled(t testing.TB, pools ...lease.Pool) *member {
	t.Helper()
	return joinPools(t, labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a"), t.TempDir(), pools...)
}

func (m *member) ledger(t testing.TB) *ipam.Ledger {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.Ledger), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := ipam.OpenLedger(m.Ledger, ipam.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func pod(i int) ipam.Attachment {
	return ipam.Attachment{ContainerID: fmt.Sprintf("pod-%d", i), Interface: "eth0"}
}

// take gives pods addresses of the node's blocks, as ADD does.
func take(t testing.TB, l *ipam.Ledger, s *nodestate.State, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := l.Allocate(t.Context(), ipam.Request{Attachment: pod(i), Sets: blocks.PodRanges(s.Blocks())}); err != nil {
			t.Fatalf("pod %d: %v", i, err)
		}
	}
}

func release(t testing.TB, l *ipam.Ledger, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := l.Release(t.Context(), pod(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantBlocks checks how many blocks the state, the store and the kernel have.
func (m *member) wantBlocks(t testing.TB, s *nodestate.State, when string, want int) {
	t.Helper()
	view, err := m.Registry.View(t.Context(), "pods")
	if err != nil {
		t.Fatal(err)
	}
	leases := 0
	for _, l := range view.Leases {
		if l.Node == m.Node {
			leases++
		}
	}
	routes := m.command(t, "ip route show type blackhole; ip -6 route show type blackhole")
	if len(s.Blocks()) != want || leases != want || strings.Count(routes, "blackhole") != want {
		t.Errorf("%s: want %d blocks; state %v, %d leases, routes\n%s", when, want, s.Blocks(), leases, routes)
	}
}

func TestBlocksFollowThePods(t *testing.T) {
	t.Parallel()
	m := newPooled(t, pool("10.244.0.0/24", 28), pool("fd00:10:244::/64", 124))
	m.Grace = time.Nanosecond
	first := m.mustSync(t)
	m.wantBlocks(t, first, "at first", 2)
	l := m.ledger(t)
	take(t, l, first, 0, 11) // leaves 3 of 14, 4 of 15
	m.wantBlocks(t, m.mustSync(t), "a quarter is free", 2)
	take(t, l, first, 11, 13)
	both := m.mustSync(t)
	m.wantBlocks(t, both, "less than a quarter is free", 4)
	if !slices.Equal(both.VTEP.Addresses(), first.VTEP.Addresses()) {
		t.Errorf("the node's own addresses became %v, were %v", both.VTEP.Addresses(), first.VTEP.Addresses())
	}
	take(t, l, both, 13, 20)
	release(t, l, 0, 13)
	m.wantBlocks(t, m.mustSync(t), "the new blocks are in use", 4)
	release(t, l, 13, 20)
	m.mustSync(t) // sees that they are empty
	rest := m.mustSync(t)
	m.wantBlocks(t, rest, "the new blocks are empty", 2)
	if !slices.Equal(rest.Blocks(), first.Blocks()) {
		t.Errorf("left are %v, want the first, %v", rest.Blocks(), first.Blocks())
	}
	// An ADD that has read the old state gets nothing of what was given back.
	for i := range 14 {
		got, err := l.Allocate(t.Context(), ipam.Request{Attachment: pod(100 + i), Sets: blocks.PodRanges(both.Blocks())})
		if err != nil || !slices.ContainsFunc(rest.Blocks(), func(p netip.Prefix) bool { return p.Contains(got[0]) }) {
			t.Fatalf("got %v, %v, of blocks %v", got, err, rest.Blocks())
		}
	}
	_, err := l.Allocate(t.Context(), ipam.Request{Attachment: pod(200), Sets: blocks.PodRanges(both.Blocks())})
	if !errors.Is(err, ipam.ErrFull) {
		t.Errorf("got %v, want that the first block is full", err)
	}
	again := m.mustSync(t)
	m.wantBlocks(t, again, "full again", 4)
	take(t, l, again, 300, 310) // of blocks that were given back, and are admitted again
}

func TestBlockStaysWithinItsGrace(t *testing.T) {
	t.Parallel()
	m := newPooled(t, pool("10.244.0.0/24", 28))
	m.Grace = time.Hour
	l := m.ledger(t)
	take(t, l, m.mustSync(t), 0, 13)
	m.wantBlocks(t, m.mustSync(t), "nearly full", 2)
	release(t, l, 0, 13)
	m.mustSync(t)
	m.wantBlocks(t, m.mustSync(t), "empty for less than the grace", 2)
}

// TestGivingBackWasCutShort: a daemon that died between withdrawing a block and
// releasing its lease goes on where it was, or uses the block again.
func TestGivingBackWasCutShort(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pods, want int
	}{"not needed": {5, 1}, "needed": {14, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newPooled(t, pool("10.244.0.0/24", 28))
			m.Grace = time.Hour
			l := m.ledger(t)
			take(t, l, m.mustSync(t), 0, 13)
			both := m.mustSync(t)
			release(t, l, test.pods, 13)
			if err := l.Withdraw(t.Context(), blocks.PodRange(both.Blocks()[1])); err != nil {
				t.Fatal(err)
			}
			take(t, l, both, 13, test.pods)
			s := m.mustSync(t)
			m.wantBlocks(t, s, name, test.want)
			take(t, l, s, 20, 22)
			if gone, err := l.Withdrawn(t.Context()); err != nil || test.want == 2 && len(gone) > 0 {
				t.Errorf("withdrawn are %v, %v", gone, err)
			}
		})
	}
}

// TestPoolIsExhausted: the node keeps what it has, and says what it lacks.
func TestPoolIsExhausted(t *testing.T) {
	t.Parallel()
	m := newPooled(t, pool("10.244.0.0/28", 28))
	l := m.ledger(t)
	take(t, l, m.mustSync(t), 0, 14)
	s := m.mustSync(t)
	m.wantBlocks(t, s, "exhausted", 1)
	if !strings.Contains(s.Problem, "no free block of IPv4 in network pods") {
		t.Errorf("the state says %q", s.Problem)
	}
	release(t, l, 0, 14)
	if s := m.mustSync(t); s.Problem != "" {
		t.Errorf("the state still says %q", s.Problem)
	}
}

// TestPoolGrows: one node brings a pool; the others use and route it.
func TestPoolGrows(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	dir := t.TempDir()
	old := joinPools(t, labtest.Node(t, l, "n1", "a"), dir, pool("10.244.0.0/28", 28))
	ledger := old.ledger(t)
	take(t, ledger, old.mustSync(t), 0, 14)
	if s := old.mustSync(t); s.Problem == "" {
		t.Fatal("the pool isn't exhausted")
	}
	grown := joinPools(t, labtest.Node(t, l, "n2", "a"), dir, pool("10.244.0.0/28", 28), pool("10.9.0.0/24", 28))
	there := grown.mustSync(t)
	s := old.mustSync(t)
	old.wantBlocks(t, s, "grown", 2)
	take(t, ledger, s, 14, 20)
	if rules := old.command(t, "nft list ruleset"); !strings.Contains(rules, "10.9.0.0/24") {
		t.Errorf("the rules don't know the new pool:\n%s", rules)
	}
	grown.mustSync(t)
	if routes := grown.command(t, "ip route"); !strings.Contains(routes, s.Blocks()[1].String()+" via") {
		t.Errorf("no route to %s:\n%s", s.Blocks()[1], routes)
	}
	if _, err := old.host.Ping(t.Context(), there.VTEP.Addresses()[0]); err != nil {
		t.Error(err)
	}
}

// TestWatchSeesDemand: addresses that are taken wake the daemon when, and only
// when, another block is needed.
func TestWatchSeesDemand(t *testing.T) {
	t.Parallel()
	m := newPooled(t, pool("10.244.0.0/24", 28))
	s := m.mustSync(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	woken := make(chan struct{}, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- m.host.Do(func() error { return m.Watch(ctx, func() { woken <- struct{}{} }) })
	}()
	l := m.ledger(t)
	for i := 0; len(woken) == 0 && i < 14; i++ {
		take(t, l, s, i, i+1)
		if i < 10 && len(woken) > 0 {
			t.Fatalf("woken with %d addresses taken", i+1)
		}
	}
	select {
	case <-woken:
	case err := <-ended:
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestBlockOfRunningPodsStays: though the ledger, wrongly, says that it is empty.
func TestBlockOfRunningPodsStays(t *testing.T) {
	t.Parallel()
	m := newPooled(t, pool("10.244.0.0/24", 28))
	m.Grace = time.Nanosecond
	l := m.ledger(t)
	take(t, l, m.mustSync(t), 0, 13)
	both := m.mustSync(t)
	take(t, l, both, 13, 15)
	m.attach(t, pod(14), addressesOf(t, l, pod(14))...)
	release(t, l, 0, 15)
	m.mustSync(t)
	s := m.mustSync(t)
	m.wantBlocks(t, s, "a pod runs", 2)
	if !strings.Contains(s.Problem, "container pod-14") {
		t.Errorf("the state says %q", s.Problem)
	}
}
