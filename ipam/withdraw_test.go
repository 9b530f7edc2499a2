package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func withdraw(t testing.TB, l *Ledger, ranges ...Range) {
	t.Helper()
	for _, r := range ranges {
		if err := l.Withdraw(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func admit(t testing.TB, l *Ledger, r Range) {
	t.Helper()
	if err := l.Admit(context.Background(), r); err != nil {
		t.Fatal(err)
	}
}

func wantWithdrawn(t testing.TB, l *Ledger, want ...string) {
	t.Helper()
	all, err := l.Withdrawn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range all {
		got = append(got, r.String())
	}
	if !slices.Equal(got, want) {
		t.Fatalf("withdrawn are %v, want %v", got, want)
	}
}

func TestWithdrawnIsNotGiven(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	first, second := between("10.0.0.0", "10.0.0.3", "10.0.0.0/32"), between("10.0.1.0", "10.0.1.1")
	wantAddrs(t, allocate(t, l, ask(pod(1), first, second)), "10.0.0.1")
	err := l.Withdraw(ctx, first)
	wantErr(t, err, ErrInUse, "1 held of 10.0.0.0-10.0.0.3", "10.0.0.1", "pod-1", l.path)
	wantWithdrawn(t, l)
	wantAddrs(t, allocate(t, l, ask(pod(2), first, second)), "10.0.0.2")
	err = l.Withdraw(ctx, between("0.0.0.0", "255.255.255.255"))
	wantErr(t, err, ErrInUse, "2 held", "10.0.0.1", "pod-1")
	release(t, l, pod(1))
	release(t, l, pod(2))
	withdraw(t, l, first, first)
	wantWithdrawn(t, l, "10.0.0.0-10.0.0.3")
	verify(t, l)
	// The next of the set; another definition; what the range excluded; a fixed one.
	wantAddrs(t, allocate(t, l, ask(pod(3), first, second)), "10.0.1.0")
	wantAddrs(t, allocate(t, l, ask(pod(4), between("9.255.255.255", "10.0.0.9"))), "9.255.255.255")
	wantAddrs(t, allocate(t, l, ask(pod(5), between("10.0.0.0", "10.0.0.9"))), "10.0.0.4")
	fixed := ask(pod(6), first)
	fixed.Addresses = addrs("10.0.0.1")
	_, err = l.Allocate(ctx, fixed)
	wantErr(t, err, ErrWithdrawn, "10.0.0.1 is withdrawn")
	verify(t, l)
	wantAddrs(t, allocate(t, l, ask(pod(7), first, second)), "10.0.1.1")
	_, err = l.Allocate(ctx, ask(pod(8), first, second))
	wantErr(t, err, ErrFull, "10.0.0.0-10.0.0.3, 10.0.1.0-10.0.1.1", "1 of 2 ranges withdrawn")
	wantErr(t, err, ErrWithdrawn)
	_, err = l.Allocate(ctx, ask(pod(8), second))
	wantErr(t, err, ErrFull)
	usage, err := l.Usage(ctx, []RangeSet{{first, second}})
	if err != nil || usage[0] != (Usage{Taken: 2, Withdrawn: 3, Total: 5}) {
		t.Fatalf("usage %+v, %v", usage, err)
	}
	// What was never given comes first again, then what was freed first.
	admit(t, l, between("10.0.0.0", "10.0.0.255"))
	admit(t, l, first)
	wantWithdrawn(t, l)
	for n, want := range []string{"10.0.0.3", "10.0.0.1", "10.0.0.2"} {
		wantAddrs(t, allocate(t, l, ask(pod(20+n), first)), want)
	}
	verify(t, l)
}

// A range of which a part is withdrawn gives the rest, and all once it is
// admitted: its cursor and its queue have passed over nothing for good.
func TestWithdrawPartOfARange(t *testing.T) {
	for name, r := range map[string]Range{
		"small": between("10.0.0.1", "10.0.0.8"),
		"/64":   between("fd00::1", "fd00::ffff:ffff:ffff:ffff"),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t, Options{})
			at := func(n int) string {
				a := r.First
				for range n - 1 {
					a = a.Next()
				}
				return a.String()
			}
			for n := range 3 {
				wantAddrs(t, allocate(t, l, ask(pod(n), r)), at(n+1))
			}
			for n := range 3 {
				release(t, l, pod(n))
			}
			withdraw(t, l, between(at(2), at(2)), between(at(4), at(6)))
			for n, want := range []int{7, 8} {
				wantAddrs(t, allocate(t, l, ask(pod(10+n), r)), at(want))
				verify(t, l)
			}
			if name == "small" {
				for n, want := range []int{1, 3} {
					wantAddrs(t, allocate(t, l, ask(pod(20+n), r)), at(want))
				}
				_, err := l.Allocate(context.Background(), ask(pod(29), r))
				wantErr(t, err, ErrFull)
				wantErr(t, err, ErrWithdrawn)
			}
			admit(t, l, between(at(5), at(5)))
			wantWithdrawn(t, l, at(2)+"-"+at(2), at(4)+"-"+at(4), at(6)+"-"+at(6))
			wantAddrs(t, allocate(t, l, ask(pod(30), r)), at(5))
			admit(t, l, r)
			wantWithdrawn(t, l)
			wants := []int{4, 6}
			if name == "small" {
				wants = append(wants, 2)
			}
			for n, want := range wants {
				wantAddrs(t, allocate(t, l, ask(pod(40+n), r)), at(want))
				verify(t, l)
			}
		})
	}
}

