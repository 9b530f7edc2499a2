package etcd_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/mirror"
)

// TestExpiring: what isn't written again goes, after its time and not before,
// whether or not its writer still runs; what is, stays; those who watch are told.
func TestExpiring(t *testing.T) {
	t.Parallel()
	const ttl = 4 * time.Second
	c := etcdtest.New(t, 1)
	writer := mirror.New(open(t, c, "/expiring/"), mirror.Options{})
	s := writer.Expiring(ttl)
	reader := open(t, c, "/expiring/")
	t.Cleanup(func() { _ = reader.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	dead, kept, plain := must(s.Create(ctx, "dead", []byte("1")))(t), must(s.Create(ctx, "kept", []byte("1")))(t), must(writer.Create(ctx, "plain", []byte("1")))(t)
	other := open(t, c, "/expiring/") // another daemon keeps it from now on
	t.Cleanup(func() { _ = other.Close() })
	kept = must(other.Expiring(ttl).Update(ctx, "kept", []byte("2"), kept))(t)
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	written := time.Now()
	if _, err := reader.Get(ctx, "dead"); err != nil {
		t.Fatalf("it went with its writer: %v", err)
	}
	renew := time.NewTicker(ttl / 4)
	defer renew.Stop()
	gone := make(chan store.Event, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- reader.Watch(ctx, "", plain, func(e store.Event) error {
			if e.Deleted {
				gone <- e
			}
			return nil
		})
	}()
	for {
		select {
		case <-renew.C:
			kept = must(other.Expiring(ttl).Update(ctx, "kept", []byte("2"), kept))(t)
			continue
		case err := <-ended:
			t.Fatal(err)
		case e := <-gone:
			if took := time.Since(written); e.Key != "dead" || e.Revision <= dead || took < ttl-time.Second {
				t.Errorf("%s went after %s", e.Key, took)
			}
		}
		break
	}
	for _, key := range []string{"kept", "plain"} {
		if _, err := reader.Get(ctx, key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := reader.Get(ctx, "dead"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what expired: %v", err)
	}
}

// must takes what a call returned, for a test that stops at its error.
func must(revision store.Revision, err error) func(t *testing.T) store.Revision {
	return func(t *testing.T) store.Revision {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
}
