package lease_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// TestLapsedLeaseIsNoPeer: when a lease has expired for good, the others no
// longer see it; until then they do.
func TestLapsedLeaseIsNoPeer(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	acquire(t, r, claim(network("pods", "10.244.0.0/16"), "a"))
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{ttl + time.Second, 1}, {lease.DefaultFence, 0}} {
		clock.advance(test.after)
		if view, err := r.View(t.Context(), "pods"); err != nil || len(view.Leases) != test.want {
			t.Errorf("%s later there are %d leases (%v), want %d", test.after, len(view.Leases), err, test.want)
		}
	}
}

// TestBlocksHadBefore: a node whose leases are gone takes the blocks that it had,
// if nobody else has them by now.
func TestBlocksHadBefore(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	n := network("pods", "10.244.0.0/16")
	c := claim(n, "a")
	for _, had := range []string{"10.244.200.0/24", "10.244.0.0/24", "10.244.255.0/24"} {
		c.Had = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("10.244.0.0/25"), netip.MustParsePrefix(had)}
		if got := acquire(t, r, c)[0].Block.String(); got != had {
			t.Errorf("the node got %s, want %s, which it had", got, had)
		}
		if err := r.Release(t.Context(), "pods", "a"); err != nil {
			t.Fatal(err)
		}
	}
	other := claim(n, "b")
	other.Had = c.Had
	taken := acquire(t, r, other)[0].Block
	if got := acquire(t, r, c)[0].Block; got == taken {
		t.Errorf("the node got %s, which is another's", got)
	}
}

// silent is a store that answers Get no more.
type silent struct {
	store.Store
	away atomic.Bool
}

var errAway = errors.New("store is away")

func (s *silent) Get(ctx context.Context, key string) (store.Entry, error) {
	if s.away.Load() {
		return store.Entry{}, errAway
	}
	return s.Store.Get(ctx, key)
}

// TestNoticeNeedsTheStore: a listing from memory isn't enough to say that an
// owner hasn't objected.
func TestNoticeNeedsTheStore(t *testing.T) {
	t.Parallel()
	r, clock := newRegistry(t)
	s := &silent{Store: r.Store}
	r.Store = s
	n := network("pods", "10.244.0.0/24")
	acquire(t, r, claim(n, "a"))
	clock.advance(ttl + lease.DefaultFence + time.Second)
	_, err := r.Acquire(t.Context(), claim(n, "b"))
	wantError(t, err, lease.ErrNoBlock)
	s.away.Store(true)
	for range 6 {
		clock.advance(lease.DefaultNotice / 3)
		if _, err = r.Acquire(t.Context(), claim(n, "b")); !errors.Is(err, errAway) {
			t.Fatalf("got %v, want that the store is away", err)
		}
	}
	s.away.Store(false)
	_, err = r.Acquire(t.Context(), claim(n, "b"))
	wantError(t, err, lease.ErrNoBlock)
}

// lasting is a store that remembers how long things are to last.
type lasting struct {
	store.Store
	ttl atomic.Int64
}

func (s *lasting) Expiring(ttl time.Duration) store.Store {
	s.ttl.Store(int64(ttl))
	return s.Store
}

// TestStoreForgets: a store that can forgets leases by itself, but not before
// anybody might have taken the block.
func TestStoreForgets(t *testing.T) {
	t.Parallel()
	r, _ := newRegistry(t)
	s := &lasting{Store: r.Store}
	r.Store = s
	acquire(t, r, claim(network("pods", "10.244.0.0/24"), "a"))
	if got := time.Duration(s.ttl.Load()); got < ttl+lease.DefaultFence+lease.DefaultNotice {
		t.Errorf("the store forgets a lease after %s", got)
	}
	r.TTL = 0
	s.ttl.Store(0)
	acquire(t, r, claim(network("pods", "10.244.0.0/24"), "a"))
	if got := time.Duration(s.ttl.Load()); got != 0 {
		t.Errorf("a lease without end is forgotten after %s", got)
	}
}