func TestWithdrawnRangesAreMerged(t *testing.T) {
	l := newLedger(t, Options{})
	withdraw(t, l, between("10.0.0.0", "10.0.0.63"), between("10.0.0.128", "10.0.0.191"), between("fd00::", "fd00::3f"))
	wantWithdrawn(t, l, "10.0.0.0-10.0.0.63", "10.0.0.128-10.0.0.191", "fd00::-fd00::3f")
	withdraw(t, l, between("10.0.0.64", "10.0.0.127"), between("fd00::20", "fd00::7f"))
	wantWithdrawn(t, l, "10.0.0.0-10.0.0.191", "fd00::-fd00::7f")
	withdraw(t, l, between("255.255.255.0", "255.255.255.255"), between("::", "::3"))
	wantWithdrawn(t, l, "10.0.0.0-10.0.0.191", "255.255.255.0-255.255.255.255", "::-::3", "fd00::-fd00::7f")
	admit(t, l, between("10.0.0.64", "255.255.255.254"))
	admit(t, l, between("::", "::fffe"))
	wantWithdrawn(t, l, "10.0.0.0-10.0.0.63", "255.255.255.255-255.255.255.255", "fd00::-fd00::7f")
	verify(t, l)
}

// However often blocks are withdrawn and admitted, the file stays as it is, and
// the list has an end.
func TestWithdrawnListIsBounded(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{wrap: withoutSync})
	block := func(n int) Range {
		first := netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0})
		return Range{First: first, Last: first.Next()}
	}
	allocate(t, l, ask(pod(1), block(0)))
	release(t, l, pod(1))
	info, err := l.disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	size := info.Size()
	for range 3 {
		for n := range MaxWithdrawn {
			withdraw(t, l, block(n))
		}
		wantErr(t, l.Withdraw(ctx, block(MaxWithdrawn)), ErrTooMany, "at most 256", l.path)
		withdraw(t, l, Range{First: block(7).First, Last: block(8).Last}) // fewer, not more
		withdraw(t, l, block(MaxWithdrawn))
		wantErr(t, l.Admit(ctx, between("10.0.7.9", "10.0.7.9")), ErrTooMany) // the middle of one
		verify(t, l)
		_, err := l.Allocate(ctx, ask(pod(1), block(0), block(3)))
		wantErr(t, err, ErrFull, "2 of 2")
		for n := range MaxWithdrawn + 1 {
			admit(t, l, Range{First: block(n).First, Last: netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 255})})
		}
		wantWithdrawn(t, l)
	}
	if info, err = l.disk.Stat(); err != nil || info.Size() != size {
		t.Fatalf("grew from %d to %d, %v", size, info.Size(), err)
	}
	wantAddrs(t, allocate(t, l, ask(pod(1), block(0))), "10.0.0.1")
}

func TestWithdrawRefuses(t *testing.T) {
	l := newLedger(t, Options{})
	for name, r := range map[string]Range{
		"no bound": {First: addr("10.0.0.1")},
		"reversed": between("10.0.0.9", "10.0.0.1"),
		"families": between("10.0.0.1", "fd00::1"),
		"zone":     between("fe80::1%eth0", "fe80::9%eth0"),
		"mapped":   between("::", "ffff::"),
	} {
		t.Run(name, func(t *testing.T) {
			wantErr(t, l.Withdraw(context.Background(), r), ErrInvalid)
			wantErr(t, l.Admit(context.Background(), r), ErrInvalid)
		})
	}
}

