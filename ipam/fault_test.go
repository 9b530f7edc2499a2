package ipam

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
)

// fault fails the write (or truncation) that comes after so many others.
type fault struct {
	after int
	// stop fails all that follow, as if the process had been killed; otherwise the
	// fault is a disk that was full for a moment.
	stop bool
	// part is how much of the write is done all the same.
	part part
	hit  bool
}

type part int

const (
	nothing part = iota
	onePage      // as far as the kernel copies a write in one
	everything
)

// of is the length of the part.
func (p part) of(length int, at int64) int {
	switch p {
	case onePage:
		return min(length, int(headerSize-at%headerSize))
	case everything:
		return length
	default:
		return 0
	}
}

var errFault = fmt.Errorf("injected: %w", syscall.ENOSPC)

func (x *fault) next() error {
	if x.hit && !x.stop {
		return nil
	}
	if x.after--; x.after >= 0 {
		return nil
	}
	x.hit = true
	return errFault
}

func (x *fault) wrap(f file) file { return faultyFile{f, x} }

type faultyFile struct {
	file
	fault *fault
}

func (f faultyFile) WriteAt(b []byte, at int64) (int, error) {
	before := f.fault.hit
	if err := f.fault.next(); err != nil {
		if n := f.fault.part.of(len(b), at); n > 0 && !before {
			f.file.WriteAt(b[:n], at)
		}
		return 0, err
	}
	return f.file.WriteAt(b, at)
}

func (f faultyFile) Truncate(size int64) error {
	before := f.fault.hit
	if err := f.fault.next(); err != nil {
		if f.fault.part == everything && !before {
			f.file.Truncate(size)
		}
		return err
	}
	return f.file.Truncate(size)
}

func (f faultyFile) Sync() error { return nil }

// noSync spares tests that make many ledgers the wait for the disk.
type noSync struct{ file }

func (noSync) Sync() error { return nil }

func withoutSync(f file) file { return noSync{f} }

// faultRanges are what the operations under fault use.
var (
	faultV4  = between("10.0.0.1", "10.0.0.6", "10.0.0.5/32")
	faultNew = between("10.0.0.2", "10.0.0.9", "10.0.0.3/32")
	faultV6  = between("fd00::1", "fd00::ff")
)

func dual(n int) Request {
	return Request{Attachment: pod(n), Sets: []RangeSet{{faultV4}, {faultV6}}}
}

// faultOps are operations on a ledger in which pods 1 and 3 hold two addresses
// each, those of pod 2 are free, and some are withdrawn that none ever held.
var faultOps = map[string]struct {
	boot string
	do   func(*Ledger) error
}{
	"allocate new": {"", func(l *Ledger) error { _, err := l.Allocate(context.Background(), dual(9)); return err }},
	"allocate used": {"", func(l *Ledger) error {
		_, err := l.Allocate(context.Background(), ask(pod(9), between("10.0.0.2", "10.0.0.2")))
		return err
	}},
	"allocate fixed": {"", func(l *Ledger) error {
		req := dual(9)
		req.Addresses = addrs("fd00::2", "10.0.0.6")
		_, err := l.Allocate(context.Background(), req)
		return err
	}},
	"allocate elsewhere": {"", func(l *Ledger) error {
		req := dual(9)
		req.Elsewhere = true
		_, err := l.Allocate(context.Background(), req)
		return err
	}},
	"withdraw part": {"", func(l *Ledger) error {
		return l.Withdraw(context.Background(), between("10.0.0.2", "10.0.0.2"))
	}},
	"withdraw all": {"", func(l *Ledger) error { return l.Withdraw(context.Background(), between("fd00::4", "fd00::ff")) }},
	"admit part":   {"", func(l *Ledger) error { return l.Admit(context.Background(), between("fd00::7", "fd00::7")) }},
	"admit all":    {"", func(l *Ledger) error { return l.Admit(context.Background(), between("10.0.0.0", "10.0.0.9")) }},
	"release if": {"", func(l *Ledger) error {
		all, err := l.Lookup(context.Background(), pod(3))
		if err != nil || len(all) == 0 {
			return err
		}
		_, err = l.ReleaseIf(context.Background(), all[0])
		return err
	}},
	"release":      {"", func(l *Ledger) error { _, err := l.Release(context.Background(), pod(3)); return err }},
	"retain":       {"", func(l *Ledger) error { _, err := l.Retain(context.Background(), []Attachment{pod(2)}); return err }},
	"change range": {"", func(l *Ledger) error { _, err := l.Allocate(context.Background(), ask(pod(9), faultNew)); return err }},
	"reboot":       {"boot-2", func(l *Ledger) error { _, err := l.Allocate(context.Background(), dual(9)); return err }},
	"rebuild": {"", func(l *Ledger) error {
		return Rebuild(context.Background(), l.path, l.opts, []Allocation{{Attachment: pod(7), Address: addr("10.0.0.3")}})
	}},
}

