package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Tests of Watch.

func testWatch(t *testing.T, open opener) {
	s := open.client()
	before := create(t, s, "a/before", "one")
	after := create(t, s, "a/after", "one")
	w := watch(t, open.client(), "a/", before)
	if event := w.next(t); event.Key != "a/after" || event.Revision != after || string(event.Value) != "one" {
		t.Fatalf("first event is %v, want a/after at %d", event, after)
	}
	create(t, s, "ab/x", "not below the prefix")
	create(t, s, "a", "not below the prefix")
	updated := update(t, s, "a/before", "two", before)
	if event := w.next(t); event.Key != "a/before" || event.Revision != updated || event.Deleted || string(event.Value) != "two" {
		t.Fatalf("event is %v, want a/before at %d", event, updated)
	}
	remove(t, s, "a/after", after)
	event := w.next(t)
	if event.Key != "a/after" || !event.Deleted || event.Revision <= updated {
		t.Fatalf("event is %v, want the deletion of a/after", event)
	}
	created := create(t, s, "a/after", "three")
	if created <= event.Revision {
		t.Errorf("create at %d does not follow the deletion at %d", created, event.Revision)
	}
	if event := w.next(t); event.Key != "a/after" || event.Revision != created || string(event.Value) != "three" {
		t.Fatalf("event is %v, want a/after at %d", event, created)
	}
}

func testWatchDeletions(t *testing.T, open opener) {
	s := open.client()
	kept := create(t, s, "a/kept", "one")
	removed := create(t, s, "a/removed", "one")
	again := create(t, s, "a/again", "one")
	elsewhere := create(t, s, "b/removed", "one")
	_, after := list(t, s, "a/")
	remove(t, s, "a/removed", removed)
	remove(t, s, "b/removed", elsewhere)
	remove(t, s, "a/again", again)
	create(t, s, "a/again", "two")
	remove(t, s, "a/passing", create(t, s, "a/passing", "one"))

	w := watch(t, s, "a/", after)
	want := map[string]string{"a/again": "two"}
	for !maps.Equal(w.state, want) || !w.gone["a/removed"] || !w.gone["a/passing"] {
		select {
		case err := <-w.ended:
			if !errors.Is(err, store.ErrCompacted) {
				t.Fatalf("watch: %v, want events or ErrCompacted", err)
			}
			return
		default:
			w.next(t)
		}
	}
	if w.revisions["a/kept"] != 0 || w.revisions["b/removed"] != 0 {
		t.Errorf("watch delivered what did not change (at %d) or is elsewhere: %v", kept, w.revisions)
	}
}

// testListWatch lists and watches in the middle of what several writers do, and
// in the end has their last state.
func testListWatch(t *testing.T, open opener) {
	const writers, operations = 3, 40
	for range 3 {
		listAndWatch(t, open, writers, operations)
	}
}

func listAndWatch(t *testing.T, open opener, writers, operations int) {
	started, finished := make(chan struct{}, writers), make(chan struct{})
	go func() {
		defer close(finished)
		together(writers, func(i int) {
			s := open.open()
			scribble(t, s, fmt.Sprintf("w/%d/", i), operations, started)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}()
	defer func() { <-finished }()
	<-started
	s := open.client()
	entries, after := list(t, s, "w/")
	w := watch(t, s, "w/", after)
	w.state = values(entries)
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case event := <-w.events:
			must(t, w.take(event))
		case err := <-w.ended:
			t.Fatalf("watch ended: %v", err)
		}
	}
	last, _ := list(t, s, "w/")
	w.await(t, values(last))
	w.cancel()
	_ = w.end(t)
}

// scribble creates, updates and deletes a few keys at random.
func scribble(t *testing.T, s store.Store, prefix string, operations int, started chan<- struct{}) {
	for i := range operations {
		key := prefix + strconv.Itoa(rand.IntN(4))
		entry, err := s.Get(t.Context(), key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			_, err = s.Create(t.Context(), key, strconv.AppendInt(nil, int64(i), 10))
		case err == nil && rand.IntN(3) == 0:
			err = s.Delete(t.Context(), key, entry.Revision)
		case err == nil:
			_, err = s.Update(t.Context(), key, strconv.AppendInt(nil, int64(i), 10), entry.Revision)
		}
		if err != nil {
			t.Errorf("%s: %v", key, err)
			return
		}
		select {
		case started <- struct{}{}:
		default:
		}
	}
}

func testWatchers(t *testing.T, open opener) {
	s := open.client()
	_, after := list(t, s, "")
	all, below, other := watch(t, s, "", after), watch(t, s, "a/", after), watch(t, open.client(), "", after)
	create(t, s, "a/x", "one")
	create(t, s, "b/x", "one")
	all.await(t, map[string]string{"a/x": "one", "b/x": "one"})
	other.await(t, map[string]string{"a/x": "one", "b/x": "one"})
	below.await(t, map[string]string{"a/x": "one"})
	below.cancel()
	if err := below.end(t); !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v, want context.Canceled", err)
	}
	revision := create(t, s, "a/y", "one")
	remove(t, s, "a/y", revision)
	create(t, s, "a/z", "one")
	all.await(t, map[string]string{"a/x": "one", "b/x": "one", "a/z": "one"})
	other.await(t, map[string]string{"a/x": "one", "b/x": "one", "a/z": "one"})
}

func testSlowWatch(t *testing.T, open opener) {
	s := open.client()
	first := create(t, s, "a/x", "0")
	w := watch(t, s, "a/", first-1)
	if event := w.next(t); event.Key != "a/x" {
		t.Fatalf("event is %v", event)
	}
	// The watcher's function now waits at its next event until it is taken.
	revision := first
	for i := range 50 {
		revision = update(t, s, "a/x", strconv.Itoa(i), revision)
	}
	y := create(t, s, "a/y", "one")
	remove(t, s, "a/y", y)
	create(t, s, "a/z", "one")
	w.await(t, map[string]string{"a/x": "49", "a/z": "one"})
}

func testWatchCancel(t *testing.T, open opener) {
	s := open.client()
	_, after := list(t, s, "")
	idle := watch(t, s, "", after)
	busy := watch(t, s, "", after)
	create(t, s, "a", "one")
	busy.next(t)
	idle.next(t)
	began := time.Now()
	for _, w := range []*watching{idle, busy} {
		w.cancel()
		if err := w.end(t); !errors.Is(err, context.Canceled) {
			t.Errorf("watch: %v, want context.Canceled", err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("watch took %v to end", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := s.Watch(ctx, "a/", after, func(store.Event) error { return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("watch: %v, want context.DeadlineExceeded", err)
	}
}

func testWatchError(t *testing.T, open opener) {
	s := open.client()
	revision := create(t, s, "a", "one")
	create(t, s, "b", "one")
	enough := errors.New("enough")
	calls := 0
	err := s.Watch(t.Context(), "", revision-1, func(store.Event) error {
		calls++
		return enough
	})
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("watch: %v after %d calls, want the function's error after the first", err, calls)
	}
}
