package lease_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

const (
	ttl   = time.Hour
	fence = 10 * time.Minute
)

// look is the pause between two looks at the store.
const look = 30 * time.Second

// watch lets a node claim in vain, look after look, for the time of a notice.
func watch(t *testing.T, r *lease.Registry, clock *clock, c *lease.Claim) {
	t.Helper()
	for range lease.DefaultNotice / look {
		_, err := r.Acquire(t.Context(), c)
		wantError(t, err, lease.ErrNoBlock)
		clock.advance(look)
	}
}

// reclaim lets a node claim until the notice that it gave has passed.
func reclaim(t *testing.T, r *lease.Registry, clock *clock, c *lease.Claim) []lease.Lease {
	t.Helper()
	_, err := r.Acquire(t.Context(), c) // gives notice, which is seen from the next look on
	wantError(t, err, lease.ErrNoBlock)
	watch(t, r, clock, c)
	return acquire(t, r, c)
}

func openStore(t testing.TB) *local.Store {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{NoSync: true, LockTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newRegistry(t testing.TB) (*lease.Registry, *clock) {
	t.Helper()
	c := &clock{at: time.Unix(1_700_000_000, 0)}
	return registryOn(openStore(t), c), c
}

// registryOn is what one node has: what it sees is its own.
func registryOn(s store.Store, c *clock) *lease.Registry {
	return &lease.Registry{
		Store: s, TTL: ttl, Fence: fence, Now: c.now,
		Elapsed: func() time.Duration { return c.now().Sub(time.Unix(1_700_000_000, 0)) },
	}
}

func claim(n lease.Network, node string) *lease.Claim {
	return &lease.Claim{
		Network: n, Node: node,
		VTEP: lease.VTEP{Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, MAC: n.MAC(node)},
	}
}

func acquire(t *testing.T, r *lease.Registry, c *lease.Claim) []lease.Lease {
	t.Helper()
	leases, err := r.Acquire(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

func blocksOf(leases []lease.Lease) []netip.Prefix {
	blocks := make([]netip.Prefix, len(leases))
	for i := range leases {
		blocks[i] = leases[i].Block
	}
	return blocks
}

func revision(t *testing.T, r *lease.Registry) store.Revision {
	t.Helper()
	_, revision, err := r.Store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func wantError(t *testing.T, err, target error, parts ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q doesn't name %q", err, part)
		}
	}
}

func TestAcquireAgainChangesNothing(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	c := claim(network("pods", "10.244.0.0/16", "fd00:10:244::/48"), "a")
	first := acquire(t, r, c)
	if len(first) != 2 || first[0].Family() != lease.IPv4 || first[1].Family() != lease.IPv6 {
		t.Fatalf("got %v, want a block of each family", blocksOf(first))
	}
	before := revision(t, r)
	again := acquire(t, r, c)
	if !slices.Equal(blocksOf(again), blocksOf(first)) {
		t.Errorf("got %v, then %v", blocksOf(first), blocksOf(again))
	}
	if after := revision(t, r); after != before {
		t.Errorf("nothing changed, and yet revision %d became %d", before, after)
	}
}

// TestRejoin: a node that starts again finds its own blocks, whatever others
// took meanwhile, and tells them about its new VTEP.
func TestRejoin(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/22", "fd00::/62")
	first := acquire(t, r, claim(n, "a"))
	for _, other := range []string{"b", "c", "d"} {
		acquire(t, r, claim(n, other))
	}
	clock.advance(ttl - time.Second)
	c := claim(n, "a")
	c.VTEP.Underlay = []netip.Addr{netip.MustParseAddr("198.51.100.7")}
	again := acquire(t, r, c)
	if !slices.Equal(blocksOf(again), blocksOf(first)) {
		t.Errorf("got %v, then %v", blocksOf(first), blocksOf(again))
	}
	view, err := r.View(t.Context(), "pods")
	if err != nil {
		t.Fatal(err)
	}
	if len(view.Leases) != 8 {
		t.Errorf("there are %d leases, want 8", len(view.Leases))
	}
	for _, l := range view.Leases {
		if l.Node == "a" && (!l.VTEP.Equal(&c.VTEP) || !l.Expires.Equal(clock.now().Add(ttl))) {
			t.Errorf("the others see %+v", l)
		}
	}
}

func TestAcquireRenewsInTime(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	c := claim(network("pods", "10.244.0.0/16"), "a")
	first := acquire(t, r, c)[0]
	for _, test := range []struct {
		after   time.Duration
		renewed bool
	}{{ttl/3 - time.Second, false}, {ttl/6 + 2*time.Second, true}} {
		clock.advance(test.after)
		l := acquire(t, r, c)[0]
		if renewed := l.Expires.After(first.Expires); renewed != test.renewed || l.Block != first.Block {
			t.Errorf("%s later the lease is %+v", test.after, l)
		}
	}
}

func TestTwoNetworksOfOneNode(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	pods, storage := network("pods", "10.1.0.0/16"), network("storage", "10.2.0.0/16")
	storage.VNI = 5000
	a, b := acquire(t, r, claim(pods, "a")), acquire(t, r, claim(storage, "a"))
	if !pods.Contains(a[0].Block.Addr()) || !storage.Contains(b[0].Block.Addr()) || a[0].VTEP.MAC == b[0].VTEP.MAC {
		t.Errorf("leases are %+v and %+v", a, b)
	}
	if err := r.Release(t.Context(), "pods", "a"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"pods": 0, "storage": 1} {
		if view, err := r.View(t.Context(), name); err != nil || len(view.Leases) != want {
			t.Errorf("network %s has %v, %v, want %d leases", name, view.Leases, err, want)
		}
	}
}

func TestAllBlocksAreTaken(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/23")
	acquire(t, r, claim(n, "a"))
	acquire(t, r, claim(n, "b"))
	before := revision(t, r)
	_, err := r.Acquire(t.Context(), claim(n, "c"))
	wantError(t, err, lease.ErrNoBlock, "IPv4", "pods")
	clock.advance(ttl + fence - time.Second)
	_, err = r.Acquire(t.Context(), claim(n, "c"))
	wantError(t, err, lease.ErrNoBlock)
	if after := revision(t, r); after != before {
		t.Errorf("nothing was got, and yet revision %d became %d", before, after)
	}
}

// TestReclaim: a dead node's block goes to another when its owner can't have
// used it for longer than the fence, that of the longest dead first.
func TestReclaim(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/23")
	later := acquire(t, r, claim(n, "later"))[0]
	oldest := acquire(t, r, claim(n, "oldest"))[0]
	clock.advance(ttl / 2)
	acquire(t, r, claim(n, "later")) // renews it
	clock.advance(ttl/2 + fence - time.Second)
	if _, err := r.Acquire(t.Context(), claim(n, "new")); !errors.Is(err, lease.ErrNoBlock) {
		t.Fatalf("within the fence: %v, want no block", err)
	}
	clock.advance(ttl)
	got := reclaim(t, r, clock, claim(n, "new"))[0]
	if got.Block != oldest.Block || got.Node != "new" {
		t.Fatalf("got %+v, want the block that expired first, %s", got, oldest.Block)
	}
	_, err := r.Renew(t.Context(), []lease.Lease{oldest})
	wantError(t, err, lease.ErrLost, oldest.Block.String(), "new")
	if got := reclaim(t, r, clock, claim(n, "newer"))[0]; got.Block != later.Block {
		t.Errorf("got %s, want %s", got.Block, later.Block)
	}
	_, err = r.Acquire(t.Context(), claim(n, "oldest"))
	wantError(t, err, lease.ErrNoBlock)
}

// TestReclaimAtTheFence: the fence belongs to the owner to its last instant.
func TestReclaimAtTheFence(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		after   time.Duration
		noticed bool
	}{
		{"the last second within", ttl + fence - time.Second, false},
		{"when it is over", ttl + fence, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, clock := newRegistry(t)
			n := network("pods", "10.244.0.0/24")
			acquire(t, r, claim(n, "dead"))
			clock.advance(test.after)
			_, err := r.Acquire(t.Context(), claim(n, "new"))
			wantError(t, err, lease.ErrNoBlock)
			noticed := strings.Contains(err.Error(), "is taken unless it is renewed")
			if noticed != test.noticed {
				t.Errorf("got %v, want a notice: %t", err, test.noticed)
			}
		})
	}
}

// TestReclaimOnlyWithinTheNetwork: a lease that is left from when the network
// had other CIDRs is no block of it.
func TestReclaimOnlyWithinTheNetwork(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	acquire(t, r, claim(network("pods", "10.9.0.0/24"), "dead"))
	clock.advance(ttl + fence + time.Hour)
	n := network("pods", "10.244.0.0/24")
	acquire(t, r, claim(n, "a"))
	watch(t, r, clock, claim(n, "b"))
	watch(t, r, clock, claim(n, "b"))
}

func TestLeasesWithoutEndAreNotReclaimed(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	r.TTL = 0
	n := network("pods", "10.244.0.0/24")
	if l := acquire(t, r, claim(n, "a"))[0]; !l.Expires.IsZero() {
		t.Errorf("it expires: %+v", l)
	}
	clock.advance(100 * 365 * 24 * time.Hour)
	_, err := r.Acquire(t.Context(), claim(n, "b"))
	wantError(t, err, lease.ErrNoBlock)
}

func TestRenew(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	own := acquire(t, r, claim(network("pods", "10.244.0.0/16", "fd00::/48"), "a"))
	before := revision(t, r)
	if same, err := r.Renew(t.Context(), own); err != nil || !same[0].Expires.Equal(own[0].Expires) || revision(t, r) != before {
		t.Errorf("at once: %+v, %v", same, err)
	}
	clock.advance(ttl / 2)
	renewed, err := r.Renew(t.Context(), own)
	if err != nil || len(renewed) != 2 {
		t.Fatal(renewed, err)
	}
	for i, l := range renewed {
		if l.Block != own[i].Block || !l.Expires.Equal(clock.now().Add(ttl)) {
			t.Errorf("lease %d is %+v", i, l)
		}
	}
	if err := r.Release(t.Context(), "pods", "a"); err != nil {
		t.Fatal(err)
	}
	_, err = r.Renew(t.Context(), renewed)
	wantError(t, err, lease.ErrLost, own[0].Block.String())
}

// interfering does something before the first update that it is asked for.
type interfering struct {
	store.Store
	once sync.Once
	do   func(key string)
}

func (s *interfering) Update(ctx context.Context, key string, value []byte, at store.Revision) (store.Revision, error) {
	s.once.Do(func() { s.do(key) })
	return s.Store.Update(ctx, key, value, at)
}

func TestRenewWhileOthersWrite(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		do   func(*testing.T, *lease.Registry, lease.Network)
		want error
	}{
		{"another task of ours renews", func(t *testing.T, r *lease.Registry, n lease.Network) { acquire(t, r, claim(n, "a")) }, nil},
		{"it is released", func(t *testing.T, r *lease.Registry, _ lease.Network) {
			if err := r.Release(t.Context(), "pods", "a"); err != nil {
				t.Error(err)
			}
		}, lease.ErrLost},
		{"it goes to another node", func(t *testing.T, r *lease.Registry, n lease.Network) {
			if err := r.Release(t.Context(), "pods", "a"); err != nil {
				t.Error(err)
			}
			acquire(t, r, claim(n, "b"))
		}, lease.ErrLost},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, clock := newRegistry(t)
			n := network("pods", "10.244.0.0/24")
			own := acquire(t, r, claim(n, "a"))
			clock.advance(ttl / 2)
			plain := registryOn(r.Store, clock)
			r.Store = &interfering{Store: plain.Store, do: func(string) { test.do(t, plain, n) }}
			if _, err := r.Renew(t.Context(), own); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := network("pods", "10.244.0.0/24")
	acquire(t, r, claim(n, "a"))
	for _, node := range []string{"stranger", "a", "a"} { // the last finds nothing
		if err := r.Release(t.Context(), "pods", node); err != nil {
			t.Fatal(err)
		}
	}
	if got := acquire(t, r, claim(n, "b")); got[0].Block != n.CIDRs[0] {
		t.Errorf("got %v", got)
	}
}

func TestCorruptLease(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := network("pods", "10.244.0.0/16")
	own := acquire(t, r, claim(n, "a"))
	good, err := r.Store.Get(t.Context(), own[0].Key())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, key string
		value     []byte
	}{
		{"not JSON", "leases/pods/10.244.200.0-24", []byte("{")},
		{"a lease copied to another key", "leases/pods/10.244.201.0-24", good.Value},
	} {
		t.Run(test.name, func(t *testing.T) {
			at, err := r.Store.Create(t.Context(), test.key, test.value)
			if err != nil {
				t.Fatal(err)
			}
			before := revision(t, r)
			_, err = r.View(t.Context(), "pods")
			wantError(t, err, store.ErrCorrupt, test.key)
			_, err = r.Acquire(t.Context(), claim(n, "b"))
			wantError(t, err, store.ErrCorrupt, test.key)
			wantError(t, r.Release(t.Context(), "pods", "a"), store.ErrCorrupt, test.key)
			if revision(t, r) != before {
				t.Error("something was written in a store that isn't understood")
			}
			if err := r.Store.Delete(t.Context(), test.key, at); err != nil {
				t.Fatal(err)
			}
		})
	}
	if _, err := r.Store.Update(t.Context(), good.Key, []byte("null"), good.Revision); err != nil {
		t.Fatal(err)
	}
	_, err = r.Renew(t.Context(), own)
	wantError(t, err, store.ErrCorrupt, good.Key)
}

