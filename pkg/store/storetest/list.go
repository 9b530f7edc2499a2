package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Tests of many keys, and of many clients at once.

func testList(t *testing.T, open opener) {
	s := open.client()
	for _, key := range []string{"b", "a/z", "ab/x", "a", "a/b/c", "a/b", "a-/x", "a0", "a/b-/c", "A/b", "a/B", "a.b/c"} {
		create(t, s, key, key)
	}
	for prefix, want := range map[string][]string{
		"":     {"A/b", "a", "a-/x", "a.b/c", "a/B", "a/b", "a/b-/c", "a/b/c", "a/z", "a0", "ab/x", "b"},
		"a/":   {"a/B", "a/b", "a/b-/c", "a/b/c", "a/z"},
		"a/b/": {"a/b/c"},
		"A/":   {"A/b"},
		"ab/":  {"ab/x"},
		"b/":   nil,
		"c/":   nil,
		"c/d/": nil,
	} {
		entries, _ := list(t, s, prefix)
		var keys []string
		for _, entry := range entries {
			keys = append(keys, entry.Key)
			if string(entry.Value) != entry.Key {
				t.Errorf("value of %s is %q", entry.Key, entry.Value)
			}
		}
		if !slices.Equal(keys, want) {
			t.Errorf("List %q = %v, want %v", prefix, keys, want)
		}
	}
}

func testRevisions(t *testing.T, open opener) {
	clients := []store.Store{open.client(), open.client()}
	last := store.Revision(0)
	grow := func(revision store.Revision) store.Revision {
		t.Helper()
		if revision <= last {
			t.Fatalf("revision %d does not follow %d", revision, last)
		}
		last = revision
		return revision
	}
	for i := range 10 {
		a, b := clients[i%2], clients[(i+1)%2]
		revision := grow(create(t, a, "a", "one"))
		other := grow(create(t, b, fmt.Sprintf("b/%d", i), ""))
		revision = grow(update(t, b, "a", "two", revision))
		remove(t, a, "a", revision)
		_, listed := list(t, b, "")
		grow(listed)
		remove(t, b, fmt.Sprintf("b/%d", i), other)
	}
}

func testClients(t *testing.T, open opener) {
	a, b := open.client(), open.client()
	revision := create(t, a, "x/a", "one")
	expect(t, b, store.Entry{Key: "x/a", Value: []byte("one"), Revision: revision})
	revision = update(t, b, "x/a", "two", revision)
	expect(t, a, store.Entry{Key: "x/a", Value: []byte("two"), Revision: revision})
	remove(t, a, "x/a", revision)
	if _, err := b.Get(t.Context(), "x/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of what another client deleted: %v, want ErrNotFound", err)
	}
	must(t, open.open().Close())
	expect(t, b, store.Entry{Key: "x/b", Revision: create(t, a, "x/b", "")})
}

func testConcurrentCreate(t *testing.T, open opener) {
	clients := []store.Store{open.client(), open.client(), open.client(), open.client()}
	for round := range 5 {
		key := fmt.Sprintf("block/%d", round)
		var winners atomic.Int32
		var winner atomic.Value
		together(32, func(i int) {
			value := strconv.Itoa(i)
			_, err := clients[i%len(clients)].Create(t.Context(), key, []byte(value))
			switch {
			case err == nil:
				winners.Add(1)
				winner.Store(value)
			case !errors.Is(err, store.ErrExists):
				t.Errorf("Create: %v, want ErrExists", err)
			}
		})
		if winners.Load() != 1 {
			t.Fatalf("%d of 32 concurrent Creates of one key succeeded", winners.Load())
		}
		entry, err := clients[0].Get(t.Context(), key)
		must(t, err)
		if string(entry.Value) != winner.Load() {
			t.Errorf("%s holds %q, but %q was told that it won", key, entry.Value, winner.Load())
		}
	}
}

func testConcurrentUpdate(t *testing.T, open opener) {
	const workers, increments = 8, 10
	clients := []store.Store{open.client(), open.client()}
	create(t, clients[0], "counter", "0")
	together(workers, func(i int) {
		for range increments {
			if err := increment(t.Context(), clients[i%len(clients)], "counter"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	entry, err := clients[0].Get(t.Context(), "counter")
	must(t, err)
	if string(entry.Value) != strconv.Itoa(workers*increments) {
		t.Errorf("counter is %s after %d increments", entry.Value, workers*increments)
	}
}

// increment adds one to a counter, however often others do so in between.
func increment(ctx context.Context, s store.Store, key string) error {
	for {
		entry, err := s.Get(ctx, key)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(entry.Value))
		if err != nil {
			return err
		}
		_, err = s.Update(ctx, key, strconv.AppendInt(nil, int64(n)+1, 10), entry.Revision)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// testSteadyList moves a token along keys: created at the next before it is
// deleted at the last. Every listing shows it at one place or two, and nothing
// newer than the revision of the listing.
func testSteadyList(t *testing.T, open opener) {
	const steps = 60
	writer, reader := open.client(), open.client()
	revision := create(t, writer, "token/0", "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; i <= steps; i++ {
			next, err := writer.Create(t.Context(), fmt.Sprintf("token/%d", i), nil)
			if err == nil {
				err = writer.Delete(t.Context(), fmt.Sprintf("token/%d", i-1), revision)
			}
			if err != nil {
				t.Error(err)
				return
			}
			revision = next
		}
	}()
	defer func() { <-done }()
	last := store.Revision(0)
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		entries, at := list(t, reader, "token/")
		if len(entries) < 1 || len(entries) > 2 {
			t.Fatalf("at %d there are %d tokens", at, len(entries))
		}
		for _, entry := range entries {
			if entry.Revision > at {
				t.Fatalf("List at %d shows %s at %d", at, entry.Key, entry.Revision)
			}
		}
		if at < last {
			t.Fatalf("List went from %d back to %d", last, at)
		}
		last = at
	}
}

// together runs a function n times at once and waits for all.
func together(n int, fn func(i int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	all.Wait()
}
