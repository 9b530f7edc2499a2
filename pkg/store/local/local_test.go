package local

import (
	"context"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) func() store.Store {
		dir := t.TempDir()
		return func() store.Store { return open(t, dir, Options{NoSync: true}) }
	})
}

// open opens a store or ends the test.
func open(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// soon is a context for what must not take long.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestRevisionNeverGoesBack reads the revision while a key comes and goes.
func TestRevisionNeverGoesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writer, reader := open(t, dir, Options{NoSync: true}), open(t, dir, Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			revision, err := writer.Create(t.Context(), "a", nil)
			if err == nil {
				err = writer.Delete(t.Context(), "a", revision)
			}
			if err != nil {
				t.Error(err)
				return
			}
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
		revision, err := reader.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if revision < last {
			t.Fatalf("revision went from %d back to %d", last, revision)
		}
		last = revision
	}
	if last != 600 {
		t.Errorf("store is at %d after 600 changes", last)
	}
}