func TestJoin(t *testing.T) {
	t.Parallel()
	pods := network("pods", "10.244.0.0/16", "fd00::/48")
	open := pods
	open.Open = true
	for _, test := range []struct {
		name  string
		n     lease.Network
		vni   uint32
		parts []string // of the error; none: no error
	}{
		{"the same", network("pods", "10.244.0.0/16", "fd00::/48"), 4096, nil},
		{"another beside it", network("storage", "10.9.0.0/16"), 5000, nil},
		{"with another CIDR", network("pods", "10.9.0.0/16"), 4096, []string{"pods", "10.9.0.0/16", "10.244.0.0/16"}},
		{"with another VNI", network("pods", "10.244.0.0/16", "fd00::/48"), 7, []string{"pods", "vni 4096, not 7"}},
		{"open to others", open, 4096, []string{"pods", "open false, not true"}},
		{"another that overlaps", network("storage", "10.244.8.0/21"), 5000, []string{"storage", "pods", "cidrs[0]", "10.244.8.0/21", "10.244.0.0/16"}},
		{"another with the same VNI", network("storage", "10.9.0.0/16"), 4096, []string{"storage", "pods", "vni", "4096"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, _ := newRegistry(t)
			if _, err := r.Join(t.Context(), &pods); err != nil {
				t.Fatal(err)
			}
			before := revision(t, r)
			test.n.VNI = test.vni
			_, err := r.Join(t.Context(), &test.n)
			networks, listErr := r.Networks(t.Context())
			if listErr != nil {
				t.Fatal(listErr)
			}
			if test.parts == nil {
				if err != nil || !slices.ContainsFunc(networks, func(n lease.Network) bool { return n.Equal(&test.n) }) {
					t.Errorf("registered are %+v, %v", networks, err)
				}
				return
			}
			wantError(t, err, lease.ErrConflict, test.parts...)
			if revision(t, r) != before || len(networks) != 1 || !networks[0].Equal(&pods) {
				t.Errorf("registered are now %+v", networks)
			}
		})
	}
}

