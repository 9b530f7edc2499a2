package local

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

func TestLockedByAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, Options{LockTimeout: 50 * time.Millisecond})
	revision, err := s.Create(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	holder := startChild(t, "hold", dir)
	if line, _ := holder.line(); line != "held" {
		t.Fatalf("holder says %q", line)
	}
	// One who gave up is in nobody's way.
	for range 2 {
		began := time.Now()
		_, err := s.Create(t.Context(), "b", nil)
		if !errors.Is(err, store.ErrLocked) {
			t.Fatalf("Create: %v, want ErrLocked", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("Create took %v", took)
		}
		for _, want := range []string{dir, fmt.Sprintf("process %d ", holder.Process.Pid)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not name %q", err, want)
			}
		}
	}
	checkContextBoundsLock(t, dir)
	// Readers need no lock.
	if entries, at, err := s.List(t.Context(), ""); err != nil || len(entries) != 1 || at != revision {
		t.Errorf("List = %v at %d, %v", entries, at, err)
	}
	holder.kill()
	_ = holder.Wait()
	patient := open(t, dir, Options{LockTimeout: time.Minute})
	if _, err := patient.Create(t.Context(), "b", nil); err != nil {
		t.Errorf("Create after the holder's death: %v", err)
	}
	if _, err := s.Create(t.Context(), "c", nil); err != nil {
		t.Errorf("Create by who had waited: %v", err)
	}
}

func checkContextBoundsLock(t *testing.T, dir string) {
	t.Helper()
	s := open(t, dir, Options{LockTimeout: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := s.Create(ctx, "b", nil)
	if !errors.Is(err, store.ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create: %v, want ErrLocked and DeadlineExceeded", err)
	}
}

func TestLockIsHandedOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, Options{LockTimeout: time.Minute})
	holder := startChild(t, "hold", dir)
	if line, _ := holder.line(); line != "held" {
		t.Fatalf("holder says %q", line)
	}
	created := make(chan error, 1)
	go func() {
		_, err := s.Create(t.Context(), "a", nil)
		created <- err
	}()
	select {
	case err := <-created:
		t.Fatalf("Create did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := holder.input.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err != nil {
		t.Error(err)
	}
	if err := holder.Wait(); err != nil {
		t.Error(err)
	}
}

// TestClaimsOfProcesses: several processes create the same keys at once, and
// each key goes to exactly one of them.
func TestClaimsOfProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	children := make([]*child, 3)
	for i := range children {
		children[i] = startChild(t, "claim", dir)
		if line, _ := children[i].line(); line != "ready" {
			t.Fatalf("child says %q", line)
		}
	}
	for _, c := range children {
		if err := c.input.Close(); err != nil {
			t.Fatal(err)
		}
	}
	winners := map[string]int{}
	for _, c := range children {
		for key, ok := c.line(); ok; key, ok = c.line() {
			if winners[key] != 0 {
				t.Errorf("%s was given to %d and %d", key, winners[key], c.Process.Pid)
			}
			winners[key] = c.Process.Pid
		}
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	entries, _, err := open(t, dir, Options{}).List(t.Context(), "block/")
	if err != nil || len(entries) != claims || len(winners) != claims {
		t.Fatalf("%d keys, %d winners (%v), want %d", len(entries), len(winners), err, claims)
	}
	for _, entry := range entries {
		if string(entry.Value) != fmt.Sprint(winners[entry.Key]) {
			t.Errorf("%s holds %s, but %d was told that it won", entry.Key, entry.Value, winners[entry.Key])
		}
	}
}
