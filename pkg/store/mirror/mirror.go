// Package mirror keeps in memory what is read of a store, so that reading it
// again costs the store nothing: a prefix is listed once and followed from then
// on.
//
// A listing shows the store at one moment, which may be a little while ago, but
// not before the last change made through the mirror, or refused to it. That does
// no harm where every change compares and swaps.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Defaults of Options.
const (
	DefaultMaxSilence = 10 * time.Minute
	DefaultChanges    = 1024
)

// patience is how long a listing waits for the store to tell of a change that
// the mirror knows of, before it asks.
const patience = 5 * time.Second

// Options of a mirror.
type Options struct {
	// MaxSilence is how long the mirror may have heard nothing of the store
	// until a listing asks whether it is still there, and says what we
	// believe; zero: DefaultMaxSilence.
	MaxSilence time.Duration
	// Changes is how many a mirror remembers at least of each prefix, for
	// those who watch it; zero: DefaultChanges.
	Changes int
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Store is a store that is read from memory. Get goes to the store itself.
type Store struct {
	under store.Store
	Options

	done sync.WaitGroup // the watches

	mu     sync.Mutex
	closed bool
	copies map[string]*replica      // by prefix
	turns  map[string]chan struct{} // by prefix
	heard  time.Time                // of the store
	asked  string                   // the prefix that was last checked
}

var (
	_ store.Expirer  = (*Store)(nil)
	_ store.Reporter = (*Store)(nil)
)

// New returns a mirror of a store, which it closes when it is closed.
func New(under store.Store, o Options) *Store {
	if o.MaxSilence == 0 {
		o.MaxSilence = DefaultMaxSilence
	}
	if o.Changes == 0 {
		o.Changes = DefaultChanges
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{under: under, Options: o, copies: map[string]*replica{}, turns: map[string]chan struct{}{}}
}

// Close ends all watches and closes the store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, r := range s.copies {
		r.drop()
	}
	s.mu.Unlock()
	s.done.Wait()
	return s.under.Close()
}

// Get implements store.Store. It asks the store, and listings wait for what it
// says.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	replicas := s.of(key)
	believed := make([]store.Revision, len(replicas))
	for i, r := range replicas {
		believed[i] = r.revision(key)
	}
	e, err := s.under.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return e, err
	}
	s.hear()
	for i, r := range replicas {
		if err == nil {
			r.expect(key, e.Revision, 0)
		} else if believed[i] != 0 {
			r.expect(key, 0, believed[i])
		}
	}
	return e, err
}

// List implements store.Store. The first call for a prefix asks the store, and
// so does the first one after the watch of it broke.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	if err := s.check(ctx); err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	turn := s.turn(prefix)
	select { // who comes while another one lists finds what that one has listed
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("list %s: %w", prefix, ctx.Err())
	}
	if r := s.copy(prefix); r != nil && s.settle(ctx, prefix, r) {
		entries, revision := r.list()
		return entries, revision, nil
	}
	entries, revision, err := s.under.List(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	s.hear()
	s.follow(context.WithoutCancel(ctx), prefix, entries, revision)
	return entries, revision, nil
}

// turn is what who lists a prefix holds.
func (s *Store) turn(prefix string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turns[prefix] == nil {
		s.turns[prefix] = make(chan struct{}, 1)
	}
	return s.turns[prefix]
}

// settle waits until a replica shows all changes made through the mirror. One
// that takes too long, or has ended, is dropped.
func (s *Store) settle(ctx context.Context, prefix string, r *replica) bool {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		ok, changed := r.settled()
		if ok {
			return true
		}
		select {
		case <-changed:
			if s.copy(prefix) != r {
				return false
			}
		case <-ctx.Done():
			return false
		case <-limit.C:
			s.discard(prefix, r)
			return false
		}
	}
}

// copy returns the replica of a prefix; nil: there is none.
func (s *Store) copy(prefix string) *replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copies[prefix]
}

// follow makes a replica of what was listed, and keeps it as long as the watch
// of the prefix goes on.
func (s *Store) follow(ctx context.Context, prefix string, entries []store.Entry, revision store.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.copies[prefix] != nil || s.closed {
		return
	}
	r := newReplica(entries, revision, s.Changes)
	s.copies[prefix] = r
	ctx, cancel := context.WithCancel(ctx)
	r.drop = cancel
	s.done.Go(func() {
		defer cancel()
		err := s.under.Watch(ctx, prefix, revision, func(e store.Event) error {
			s.hear()
			r.follow(e)
			return nil
		})
		s.mu.Lock()
		if s.copies[prefix] == r {
			delete(s.copies, prefix)
		}
		s.mu.Unlock()
		r.end(err)
	})
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	revision, err := s.under.Create(ctx, key, value)
	return revision, s.wrote(ctx, key, revision, err)
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	revision, err := s.under.Update(ctx, key, value, revision)
	return revision, s.wrote(ctx, key, revision, err)
}