// TestJoinAtOnce: of networks that exclude each other one is registered, even
// when none is there yet as each looks; and it is the same for all nodes.
func TestJoinAtOnce(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	const rivals, nodes = 6, 4
	joined := make([][nodes]error, rivals)
	var all sync.WaitGroup
	for i := range rivals {
		for j := range nodes {
			all.Go(func() {
				n := network(fmt.Sprintf("n%d", i), "10.244.0.0/16")
				_, joined[i][j] = r.Join(context.Background(), &n)
			})
		}
	}
	all.Wait()
	networks, err := r.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(networks) > 1 {
		t.Errorf("registered are %d networks that exclude each other: %+v", len(networks), networks)
	}
	for i := range rivals {
		for j, err := range joined[i] {
			if err == nil && (len(networks) != 1 || networks[0].Name != fmt.Sprintf("n%d", i)) {
				t.Errorf("node %d joined n%d, but registered is %+v", j, i, networks)
			}
			if err != nil && !errors.Is(err, lease.ErrConflict) {
				t.Errorf("node %d, network n%d: %v", j, i, err)
			}
		}
	}
}

func TestCorruptNetwork(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"not JSON":            `{`,
		"another's name":      `{"name":"storage","cidrs":["10.9.0.0/16"]}`,
		"null":                `null`,
		"a CIDR of two dots":  `{"name":"pods","cidrs":["10.9.0/16"]}`,
		"a VNI of 5 billions": `{"name":"pods","vni":5000000000}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := newRegistry(t)
			if _, err := r.Store.Create(t.Context(), "networks/pods", []byte(value)); err != nil {
				t.Fatal(err)
			}
			n := network("pods", "10.244.0.0/16")
			_, err := r.Join(t.Context(), &n)
			wantError(t, err, store.ErrCorrupt, "networks/pods")
		})
	}
}

// TestNodesStartAtOnce: every node gets a block that no other has, however
// many want one at the same time, and though few or none are left over.
func TestNodesStartAtOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		nodes int
		cidrs []string
	}{
		{20, []string{"10.244.0.0/19", "fd00:10:244::/59"}}, // 32 blocks
		{500, []string{"10.244.0.0/15"}},                    // 512 blocks
		{500, []string{"fd00:10:244::/55"}},
	} {
		n := network("pods", test.cidrs...)
		t.Run(fmt.Sprintf("%d nodes in %v", test.nodes, test.cidrs), func(t *testing.T) {
			t.Parallel()
			r, _ := newRegistry(t)
			got := make([][]lease.Lease, test.nodes)
			var all sync.WaitGroup
			for i := range test.nodes {
				all.Go(func() {
					var err error
					if got[i], err = r.Acquire(context.Background(), claim(n, fmt.Sprintf("node-%d", i))); err != nil {
						t.Errorf("node %d: %v", i, err)
					}
				})
			}
			all.Wait()
			owner := map[netip.Prefix]int{}
			for i, leases := range got {
				if len(leases) != len(n.Families()) {
					t.Fatalf("node %d has %v", i, blocksOf(leases))
				}
				for _, l := range leases {
					if other, ok := owner[l.Block]; ok || !n.Contains(l.Block.Addr()) || l.Block.Bits() != n.BlockLength.Of(l.Family()) {
						t.Errorf("block %s of node %d is also node %d's", l.Block, i, other)
					}
					owner[l.Block] = i
				}
			}
		})
	}
}

// TestReclaimAtOnce: one dead node's block goes to one of many that want it.
func TestReclaimAtOnce(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/24")
	acquire(t, r, claim(n, "dead"))
	clock.advance(ttl + fence)
	const nodes = 20
	errs := make([]error, nodes)
	for range 2 + lease.DefaultNotice/look { // to say so, to wait, and to take it
		var all sync.WaitGroup
		for i := range nodes {
			all.Go(func() { _, errs[i] = r.Acquire(context.Background(), claim(n, fmt.Sprintf("node-%d", i))) })
		}
		all.Wait()
		clock.advance(look)
	}
	winners := 0
	for _, err := range errs {
		if err == nil {
			winners++
		} else if !errors.Is(err, lease.ErrNoBlock) {
			t.Error(err)
		}
	}
	if winners != 1 {
		t.Errorf("%d nodes got the one block", winners)
	}
}

// TestWatchSeesOtherNetworks: their pods are kept apart from its own.
func TestWatchSeesOtherNetworks(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	pods, storage := network("pods", "10.1.0.0/16"), network("storage", "10.2.0.0/16")
	storage.VNI = 7
	other := &lease.Registry{Store: r.Store} // of another node
	for _, change := range []func(n *lease.Network) error{
		func(n *lease.Network) error { _, err := other.Join(t.Context(), n); return err },
		func(n *lease.Network) error { n.Open = true; return other.ApplyNetwork(t.Context(), n) },
		func(n *lease.Network) error { return other.Forget(t.Context(), n.Name) },
	} {
		if _, err := r.Join(t.Context(), &pods); err != nil { // which reads them
			t.Fatal(err)
		}
		if err := change(&storage); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		woken := false
		wantError(t, r.Watch(ctx, "pods", func() { woken = true; cancel() }), context.Canceled, "pods")
		if !woken {
			t.Fatal("it wasn't woken")
		}
	}
}

func TestWatchWakesForItsNetworkAlone(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	pods, storage := network("pods", "10.1.0.0/16"), network("storage", "10.2.0.0/16")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	woken, ended := make(chan struct{}, 10), make(chan error, 1)
	go func() {
		ended <- r.Watch(ctx, "pods", func() { woken <- struct{}{} })
	}()
	acquire(t, r, claim(storage, "a"))
	acquire(t, r, claim(pods, "a"))
	select {
	case <-woken:
	case err := <-ended:
		t.Fatal(err)
	}
	cancel()
	wantError(t, <-ended, context.Canceled, "pods")
	if len(woken) != 0 {
		t.Errorf("it was woken %d times more", len(woken))
	}
}