func prepareFault(t *testing.T, path string) {
	l := open(t, path, Options{wrap: withoutSync})
	for n := 1; n <= 3; n++ {
		allocate(t, l, dual(n))
	}
	release(t, l, pod(2))
	withdraw(t, l, between("10.0.0.4", "10.0.0.4"), between("fd00::6", "fd00::8"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// outlook is what a ledger holds and what it would do next, in a copy.
func outlook(t *testing.T, path, boot string) []string {
	t.Helper()
	ctx := context.Background()
	copied := filepath.Join(t.TempDir(), "copy")
	content, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(copied, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, copied, Options{BootID: boot, wrap: withoutSync, Now: newClock().now})
	verify(t, l)
	var seen []string
	note := func(what any, err error) {
		seen = append(seen, fmt.Sprint(what, errors.Is(err, ErrFull), errors.Is(err, ErrHeld)))
		if errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	}
	for n := 1; n <= 9; n++ {
		held, err := l.Lookup(ctx, pod(n))
		for i := range held {
			held[i].Since = newClock().at
		}
		note(held, err)
	}
	gone, err := l.Withdrawn(ctx)
	note(gone, err)
	usage, err := l.Usage(ctx, []RangeSet{{faultV4}, {faultV6}})
	note(usage, err)
	for n := 20; n < 26; n++ {
		got, err := l.Allocate(ctx, dual(n))
		note(got, err)
	}
	verify(t, l)
	return seen
}

// Every operation is stopped before each of its writes, and the repair after it
// before each of its own: the ledger is as before or as after, in all that can be
// seen of it.
func TestStopAtEveryWrite(t *testing.T) {
	for name, op := range faultOps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			boot := op.boot
			if boot == "" {
				boot = "boot-1"
			}
			attempt := func(after int) (string, bool) {
				path := filepath.Join(dir, fmt.Sprintf("%s-%d", filepath.Base(t.Name()), after))
				prepareFault(t, path)
				x := &fault{after: after, stop: true}
				err := op.do(open(t, path, Options{BootID: boot, wrap: x.wrap}))
				if x.hit != (err != nil) {
					t.Fatalf("fault %v, error %v", x.hit, err)
				}
				return path, !x.hit
			}
			fresh := filepath.Join(dir, "before")
			prepareFault(t, fresh)
			before := outlook(t, fresh, boot)
			stops := 0
			for ; ; stops++ {
				path, done := attempt(stops)
				seen := outlook(t, path, boot)
				if done {
					if reflect.DeepEqual(seen, before) {
						t.Fatal("the operation did nothing")
					}
					break
				}
				if !reflect.DeepEqual(seen, before) {
					t.Fatalf("stopped after %d writes:\n%v\nbefore:\n%v", stops, seen, before)
				}
				stopRepair(t, path, boot, before)
			}
			if stops < 3 {
				t.Fatalf("only %d writes", stops)
			}
		})
	}
}

// stopRepair stops the repair of a ledger before each of its writes in turn.
func stopRepair(t *testing.T, path, boot string, before []string) {
	t.Helper()
	for after := 0; ; after++ {
		x := &fault{after: after, stop: true}
		_, err := open(t, path, Options{BootID: boot, wrap: x.wrap}).All(context.Background())
		if !x.hit {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if seen := outlook(t, path, boot); !reflect.DeepEqual(seen, before) {
			t.Fatalf("repair stopped after %d writes:\n%v\nbefore:\n%v", after, seen, before)
		}
	}
	if seen := outlook(t, path, boot); !reflect.DeepEqual(seen, before) {
		t.Fatalf("repaired:\n%v\nbefore:\n%v", seen, before)
	}
}

// A write that fails once is an error, and the operation is taken back at once.
func TestFullDiskAtEveryWrite(t *testing.T) {
	for name, op := range faultOps {
		if name == "reboot" {
			continue // starts anew whenever it can; nothing to take back
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fresh := filepath.Join(dir, "before")
			prepareFault(t, fresh)
			before := outlook(t, fresh, "boot-1")
			for after := 0; ; after++ {
				path := filepath.Join(dir, fmt.Sprint(after))
				prepareFault(t, path)
				x := &fault{after: after}
				err := op.do(open(t, path, Options{wrap: x.wrap}))
				if !x.hit {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				wantErr(t, err, syscall.ENOSPC, path)
				if dirty(t, path) {
					t.Fatalf("write %d failed and the header is dirty", after)
				}
				if _, err := os.Stat(path + ".new"); err == nil {
					t.Fatal("a file was left behind")
				}
				if seen := outlook(t, path, "boot-1"); !reflect.DeepEqual(seen, before) {
					t.Fatalf("write %d failed:\n%v\nbefore:\n%v", after, seen, before)
				}
			}
		})
	}
}

// dirty reads the mark in the header.
func dirty(t testing.TB, path string) bool {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) < headerSize {
		return true
	}
	head, err := decodeHeader(content[dynamicOffset : dynamicOffset+dynamicSize])
	if err != nil {
		t.Fatal(err)
	}
	return head.dirty
}

// The first operation on an empty file, stopped before each write.
func TestStopWhileStarting(t *testing.T) {
	for after := 0; ; after++ {
		path := filepath.Join(t.TempDir(), "ledger")
		x := &fault{after: after, stop: true}
		_, err := open(t, path, Options{wrap: x.wrap}).Allocate(context.Background(), dual(1))
		if x.hit != (err != nil) {
			t.Fatalf("fault %v, error %v", x.hit, err)
		}
		l := open(t, path, Options{wrap: withoutSync})
		verify(t, l)
		wantAddrs(t, allocate(t, l, dual(1)), "10.0.0.1", "fd00::1")
		verify(t, l)
		if !x.hit {
			return
		}
	}
}