// Expiring implements store.Expirer: over a store that isn't one, nothing
// expires.
func (s *Store) Expiring(ttl time.Duration) store.Store {
	if e, ok := s.under.(store.Expirer); ok {
		return &expiring{s, e.Expiring(ttl)}
	}
	return s
}

// Report implements store.Reporter: over a store that isn't one, nobody looks.
func (s *Store) Report(ctx context.Context, key string, c store.Condition) error {
	if r, ok := s.under.(store.Reporter); ok {
		return r.Report(ctx, key, c)
	}
	return nil
}

// expiring is a mirror whose changes expire.
type expiring struct {
	*Store
	under store.Store
}

// Create implements store.Store.
func (s *expiring) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	revision, err := s.under.Create(ctx, key, value)
	return revision, s.wrote(ctx, key, revision, err)
}

// Update implements store.Store.
func (s *expiring) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	revision, err := s.under.Update(ctx, key, value, revision)
	return revision, s.wrote(ctx, key, revision, err)
}

// wrote makes a change part of the replicas; one that was refused, because the
// key isn't what the caller believed, makes them fetch it.
func (s *Store) wrote(ctx context.Context, key string, revision store.Revision, err error) error {
	switch {
	case err == nil:
		s.hear()
		for _, r := range s.of(key) {
			r.expect(key, revision, 0)
		}
	case refused(err):
		s.fetch(ctx, key)
	}
	return err
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, revision store.Revision) error {
	err := s.under.Delete(ctx, key, revision)
	switch {
	case err == nil:
		s.hear()
		for _, r := range s.of(key) {
			r.expect(key, 0, revision)
		}
	case refused(err):
		s.fetch(ctx, key)
	}
	return err
}

// refused says whether a change was made on old knowledge.
func refused(err error) bool {
	return errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
}

// fetch asks what a key is now, so that listings wait for it. Where that fails
// they don't.
func (s *Store) fetch(ctx context.Context, key string) {
	if len(s.of(key)) > 0 {
		_, _ = s.Get(ctx, key)
	}
}

// of returns the replicas that a key is in.
func (s *Store) of(key string) []*replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*replica
	for prefix, r := range s.copies {
		if strings.HasPrefix(key, prefix) {
			all = append(all, r)
		}
	}
	return all
}

// hear notes that the store has said something.
func (s *Store) hear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = s.Now()
}

// check asks the store about a replica, another one each time, if it has been
// silent for too long. A replica that missed a change is dropped.
func (s *Store) check(ctx context.Context) error {
	prefix, r := s.suspect()
	if r == nil {
		return nil
	}
	missed, err := s.missed(ctx, prefix, r)
	if missed {
		s.discard(prefix, r)
	}
	return err
}

// missed looks at one entry; where there is none, for any.
func (s *Store) missed(ctx context.Context, prefix string, r *replica) (bool, error) {
	e, ok := r.any()
	if !ok {
		entries, _, err := s.under.List(ctx, prefix)
		if err != nil {
			return false, err
		}
		s.hear()
		_, ok = r.any()
		return len(entries) > 0 && !ok, nil
	}
	now, err := s.Get(ctx, e.Key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	return now.Revision != e.Revision && r.revision(e.Key) == e.Revision, nil
}

// suspect returns the replica to be checked, in turn; nil while the store isn't
// silent.
func (s *Store) suspect() (string, *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.copies) == 0 || s.Now().Sub(s.heard) < s.MaxSilence {
		return "", nil
	}
	prefixes := make([]string, 0, len(s.copies))
	for prefix := range s.copies {
		prefixes = append(prefixes, prefix)
	}
	slices.Sort(prefixes)
	next, _ := slices.BinarySearch(prefixes, s.asked+"\x00")
	s.asked = prefixes[next%len(prefixes)]
	return s.asked, s.copies[s.asked]
}

// discard drops a replica: the next listing asks the store.
func (s *Store) discard(prefix string, r *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.copies[prefix] == r {
		delete(s.copies, prefix)
	}
	r.drop()
}

// Watch implements store.Store. It shares the mirror's own watch, and ends with
// it; what the mirror doesn't remember, it gets of a watch of its own.
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	if r := s.copy(prefix); r != nil {
		last, err := r.watch(ctx, after, fn)
		if !errors.Is(err, errForgotten) {
			return err
		}
		after = last
	}
	return s.under.Watch(ctx, prefix, after, fn)
}
