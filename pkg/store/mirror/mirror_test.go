package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
	"github.com/overlay-cni/overlay-cni/pkg/store/mirror"
	"github.com/overlay-cni/overlay-cni/pkg/store/storetest"
)

// shared is a store that several clients use; the first opened closes it.
type shared struct{ store.Store }

func (shared) Close() error { return nil }

// TestStore: all clients share a mirror, as a daemon's networks do.
func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) func() store.Store {
		t.Helper()
		s, err := local.Open(t.TempDir(), local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := mirror.New(s, mirror.Options{})
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		return func() store.Store { return shared{m} }
	})
}

// spied is a store that counts what it is asked, can lose what it should tell
// of, and can end its watches.
type spied struct {
	store.Store
	lists, gets, watches atomic.Int32
	deaf                 atomic.Bool
	cut                  chan error
}

func (s *spied) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	s.lists.Add(1)
	return s.Store.List(ctx, prefix)
}

func (s *spied) Get(ctx context.Context, key string) (store.Entry, error) {
	s.gets.Add(1)
	return s.Store.Get(ctx, key)
}

func (s *spied) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	s.watches.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-s.cut:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := s.Store.Watch(ctx, prefix, after, func(e store.Event) error {
		if s.deaf.Load() {
			return nil
		}
		return fn(e)
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// spy returns a mirror and what is beneath it.
func spy(t *testing.T, o mirror.Options) (*mirror.Store, *spied) {
	t.Helper()
	under, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &spied{Store: under, cut: make(chan error)}
	m := mirror.New(s, o)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, s
}

func create(t *testing.T, s store.Store, key string) store.Revision {
	t.Helper()
	revision, err := s.Create(t.Context(), key, []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// keys lists what is below a/.
func keys(t *testing.T, s store.Store) []string {
	t.Helper()
	entries, _, err := s.List(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Key)
	}
	return all
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for tick := time.NewTicker(time.Millisecond); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestFrugal: a prefix is listed once, whatever is read and written, by us or by
// others.
func TestFrugal(t *testing.T) {
	t.Parallel()
	m, s := spy(t, mirror.Options{})
	create(t, s.Store, "a/1")
	for i := range 50 {
		create(t, m, fmt.Sprintf("a/own/%d", i))
		if got := len(keys(t, m)); got != i+2 {
			t.Fatalf("%d keys are listed, want %d", got, i+2)
		}
	}
	create(t, s.Store, "a/2")
	await(t, "another's change", func() bool { return slices.Contains(keys(t, m), "a/2") })
	if lists, gets, watches := s.lists.Load(), s.gets.Load(), s.watches.Load(); lists != 1 || gets != 0 || watches != 1 {
		t.Errorf("the store was asked for %d lists, %d gets, %d watches; want 1, 0, 1", lists, gets, watches)
	}
}

// TestTogether: of many who list a prefix at once, one asks the store.
func TestTogether(t *testing.T) {
	t.Parallel()
	m, s := spy(t, mirror.Options{})
	create(t, s.Store, "a/1")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if entries, _, err := m.List(t.Context(), "a/"); err != nil || len(entries) != 1 {
				t.Errorf("listed: %v %v", entries, err)
			}
		})
	}
	all.Wait()
	if lists := s.lists.Load(); lists != 1 {
		t.Errorf("the store was listed %d times, want once", lists)
	}
}

// TestRefused: what a refused change shows to be unknown is known afterwards.
func TestRefused(t *testing.T) {
	t.Parallel()
	m, s := spy(t, mirror.Options{})
	keys(t, m)
	for i := range 50 {
		key := fmt.Sprintf("a/%d", i)
		revision := create(t, s.Store, key)
		if _, err := m.Create(t.Context(), key, nil); !errors.Is(err, store.ErrExists) {
			t.Fatalf("Create of what is there: %v", err)
		}
		if !slices.Contains(keys(t, m), key) {
			t.Fatalf("%s is refused because it exists, and not listed", key)
		}
		if err := s.Store.Delete(t.Context(), key, revision); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Update(t.Context(), key, nil, revision); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("Update of what is gone: %v", err)
		}
		if slices.Contains(keys(t, m), key) {
			t.Fatalf("%s is refused because it is gone, and listed", key)
		}
	}
}

// TestBroken: after the watch broke, the store is listed again; those who watch
// are told.
func TestBroken(t *testing.T) {
	t.Parallel()
	m, s := spy(t, mirror.Options{})
	keys(t, m)
	broken, told := errors.New("cut"), make(chan error, 1)
	_, after, err := m.List(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	go func() { told <- m.Watch(t.Context(), "a/", after, func(store.Event) error { return nil }) }()
	await(t, "the mirror's watch", func() bool { return s.watches.Load() == 1 })
	s.cut <- broken
	if err := <-told; !errors.Is(err, broken) {
		t.Errorf("Watch: %v, want %v", err, broken)
	}
	create(t, s.Store, "a/1")
	if got := keys(t, m); len(got) != 1 {
		t.Errorf("listed: %v", got)
	}
	if lists := s.lists.Load(); lists != 2 {
		t.Errorf("the store was listed %d times, want 2", lists)
	}
}

// TestSilence: a store that has been silent is asked; what was missed is listed.
func TestSilence(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	m, s := spy(t, mirror.Options{MaxSilence: time.Minute, Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	revision := create(t, s.Store, "a/1")
	keys(t, m)
	keys(t, m)
	if gets := s.gets.Load(); gets != 0 {
		t.Errorf("the store was asked %d times without need", gets)
	}
	now.Add(60)
	keys(t, m)
	keys(t, m)
	if gets, lists := s.gets.Load(), s.lists.Load(); gets != 1 || lists != 1 {
		t.Errorf("after a silence the store was asked %d times and listed %d times, want 1 and 1", gets, lists)
	}
	s.deaf.Store(true)
	if err := s.Store.Delete(t.Context(), "a/1", revision); err != nil {
		t.Fatal(err)
	}
	create(t, s.Store, "a/2")
	now.Add(60)
	if got := keys(t, m); !slices.Equal(got, []string{"a/2"}) {
		t.Errorf("listed after missed changes: %v", got)
	}
}

// TestBehind: who watches too slowly for the mirror's memory misses nothing.
func TestBehind(t *testing.T) {
	t.Parallel()
	m, s := spy(t, mirror.Options{Changes: 4})
	_, after, err := m.List(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprintf("a/%02d", i))
		create(t, m, want[i])
	}
	keys(t, m) // all has come
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	err = m.Watch(ctx, "a/", after, func(e store.Event) error {
		if got = append(got, e.Key); e.Key == want[len(want)-1] {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, want) {
		t.Errorf("Watch: %v, with events of %v", err, got)
	}
	if watches := s.watches.Load(); watches != 2 {
		t.Errorf("the store was watched %d times, want twice", watches)
	}
}
