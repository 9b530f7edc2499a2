package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

func TestWatchAfterTooManyDeletions(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), Options{NoSync: true})
	var first, last store.Revision
	for i := range maxDeletions + 1 {
		key := fmt.Sprintf("a/%d", i)
		revision, err := s.Create(t.Context(), key, nil)
		if err == nil {
			err = s.Delete(t.Context(), key, revision)
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = revision + 1
		}
		last = revision + 1
	}
	// One more change pushes the first deletion out.
	if _, err := s.Create(t.Context(), "end", nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		after  store.Revision
		prefix string
		want   error
	}{
		{"before a forgotten deletion", first - 1, "", store.ErrCompacted},
		{"before a forgotten deletion, elsewhere", first - 1, "b/", store.ErrCompacted},
		{"at the last forgotten deletion", first, "", errEnough},
		{"at the last deletion", last, "", errEnough},
		{"a revision that was never reached", last + 2, "", store.ErrCompacted},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := s.Watch(soon(t), test.prefix, test.after, func(event store.Event) error {
				if event.Key == "end" {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, test.want) {
				t.Errorf("watch after %d: %v, want %v", test.after, err, test.want)
			}
		})
	}
}

var errEnough = errors.New("enough")

func TestWatchEndsWithTheDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := s.Create(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	err := s.Watch(soon(t), "", 0, func(store.Event) error { return os.RemoveAll(dir) })
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("watch: %v, want ErrCorrupt", err)
	}
}

// TestWatchesShareANotifier: the system's watcher is there for as long as
// somebody watches.
func TestWatchesShareANotifier(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), Options{})
	for range 3 {
		const watches = 5
		ctx, cancel := context.WithCancel(soon(t))
		seen, ended := make(chan struct{}, watches), make(chan error, watches)
		_, after, err := s.List(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for range watches {
			go func() {
				ended <- s.Watch(ctx, "", after, func(store.Event) error {
					seen <- struct{}{}
					return nil
				})
			}()
		}
		revision, err := s.Create(ctx, "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		for range watches {
			select {
			case <-seen:
			case <-ctx.Done():
				t.Fatal("a watch delivers nothing")
			}
		}
		s.notifier.mu.Lock()
		if len(s.notifier.wakes) != watches || s.notifier.watcher == nil {
			t.Errorf("%d subscriptions, want %d", len(s.notifier.wakes), watches)
		}
		s.notifier.mu.Unlock()
		cancel()
		for range watches {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("watch: %v", err)
			}
		}
		if s.notifier.watcher != nil || len(s.notifier.wakes) != 0 {
			t.Error("the notifier outlives the watches")
		}
		if err := s.Delete(t.Context(), "a", revision); err != nil {
			t.Fatal(err)
		}
	}
}
