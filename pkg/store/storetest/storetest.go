// Package storetest is the suite that every store passes: what package store
// promises, as tests. An implementation calls Run from a test of its own.
package storetest

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Backend makes a new, empty store and returns what opens clients of it. Each
// call opens another client of the same contents, as another process would have;
// the suite closes it. A Backend is called once for each test, in parallel.
type Backend func(t *testing.T) (open func() store.Store)

// patience is how long a test waits for what must happen soon. It is less than any
// interval at which a store looks without having been told, and otherwise only decides
// how long a failing test takes.
const patience = 20 * time.Second

// Run runs the suite.
func Run(t *testing.T, backend Backend) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open opener)
	}{
		{"an empty store holds nothing", testEmpty},
		{"create writes once", testCreate},
		{"update expects a revision", testUpdate},
		{"delete expects a revision", testDelete},
		{"every valid key is a key of its own", testKeys},
		{"invalid keys and prefixes are refused", testInvalidKeys},
		{"values come back as they were", testValues},
		{"values are copies", testCopies},
		{"list keeps to its prefix and is sorted", testList},
		{"revisions grow and are never used again", testRevisions},
		{"clients see each other's changes", testClients},
		{"a cancelled context stops every call", testCancelled},
		{"of many creates of one key one succeeds", testConcurrentCreate},
		{"concurrent updates lose nothing", testConcurrentUpdate},
		{"a listing shows one moment", testSteadyList},
		{"random operations behave as a map", testModel},
		{"watch delivers changes after the revision", testWatch},
		{"watch from an old revision shows what is gone", testWatchDeletions},
		{"list and watch miss nothing of concurrent writers", testListWatch},
		{"watchers are independent", testWatchers},
		{"a slow watcher gets the last state", testSlowWatch},
		{"watch ends with its context", testWatchCancel},
		{"watch returns the error of its function", testWatchError},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, opener{t: t, open: backend(t)})
		})
	}
}

// opener opens clients that are closed with the test.
type opener struct {
	t    *testing.T
	open func() store.Store
}

func (o opener) client() store.Store {
	s := o.open()
	o.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			o.t.Errorf("close store: %v", err)
		}
	})
	return s
}

// must stops the test at an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, s store.Store, key, value string) store.Revision {
	t.Helper()
	revision, err := s.Create(t.Context(), key, []byte(value))
	must(t, err)
	return revision
}

func update(t testing.TB, s store.Store, key, value string, revision store.Revision) store.Revision {
	t.Helper()
	revision, err := s.Update(t.Context(), key, []byte(value), revision)
	must(t, err)
	return revision
}

func remove(t testing.TB, s store.Store, key string, revision store.Revision) {
	t.Helper()
	must(t, s.Delete(t.Context(), key, revision))
}

func list(t testing.TB, s store.Store, prefix string) ([]store.Entry, store.Revision) {
	t.Helper()
	entries, revision, err := s.List(t.Context(), prefix)
	must(t, err)
	return entries, revision
}

// values are the entries as a map.
func values(entries []store.Entry) map[string]string {
	m := map[string]string{}
	for _, entry := range entries {
		m[entry.Key] = string(entry.Value)
	}
	return m
}

// watching is a Watch that runs in the background.
type watching struct {
	cancel context.CancelFunc
	events chan store.Event
	ended  chan error

	state     map[string]string
	gone      map[string]bool
	revisions map[string]store.Revision
}

func watch(t *testing.T, s store.Store, prefix string, after store.Revision) *watching {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	w := &watching{
		cancel: cancel, events: make(chan store.Event), ended: make(chan error, 1),
		state: map[string]string{}, gone: map[string]bool{}, revisions: map[string]store.Revision{},
	}
	go func() {
		w.ended <- s.Watch(ctx, prefix, after, func(event store.Event) error {
			select {
			case w.events <- event:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return w
}

// take makes an event part of the watched state. The events of one key must have
// ascending revisions.
func (w *watching) take(event store.Event) error {
	if event.Revision <= w.revisions[event.Key] {
		return fmt.Errorf("event of %s has revision %d after %d", event.Key, event.Revision, w.revisions[event.Key])
	}
	w.revisions[event.Key] = event.Revision
	delete(w.state, event.Key)
	delete(w.gone, event.Key)
	switch {
	case !event.Deleted:
		w.state[event.Key] = string(event.Value)
	case event.Value != nil:
		return fmt.Errorf("deletion of %s has a value", event.Key)
	default:
		w.gone[event.Key] = true
	}
	return nil
}

// next is the next event, which also becomes part of the watched state.
func (w *watching) next(t *testing.T) store.Event {
	t.Helper()
	select {
	case event := <-w.events:
		if err := w.take(event); err != nil {
			t.Fatal(err)
		}
		return event
	case err := <-w.ended:
		t.Fatalf("watch ended: %v", err)
	case <-time.After(patience):
		t.Fatalf("no event for %v; watched so far: %v, gone: %v", patience, w.state, w.gone)
	}
	return store.Event{}
}

// await takes events until the watched state is the wanted one.
func (w *watching) await(t *testing.T, want map[string]string) {
	t.Helper()
	for !maps.Equal(w.state, want) {
		w.next(t)
	}
}

// end waits until the watch has ended.
func (w *watching) end(t *testing.T) error {
	t.Helper()
	for {
		select {
		case err := <-w.ended:
			return err
		case <-w.events:
		case <-time.After(patience):
			t.Fatalf("watch did not end within %v", patience)
		}
	}
}
