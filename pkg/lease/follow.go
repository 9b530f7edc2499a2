package lease

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// What a registry has read of its store, and how it hears of changes since.

// read is what a registry has read.
type read struct {
	mu sync.Mutex
	// at is the revision at which each prefix was listed last.
	at map[string]store.Revision
	// leases are those of each network that were listed last, sorted by key: of
	// ten thousand, few have changed since the last time.
	leases map[string][]known
}

// known is a lease as it was listed.
type known struct {
	key string
	stored
}

// entries lists a prefix, and remembers since when we know it.
func (r *Registry) entries(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	entries, revision, err := r.Store.List(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	r.read.mu.Lock()
	defer r.read.mu.Unlock()
	if r.read.at == nil {
		r.read.at = map[string]store.Revision{}
	}
	r.read.at[prefix] = revision
	return entries, revision, nil
}

// decoded lists what people write, each of which says by itself if it can't be
// read.
func decoded[T any](ctx context.Context, r *Registry, prefix, what string, decode func(store.Entry) T) ([]T, error) {
	entries, _, err := r.entries(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	all := make([]T, len(entries))
	for i, e := range entries {
		all[i] = decode(e)
	}
	return all, nil
}

// since is the revision after which changes of a prefix aren't known.
func (r *Registry) since(ctx context.Context, prefix string) (store.Revision, error) {
	r.read.mu.Lock()
	revision, known := r.read.at[prefix]
	r.read.mu.Unlock()
	if known {
		return revision, nil
	}
	_, revision, err := r.entries(ctx, prefix)
	return revision, err
}

// decode reads the leases of a network, those that have changed.
func (r *Registry) decode(network string, entries []store.Entry) ([]stored, error) {
	r.read.mu.Lock()
	defer r.read.mu.Unlock()
	before := r.read.leases[network]
	leases, same := make([]stored, len(entries)), len(entries) == len(before)
	at := 0 // in what was listed before; both are sorted
	for i, e := range entries {
		for at < len(before) && before[at].key < e.Key {
			at++
		}
		if at < len(before) && before[at].key == e.Key && before[at].revision == e.Revision {
			leases[i] = before[at].stored
			continue
		}
		l, err := decodeLease(e.Key, e.Value)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
		leases[i], same = stored{l, e.Revision}, false
	}
	if !same {
		r.remember(network, entries, leases)
	}
	return leases, nil
}

// remember keeps what was listed; the leases are their caller's.
func (r *Registry) remember(network string, entries []store.Entry, leases []stored) {
	now := make([]known, len(entries))
	for i := range entries {
		now[i] = known{entries[i].Key, leases[i]}
	}
	if r.read.leases == nil {
		r.read.leases = map[string][]known{}
	}
	r.read.leases[network] = now
}

// matters says whether a change of a lease is more than a renewal. Of ten thousand
// nodes one renews its lease every few seconds, which is nobody else's business,
// unless the lease had expired so long ago that it was no longer in force.
func (r *Registry) matters(network string, e store.Event) bool {
	if e.Deleted {
		return true
	}
	r.read.mu.Lock()
	defer r.read.mu.Unlock()
	leases := r.read.leases[network]
	at, ok := slices.BinarySearchFunc(leases, e.Key, func(k known, key string) int { return cmp.Compare(k.key, key) })
	if !ok || leases[at].Expired(r.fenced()) {
		return true
	}
	now, err := decodeLease(e.Key, e.Value)
	if err != nil {
		return true // which the next listing tells
	}
	before := &leases[at]
	return now.Node != before.Node || now.Instance != before.Instance || now.Index != before.Index ||
		!now.VTEP.Equal(&before.VTEP) || now.Notice != nil || before.Notice != nil
}

// Watch calls changed whenever leases of the network, its registration or another
// network's, or external peers may have changed since the registry read them; not
// when leases were only renewed. It returns when ctx ends, or with
// what ended the watch: then changes may have been missed.
func (r *Registry) Watch(ctx context.Context, network string, changed func()) error {
	always := func(store.Event) bool { return true }
	watches, ctx := errgroup.WithContext(ctx)
	for prefix, concerns := range map[string]func(e store.Event) bool{
		leasePrefix(network): func(e store.Event) bool { return r.matters(network, e) },
		networkPrefix:        always, // from others' pods its own are kept apart
		peerPrefix:           always, // other networks' may be in the way
	} {
		after, err := r.since(ctx, prefix)
		if err != nil {
			return fmt.Errorf("watch network %s: %w", network, err)
		}
		watches.Go(func() error {
			return r.Store.Watch(ctx, prefix, after, func(e store.Event) error {
				if concerns(e) {
					changed()
				}
				return nil
			})
		})
	}
	if err := watches.Wait(); err != nil {
		return fmt.Errorf("watch network %s: %w", network, err)
	}
	return nil
}
