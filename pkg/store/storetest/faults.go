package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// A Fault is something that happens to a store while it is in use.
type Fault struct {
	Name string
	// Break makes it happen; Mend, if set, ends it.
	Break, Mend func() error
}

// How long a store is used before a fault, during it, and after it.
const (
	before = 300 * time.Millisecond
	during = 1500 * time.Millisecond
	after  = 500 * time.Millisecond
)

// RunFaults runs a test for each fault, one after the other: several clients
// write, others follow, the fault happens and ends. What was acknowledged is
// there, what was refused isn't, what nobody knows may be; and all writers and
// followers go on.
func RunFaults(t *testing.T, backend Backend, faults []Fault) {
	t.Helper()
	for _, f := range faults {
		t.Run(f.Name, func(t *testing.T) {
			o := opener{t: t, open: backend(t)}
			testFault(t, o, &f)
		})
	}
}

const writers = 4

func testFault(t *testing.T, open opener, f *Fault) {
	first := open.client()
	create(t, first, counter, "0")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var tasks sync.WaitGroup
	all := make([]*writer, writers)
	for i := range all {
		w := &writer{store: open.client(), own: fmt.Sprintf("own/%d/", i), created: map[string]bool{}}
		all[i] = w
		tasks.Go(func() { w.run(ctx) })
	}
	followed := &follower{store: open.client()}
	following, end := context.WithCancel(t.Context())
	var follows sync.WaitGroup
	follows.Go(func() { followed.run(following) })
	defer follows.Wait()
	defer end()

	pass(before)
	must(t, f.Break())
	pass(during)
	if f.Mend != nil {
		must(t, f.Mend())
	}
	goOn(t, all)
	pass(after)
	stop()
	tasks.Wait()
	checkWriters(t, all, followed.await(t, first))
}

// pass lets time go by, for others.
func pass(d time.Duration) { <-time.After(d) }

// goOn waits until each writer has written something anew.
func goOn(t *testing.T, all []*writer) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for i, w := range all {
		done := w.acknowledged()
		for w.acknowledged() == done {
			if time.Now().After(deadline) {
				t.Fatalf("writer %d hasn't gone on within %s after the fault; its last error: %v", i, patience, w.lastError())
			}
			pass(10 * time.Millisecond)
		}
	}
}

// listAtLast lists everything; it may take some attempts after a fault.
func listAtLast(t *testing.T, s store.Store) []store.Entry {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		entries, _, err := s.List(t.Context(), "")
		if err == nil {
			return entries
		}
		if time.Now().After(deadline) {
			t.Fatalf("list after the fault: %v", err)
		}
	}
}

// counter is a key that all writers count up.
const counter = "counter"

// A writer counts up a key that is everybody's, and creates keys of its own.
type writer struct {
	store store.Store
	own   string

	mu       sync.Mutex
	counted  int // acknowledged
	doubtful int // counts of which nobody knows
	created  map[string]bool
	err      error
}

func (w *writer) acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counted
}

func (w *writer) lastError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *writer) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		w.count(ctx)
		key := w.own + strconv.Itoa(n)
		if _, err := w.store.Create(ctx, key, []byte(key)); err == nil {
			w.created[key] = true
		}
	}
}

// count counts up once.
func (w *writer) count(ctx context.Context) {
	// A request may take longer than a fault; the writer's loop doesn't.
	ctx, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	entry, err := w.store.Get(ctx, counter)
	if err == nil {
		var n int
		if n, err = strconv.Atoi(string(entry.Value)); err == nil {
			_, err = w.store.Update(ctx, counter, []byte(strconv.Itoa(n+1)), entry.Revision)
			w.note(err)
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// note writes down what came of a count.
func (w *writer) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.counted++
	case !errors.Is(err, store.ErrConflict):
		w.doubtful++
	}
	w.err = err
}

// checkWriters: nothing that was acknowledged is lost, and nothing is counted
// twice.
func checkWriters(t *testing.T, all []*writer, have map[string]string) {
	t.Helper()
	counted, doubtful := 0, 0
	for _, w := range all {
		counted, doubtful = counted+w.counted, doubtful+w.doubtful
		for key := range w.created {
			if have[key] != key {
				t.Errorf("%s was created, and is %q", key, have[key])
			}
		}
	}
	n, err := strconv.Atoi(have[counter])
	if err != nil || n < counted || n > counted+doubtful {
		t.Errorf("the counter is %q; %d counts were acknowledged, of %d nobody knows", have[counter], counted, doubtful)
	}
	t.Logf("%d counts, %d doubtful", counted, doubtful)
}

// A follower has what it has listed and watched.
type follower struct {
	store store.Store

	mu    sync.Mutex
	state map[string]string
	lists int
}

// run lists and watches, and lists again where that helps.
func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		entries, revision, err := f.store.List(ctx, "")
		if err != nil {
			continue
		}
		f.mu.Lock()
		f.state = values(entries)
		f.lists++
		f.mu.Unlock()
		_ = f.store.Watch(ctx, "", revision, f.take) // whatever it ended with, a list is next
	}
}

func (f *follower) take(e store.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delete(f.state, e.Key); !e.Deleted {
		f.state[e.Key] = string(e.Value)
	}
	return nil
}

// await waits until the follower has what is there, and returns that. A write
// that was cut short may still come, so what is there is asked for again.
func (f *follower) await(t *testing.T, s store.Store) map[string]string {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		want := values(listAtLast(t, s))
		f.mu.Lock()
		same, have, lists := maps.Equal(f.state, want), len(f.state), f.lists
		f.mu.Unlock()
		switch {
		case same && lists > 10:
			t.Errorf("the follower had to list %d times", lists)
			return want
		case same:
			return want
		case time.Now().After(deadline):
			t.Fatalf("the follower has %d keys after %s and %d lists, want %d", have, patience, lists, len(want))
		}
		pass(10 * time.Millisecond)
	}
}
