package lease_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// pooled returns a network of pools, such as "10.244.0.0/16 26".
func pooled(name string, pools ...string) lease.Network {
	n := lease.Network{Name: name}
	for _, text := range pools {
		var cidr string
		var p lease.Pool
		if _, err := fmt.Sscanf(text, "%s %d", &cidr, &p.BlockLength); err != nil {
			cidr = text
		}
		p.CIDR = netip.MustParsePrefix(cidr)
		n.Pools = append(n.Pools, p)
	}
	return n.Complete()
}

func asWindows(n lease.Network) lease.Network {
	n.Windows = true
	return n
}

func TestPools(t *testing.T) {
	t.Parallel()
	n := pooled("pods", "10.244.0.0/16", "10.9.0.0/28", "fd00::/64", "10.8.0.0/20 24")
	var lengths []int
	for i := range n.Pools {
		lengths = append(lengths, n.Pools[i].BlockLength)
	}
	if !slices.Equal(lengths, []int{26, 28, 122, 24}) || len(n.CIDRs) != 4 || n.CIDRs[3] != n.Pools[3].CIDR {
		t.Errorf("lengths %v, CIDRs %v", lengths, n.CIDRs)
	}
	if err := n.Validate(); err != nil {
		t.Error(err)
	}
	plain := lease.Network{Name: "pods", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, BlockLength: lease.BlockLength{IPv4: 30}}
	lowVNI := asWindows(pooled("pods", "10.244.0.0/16"))
	lowVNI.VNI = 4095
	both := pooled("pods", "10.244.0.0/16")
	both.BlockLength.IPv4 = 24
	both6 := pooled("pods", "10.244.0.0/16")
	both6.BlockLength.IPv6 = 64
	for name, test := range map[string]struct {
		n    lease.Network
		want string // "": valid
	}{
		"overlap":               {pooled("pods", "10.244.0.0/16", "10.244.3.0/24"), `pools[1].cidr: "10.244.3.0/24": overlaps pools[0].cidr, 10.244.0.0/16`},
		"a block too large":     {pooled("pods", "10.244.0.0/16 8"), `pools[0].blockLength: "8": must be within 16..30`},
		"a block too small":     {pooled("pods", "10.244.0.0/16", "fd00::/64 127"), `pools[1].blockLength: "127": must be within 64..126`},
		"host bits":             {pooled("pods", "10.244.0.1/16"), "pools[0].cidr"},
		"both kinds":            {both, `blockLength.ipv4: "24": is each pool's own where there are pools`},
		"both kinds, IPv6":      {both6, `blockLength.ipv6: "64": is each pool's own where there are pools`},
		"Windows":               {asWindows(pooled("pods", "10.244.0.0/16 29")), ""},
		"Windows, small blocks": {asWindows(pooled("pods", "10.244.0.0/16 30")), `pools[0].blockLength: "30": must be at most 29`},
		"Windows, IPv6":         {asWindows(pooled("pods", "fd00::/64 126")), ""},
		"Windows, low VNI":      {lowVNI, `vni: "4095": must be within 4096..65535`},
		"Windows without pools": {asWindows(plain.Complete()), `blockLength.ipv4: "30": must be at most 29`},
	} {
		err := test.n.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// TestGrow: every node brings the pools it knows, and all of them see all.
func TestGrow(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	const nodes = 8
	var all sync.WaitGroup
	for i := range nodes {
		all.Go(func() {
			n := pooled("pods", "10.244.0.0/16", fmt.Sprintf("10.%d.0.0/16", i))
			if _, err := r.Join(context.Background(), &n); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	n := pooled("pods", "10.3.0.0/16")
	before := revision(t, r)
	joined, err := r.Join(t.Context(), &n)
	if err != nil || len(joined.CIDRs) != nodes+1 || len(joined.Pools) != nodes+1 || joined.CIDRs[0] != n.CIDRs[0] || !n.Within(&joined) {
		t.Errorf("joined %+v, %v", joined, err)
	}
	if other := pooled("pods", "10.99.0.0/16"); other.Within(&joined) {
		t.Error("a network is within one that lacks its pool")
	}
	if revision(t, r) != before {
		t.Error("nothing is new, and yet it was written")
	}
}

func TestGrowIsRefused(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	for _, n := range []lease.Network{pooled("pods", "10.244.0.0/16 26"), network("storage", "10.9.0.0/16")} {
		n.MTU = 1200 // which IPv6 can't have
		if n.Name == "storage" {
			n.VNI = 5000
		}
		if _, err := r.Join(t.Context(), &n); err != nil {
			t.Fatal(err)
		}
	}
	before := revision(t, r)
	for _, test := range []struct {
		n     lease.Network
		parts []string
	}{
		{pooled("pods", "10.244.0.0/16 27"), []string{"pods", "blockLength 26 and 27 of pool 10.244.0.0/16"}},
		{pooled("pods", "10.244.0.0/15"), []string{"pool 10.244.0.0/16 beside 10.244.0.0/15"}},
		{pooled("pods", "10.244.0.0/16", "10.9.8.0/24"), []string{"pods", "pools[1].cidr", "10.9.8.0/24", "storage"}},
		{network("pods", "10.244.0.0/16"), []string{"pools", "cidrs"}},
		{asWindows(pooled("pods", "10.244.0.0/16")), []string{"windows false, not true"}},
		{pooled("pods", "10.244.0.0/16", "fd00::/64"), []string{"mtu", "1200", "pods"}},
	} {
		_, err := r.Join(t.Context(), &test.n)
		wantError(t, err, lease.ErrConflict, test.parts...)
	}
	if revision(t, r) != before {
		t.Error("a refused network was written")
	}
}

// TestGrowAtOnce: of a network and a pool of another that exclude each other,
// one is registered.
func TestGrowAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		r, _ := newRegistry(t)
		small, grown := pooled("pods", "10.244.0.0/16"), pooled("pods", "10.244.0.0/16", "10.9.0.0/16")
		rival := network("storage", "10.9.0.0/16")
		rival.VNI = 5000
		if _, err := r.Join(t.Context(), &small); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		var errs [2]error
		for i, n := range []lease.Network{grown, rival} {
			all.Go(func() { _, errs[i] = r.Join(context.Background(), &n) })
		}
		all.Wait()
		networks, err := r.Networks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hasGrown, hasRival := len(networks[0].Pools) == 2, len(networks) == 2
		if hasGrown && hasRival || hasGrown != (errs[0] == nil) || hasRival != (errs[1] == nil) {
			t.Fatalf("registered are %+v, errors %v", networks, errs)
		}
	}
}

func TestExtend(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := pooled("pods", "10.244.0.0/24", "fd00::/120")
	c, other := claim(n, "a"), claim(n, "b")
	own := acquire(t, r, c)
	if len(own) != 2 || own[0].Block.Bits() != 26 || own[1].Block.Bits() != 122 {
		t.Fatalf("acquired %v", blocksOf(own))
	}
	acquire(t, r, other)
	for range 2 {
		l, err := r.Extend(t.Context(), c, lease.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, l)
	}
	_, err := r.Extend(t.Context(), c, lease.IPv4)
	wantError(t, err, lease.ErrNoBlock, "IPv4", "pods", "a")
	want := []netip.Prefix{own[0].Block, own[2].Block, own[3].Block, own[1].Block}
	if again := acquire(t, r, c); !slices.Equal(blocksOf(again), want) {
		t.Errorf("acquired %v again, want %v: in the order in which they were claimed", blocksOf(again), want)
	}
	if err := r.ReleaseBlock(t.Context(), &own[2]); err != nil {
		t.Fatal(err)
	}
	if err := r.ReleaseBlock(t.Context(), &own[2]); err != nil {
		t.Errorf("released again: %v", err)
	}
	got, err := r.Extend(t.Context(), other, lease.IPv4)
	if err != nil || got.Block != own[2].Block {
		t.Errorf("got %v, %v, want the block given back, %s", got.Block, err, own[2].Block)
	}
	if err := r.ReleaseBlock(t.Context(), &own[2]); err != nil { // it is another's by now
		t.Error(err)
	}
	if again := acquire(t, r, other); len(again) != 3 {
		t.Errorf("the other's blocks are %v", blocksOf(again))
	}
}

func TestNodeSelector(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := pooled("pods", "10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24")
	n.Pools[0].NodeSelector = map[string]string{"zone": "a"}
	n.Pools[1].NodeSelector = map[string]string{"zone": "b", "disk": "ssd"}
	for _, test := range []struct {
		node   string
		labels map[string]string
		want   string
	}{
		{"n1", map[string]string{"zone": "a", "disk": "ssd"}, "10.1.0.0/24"},
		{"n2", map[string]string{"zone": "b"}, "10.3.0.0/24"},
		{"n3", map[string]string{"zone": "b", "disk": "ssd"}, "10.2.0.0/24"},
		{"n4", nil, "10.3.0.0/24"},
	} {
		c := claim(n, test.node)
		c.Labels = test.labels
		if got := acquire(t, r, c)[0].Block; !netip.MustParsePrefix(test.want).Contains(got.Addr()) {
			t.Errorf("node %s with %v got %s, want one of %s", test.node, test.labels, got, test.want)
		}
	}
	n.Pools[2].NodeSelector = map[string]string{"zone": "c"}
	_, err := r.Acquire(t.Context(), claim(n, "n5"))
	wantError(t, err, lease.ErrNoBlock, "n5")
	acquire(t, r, claim(n, "n4")) // has its block already
}

// TestFamilyOfOtherNodes: a node comes up without the family whose pools select
// others.
func TestFamilyOfOtherNodes(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := pooled("pods", "10.244.0.0/16", "fd00::/64")
	n.Pools[1].NodeSelector = map[string]string{"zone": "b"}
	if own := acquire(t, r, claim(n, "a")); len(own) != 1 || own[0].Family() != lease.IPv4 {
		t.Errorf("acquired %v", blocksOf(own))
	}
	n.Pools[0].NodeSelector = n.Pools[1].NodeSelector
	_, err := r.Acquire(t.Context(), claim(n, "c"))
	wantError(t, err, lease.ErrNoBlock, "no pool of network pods selects node c")
}

// TestNotice: a block whose lease has expired isn't taken from an owner who is
// still there, whatever the clock of whoever wants it says.
func TestNotice(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/24")
	own := acquire(t, r, claim(n, "owner"))
	ahead := registryOn(r.Store, clock)
	ahead.Now = func() time.Time { return clock.now().Add(1000 * time.Hour) }
	for range 3 {
		_, err := ahead.Acquire(t.Context(), claim(n, "hasty"))
		wantError(t, err, lease.ErrNoBlock, "owner", "unless it is renewed")
		watch(t, ahead, clock, claim(n, "hasty"))
		if again := acquire(t, r, claim(n, "owner")); again[0].Block != own[0].Block || again[0].Notice != nil {
			t.Fatalf("the owner has %+v", again)
		}
	}
	watch(t, ahead, clock, claim(n, "hasty"))
	if renewed, err := r.Renew(t.Context(), own); err != nil || renewed[0].Notice != nil {
		t.Fatalf("renewed %+v, %v", renewed, err)
	}
	// And now the owner is silent.
	if got := reclaim(t, ahead, clock, claim(n, "hasty"))[0]; got.Block != own[0].Block || got.Notice != nil {
		t.Errorf("got %+v", got)
	}
}

// TestNoticeWhileTheStoreIsAway: the time in which nobody could object doesn't
// count, nor does that by which a clock is set forward.
func TestNoticeWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/24")
	acquire(t, r, claim(n, "owner"))
	clock.advance(ttl + fence)
	_, err := r.Acquire(t.Context(), claim(n, "other"))
	wantError(t, err, lease.ErrNoBlock, "unless it is renewed")
	for range 3 {
		_, err = r.Acquire(t.Context(), claim(n, "other"))
		wantError(t, err, lease.ErrNoBlock)
		clock.advance(time.Hour) // in which it doesn't see the store
	}
	elapsed := r.Elapsed
	at := elapsed()
	r.Elapsed = func() time.Duration { return at }
	_, err = r.Acquire(t.Context(), claim(n, "other"))
	wantError(t, err, lease.ErrNoBlock)
	clock.advance(1000 * time.Hour) // of the clock that is set alone
	_, err = r.Acquire(t.Context(), claim(n, "other"))
	wantError(t, err, lease.ErrNoBlock)
	r.Elapsed = elapsed
	watch(t, r, clock, claim(n, "other"))
	acquire(t, r, claim(n, "other"))
}

// TestNoticeOfTheDead: who gave notice and is gone doesn't keep the block from
// others for good.
func TestNoticeOfTheDead(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	n := network("pods", "10.244.0.0/24")
	acquire(t, r, claim(n, "dead"))
	clock.advance(ttl + fence)
	_, err := r.Acquire(t.Context(), claim(n, "dying"))
	wantError(t, err, lease.ErrNoBlock)
	before := revision(t, r)
	watch(t, r, clock, claim(n, "patient"))
	watch(t, r, clock, claim(n, "patient"))
	if after := revision(t, r); after != before {
		t.Error("what another is about to take was taken notice of")
	}
	reclaim(t, r, clock, claim(n, "patient"))
}

// TestOneFamilyIsMissing: a node keeps, and renews, what it has, when it can't
// get a block of another family.
func TestOneFamilyIsMissing(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	acquire(t, r, claim(pooled("pods", "10.244.0.0/28 28"), "other"))
	acquire(t, r, claim(pooled("pods", "fd00::/124 124"), "a"))
	clock.advance(ttl / 2)
	both := pooled("pods", "10.244.0.0/28 28", "fd00::/124 124")
	own, err := r.Acquire(t.Context(), claim(both, "a"))
	wantError(t, err, lease.ErrNoBlock, "IPv4")
	if len(own) != 1 || own[0].Expires.Sub(clock.now()) < ttl-time.Second {
		t.Errorf("got %+v", own)
	}
}

func TestWatchSeesPools(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := pooled("pods", "10.1.0.0/24")
	if _, err := r.Join(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Watch(ctx, "pods", cancel) }()
	n = pooled("pods", "10.1.0.0/24", "10.2.0.0/24")
	other := &lease.Registry{Store: r.Store}
	if _, err := other.Join(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-ended, context.Canceled)
}