// The list is of the boot, and of the ledger rather than of its file.
func TestWithdrawnAfterRebootAndRebuild(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	r, other := between("10.0.0.1", "10.0.0.9"), between("10.0.1.1", "10.0.1.9")
	withdraw(t, l, r)
	// Nothing but the list is in the ledger, and the next operation dies.
	dying := open(t, l.path, Options{wrap: (&fault{after: 2, stop: true}).wrap})
	if _, err := dying.Allocate(ctx, ask(pod(1), other)); err == nil {
		t.Fatal("lived")
	}
	wantWithdrawn(t, l, "10.0.0.1-10.0.0.9")
	live := []Allocation{{Attachment: pod(1), Address: addr("10.0.1.1")}, {Attachment: pod(2), Address: addr("10.0.0.2")}}
	if err := Rebuild(ctx, l.path, l.opts, live); err != nil {
		t.Fatal(err)
	}
	wantWithdrawn(t, l, "10.0.0.1-10.0.0.9")
	verify(t, l)
	// What lives in there keeps its address and isn't followed by another.
	wantAddrs(t, allocate(t, l, ask(pod(2), r)), "10.0.0.2")
	_, err := l.Allocate(ctx, ask(pod(3), r))
	wantErr(t, err, ErrFull)
	wide := between("10.0.0.0", "10.0.0.10")
	wantAddrs(t, allocate(t, l, ask(pod(3), wide)), "10.0.0.0")
	usage, err := l.Usage(ctx, []RangeSet{{wide}})
	if err != nil || usage[0] != (Usage{Taken: 1, Free: 1, Withdrawn: 9, Total: 11}) {
		t.Fatalf("usage %+v, %v", usage, err)
	}
	wantErr(t, l.Withdraw(ctx, r), ErrInUse, "pod-2")
	wantAddrs(t, release(t, l, pod(2)), "10.0.0.2")
	verify(t, l)
	withdraw(t, l, r)
	if err := Rebuild(ctx, l.path, l.opts, nil); err != nil {
		t.Fatal(err)
	}
	wantWithdrawn(t, l, "10.0.0.1-10.0.0.9")
	next := open(t, l.path, Options{BootID: "boot-2"})
	wantWithdrawn(t, next)
	wantAddrs(t, allocate(t, next, ask(pod(1), r)), "10.0.0.1")
}

// A block that is given back and claimed again, for years.
func TestBlockComesAndGoes(t *testing.T) {
	l := newLedger(t, Options{wrap: withoutSync})
	r := between("10.0.0.0", "10.0.0.3")
	for n := range 200 {
		allocate(t, l, ask(pod(n), r))
		wantErr(t, l.Withdraw(context.Background(), r), ErrInUse)
		release(t, l, pod(n))
		withdraw(t, l, r)
		_, err := l.Allocate(context.Background(), ask(pod(n), r))
		wantErr(t, err, ErrWithdrawn)
		admit(t, l, r)
	}
	verify(t, l)
}

func TestReleaseIf(t *testing.T) {
	ctx := context.Background()
	c := newClock()
	l := newLedger(t, Options{Now: c.now})
	r := between("10.0.0.1", "10.0.0.1")
	long := Attachment{string(make([]byte, MaxContainerID)), "eth0"}
	for name, who := range map[string]Attachment{"short ID": pod(1), "long ID": long} {
		t.Run(name, func(t *testing.T) {
			allocate(t, l, ask(who, r))
			all, err := l.All(ctx)
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			seen := all[0]
			c.advance(1)
			check := func(what string, a Allocation, want bool) {
				t.Helper()
				if got, err := l.ReleaseIf(ctx, a); err != nil || got != want {
					t.Fatalf("%s: %v, %v", what, got, err)
				}
				verify(t, l)
			}
			other := seen
			other.Since = other.Since.Add(1)
			check("another time", other, false)
			other = seen
			other.Attachment = pod(2)
			check("another attachment", other, false)
			other = seen
			other.Truncated = !other.Truncated
			check("another length", other, false)
			other = seen
			other.Address = addr("10.0.0.2")
			check("another address", other, false)
			check("the same", seen, true)
			check("once more", seen, false)
			c.advance(1)
			allocate(t, l, ask(who, r))
			check("taken again by the same", seen, false)
			held, err := l.Lookup(ctx, who)
			if err != nil || len(held) != 1 {
				t.Fatal(held, err)
			}
			check("as looked up", held[0], true)
		})
	}
	for _, bad := range []Allocation{{Attachment: pod(1)}, {Address: addr("10.0.0.1")}} {
		_, err := l.ReleaseIf(ctx, bad)
		wantErr(t, err, ErrInvalid)
	}
}

// Who frees what he saw races with who takes it again: whatever happens, the one
// who takes it keeps it.
func TestReleaseIfRacesWithAllocate(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := newLedger(t, Options{})
	collector := open(t, l.path, Options{})
	r := between("10.0.0.1", "10.0.0.1")
	for n := range 200 {
		a := pod(n % 2)
		allocate(t, l, ask(a, r))
		all, err := collector.All(ctx)
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		release(t, l, a)
		done := make(chan error)
		go func() {
			freed, err := collector.ReleaseIf(ctx, all[0])
			if freed {
				err = fmt.Errorf("freed %v", all[0])
			}
			done <- err
		}()
		allocate(t, l, ask(a, r))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wantAddrs(t, release(t, l, a), "10.0.0.1")
	}
}
