package ipam

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/filelock"
)

func TestLockedByAnother(t *testing.T) {
	l := newLedger(t, Options{LockWait: 20 * time.Millisecond})
	holder, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if locked, err := filelock.Try(holder, filelock.Exclusive); err != nil || !locked {
		t.Fatal(locked, err)
	}
	_, err = l.All(context.Background())
	wantErr(t, err, ErrLocked, l.path)
	wantErr(t, err, context.DeadlineExceeded)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = l.Allocate(ctx, ask(pod(1), between("10.0.0.1", "10.0.0.9")))
	wantErr(t, err, context.Canceled)
	if err := filelock.Release(holder); err != nil {
		t.Fatal(err)
	}
	if _, err := l.All(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestReplacedAndRemovedFiles(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "ledger")
	r := between("10.0.0.1", "10.0.0.9")
	live := []Allocation{{Attachment: pod(5), Address: addr("10.0.0.2")}, {Attachment: pod(5), Address: addr("fd00::1")}}
	l := open(t, path, Options{})
	allocate(t, l, ask(pod(1), r))
	if err := Rebuild(ctx, path, Options{BootID: "boot-1"}, live); err != nil {
		t.Fatal(err)
	}
	held, err := l.Lookup(ctx, pod(5))
	if err != nil || len(held) != 2 || held[0].Address != addr("10.0.0.2") {
		t.Fatalf("after a rebuild %v, %v", held, err)
	}
	verify(t, l)
	wantAddrs(t, allocate(t, l, ask(pod(1), r)), "10.0.0.1")
	wantAddrs(t, allocate(t, l, ask(pod(2), r)), "10.0.0.3")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	all, err := l.All(ctx)
	if err != nil || len(all) != 0 {
		t.Fatalf("after a removal %v, %v", all, err)
	}
	wantAddrs(t, release(t, l, pod(5)))
}

// A ledger that was lost is restored from what lives before it gives anything.
func TestLostLedgerIsRestored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	r := between("10.0.0.1", "10.0.0.9")
	calls := 0
	l := open(t, path, Options{Live: func(context.Context) ([]Allocation, error) {
		calls++
		return []Allocation{{Attachment: pod(5), Address: addr("10.0.0.1")}}, nil
	}})
	wantAddrs(t, allocate(t, l, ask(pod(1), r)), "10.0.0.2")
	wantAddrs(t, allocate(t, l, ask(pod(5), r)), "10.0.0.1")
	if calls != 1 {
		t.Fatalf("asked %d times", calls)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantAddrs(t, allocate(t, l, ask(pod(9), r)), "10.0.0.2")
	verify(t, l)
}

func TestRebuildRefuses(t *testing.T) {
	tests := map[string][]Allocation{
		"one address twice": {{Attachment: pod(1), Address: addr("10.0.0.1")}, {Attachment: pod(2), Address: addr("::ffff:10.0.0.1")}},
		"no address":        {{Attachment: pod(1)}},
		"no container":      {{Address: addr("10.0.0.1")}},
		"a cut ID":          {{Attachment: pod(1), Address: addr("10.0.0.1"), Truncated: true}},
	}
	for name, live := range tests {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			l := newLedger(t, Options{})
			r := between("10.0.0.1", "10.0.0.9")
			allocate(t, l, ask(pod(7), r))
			wantErr(t, Rebuild(ctx, l.path, l.opts, live), ErrInvalid)
			held, err := l.Lookup(ctx, pod(7))
			if err != nil || len(held) != 1 {
				t.Fatalf("the ledger that was: %v, %v", held, err)
			}
		})
	}
}
