package mirror

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// replica is what the store has below one prefix.
type replica struct {
	drop context.CancelFunc // ends the watch that feeds it

	mu      sync.Mutex
	entries []store.Entry // sorted by key
	// awaited are changes that the store hasn't told of yet, by key.
	awaited map[string]expected
	// seen is the revision of the last change that the store told of.
	seen store.Revision
	// log has the last changes, at least keep of them where there were so
	// many, as the store told of them; floor is the revision of the one before
	// them, dropped how many there were.
	keep    int
	log     []store.Event
	floor   store.Revision
	dropped int
	changed chan struct{} // closed at the next change
	ended   error
}

// expected is a change of a key: to a revision or, where that is 0, from one.
type expected struct{ to, from store.Revision }

func newReplica(entries []store.Entry, revision store.Revision, keep int) *replica {
	r := &replica{
		entries: make([]store.Entry, len(entries)), awaited: map[string]expected{},
		keep: keep, seen: revision, floor: revision, changed: make(chan struct{}),
	}
	for i, e := range entries {
		e.Value = bytes.Clone(e.Value) // the listing is its caller's
		r.entries[i] = e
	}
	return r
}

// list returns copies of the entries, and the revision after which a watch
// misses nothing of them.
func (r *replica) list() ([]store.Entry, store.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size := 0
	for i := range r.entries {
		size += len(r.entries[i].Value)
	}
	values, entries := make([]byte, 0, size), slices.Clone(r.entries)
	for i := range entries {
		from := len(values)
		values = append(values, entries[i].Value...)
		entries[i].Value = values[from:len(values):len(values)]
	}
	return entries, r.seen
}

// any returns one of the entries.
func (r *replica) any() (store.Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.entries) == 0 {
		return store.Entry{}, false
	}
	return r.entries[rand.N(len(r.entries))], true
}

// find returns where a key is, or would be.
func (r *replica) find(key string) (int, bool) {
	return slices.BinarySearchFunc(r.entries, key, func(e store.Entry, key string) int { return cmp.Compare(e.Key, key) })
}

// revision of a key; 0: it isn't there.
func (r *replica) revision(key string) store.Revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.find(key); ok {
		return r.entries[at].Revision
	}
	return 0
}

// expect makes listings wait for a change of a key that was made, or found out
// about: to a revision, or, where that is 0, from one.
func (r *replica) expect(key string, to, from store.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := (expected{to: to, from: from}); !r.came(key, e) {
		r.awaited[key] = e
	}
}

// came says whether the store has told of an expected change.
func (r *replica) came(key string, e expected) bool {
	at, ok := r.find(key)
	switch {
	case !ok:
		return r.seen >= e.to // removed since
	case e.to == 0:
		return r.entries[at].Revision != e.from
	}
	return r.entries[at].Revision >= e.to
}

// settled says whether all changes have come that were expected; if not,
// changed is closed at the next one.
func (r *replica) settled() (ok bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.awaited) == 0, r.changed
}

// follow takes over a change that the store tells of.
func (r *replica) follow(e store.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Value = bytes.Clone(e.Value)
	r.seen = max(r.seen, e.Revision)
	switch at, ok := r.find(e.Key); {
	case e.Deleted && ok:
		r.entries = slices.Delete(r.entries, at, at+1)
	case e.Deleted:
	case ok:
		r.entries[at] = e.Entry
	default:
		r.entries = slices.Insert(r.entries, at, e.Entry)
	}
	maps.DeleteFunc(r.awaited, r.came)
	if len(r.log) >= 2*r.keep { // now and then, not with every change
		r.floor = r.log[r.keep-1].Revision
		r.log = append(make([]store.Event, 0, 2*r.keep), r.log[r.keep:]...)
		r.dropped += r.keep
	}
	r.log = append(r.log, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

// errForgotten says that the log doesn't reach back to where a watch is.
var errForgotten = errors.New("changes are forgotten")

// end tells those who watch that nothing more comes.
func (r *replica) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || errors.Is(err, context.Canceled) {
		err = fmt.Errorf("the mirror is dropped: %w", store.ErrCompacted)
	}
	r.ended = err
	close(r.changed)
}

// watch calls fn for every change after a revision, and returns that of the last.
func (r *replica) watch(ctx context.Context, after store.Revision, fn func(store.Event) error) (store.Revision, error) {
	next := 0 // in the log, counted from its beginning
	for {
		if err := ctx.Err(); err != nil {
			return after, err
		}
		events, at, changed, err := r.since(next, after)
		if err != nil {
			return after, err
		}
		next = at
		for _, e := range events {
			if e.Revision <= after {
				continue
			}
			e.Value = bytes.Clone(e.Value)
			if err := errors.Join(ctx.Err(), fn(e)); err != nil {
				return after, err
			}
			after = e.Revision
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// since returns the changes from one on, where the next begin, and what tells of
// more.
func (r *replica) since(next int, after store.Revision) (events []store.Event, at int, changed <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at = r.dropped + len(r.log)
	if next < r.dropped && after < r.floor {
		return nil, at, nil, errForgotten
	}
	if events = r.log[max(next-r.dropped, 0):]; len(events) == 0 && r.ended != nil {
		return nil, at, nil, r.ended
	}
	return events, at, r.changed, nil
}
