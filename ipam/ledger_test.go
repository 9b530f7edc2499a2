package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(all ...string) []netip.Addr {
	parsed := make([]netip.Addr, 0, len(all))
	for _, s := range all {
		parsed = append(parsed, addr(s))
	}
	return parsed
}

// between makes a range from its bounds and what is excluded.
func between(first, last string, exclude ...string) Range {
	r := Range{First: addr(first), Last: addr(last)}
	for _, p := range exclude {
		r.Exclude = append(r.Exclude, netip.MustParsePrefix(p))
	}
	return r
}

func pod(n int) Attachment {
	return Attachment{ContainerID: fmt.Sprintf("pod-%d", n), Interface: "eth0"}
}

func ask(a Attachment, ranges ...Range) Request {
	return Request{Attachment: a, Sets: []RangeSet{ranges}}
}

// clock is a time that tests move.
type clock struct{ at time.Time }

func newClock() *clock                    { return &clock{time.Unix(1_700_000_000, 0)} }
func (c *clock) now() time.Time           { return c.at }
func (c *clock) advance(by time.Duration) { c.at = c.at.Add(by) }

func open(t testing.TB, path string, opts Options) *Ledger {
	t.Helper()
	if opts.BootID == "" {
		opts.BootID = "boot-1"
	}
	l, err := OpenLedger(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func newLedger(t testing.TB, opts Options) *Ledger {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "ledger"), opts)
}

func allocate(t testing.TB, l *Ledger, req Request) []netip.Addr {
	t.Helper()
	got, err := l.Allocate(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func release(t testing.TB, l *Ledger, a Attachment) []netip.Addr {
	t.Helper()
	got, err := l.Release(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func verify(t testing.TB, l *Ledger) {
	t.Helper()
	if err := l.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func wantAddrs(t testing.TB, got []netip.Addr, want ...string) {
	t.Helper()
	if !slices.Equal(got, addrs(want...)) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func wantErr(t testing.TB, err, target error, parts ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Fatalf("error %q doesn't name %q", err, part)
		}
	}
}

func TestOrderIsNeverUsedThenLeastRecentlyFreed(t *testing.T) {
	l := newLedger(t, Options{})
	r := between("10.0.0.0", "10.0.0.5", "10.0.0.0/32", "10.0.0.3/32")
	wantAddrs(t, allocate(t, l, ask(pod(1), r)), "10.0.0.1")
	wantAddrs(t, allocate(t, l, ask(pod(2), r)), "10.0.0.2")
	wantAddrs(t, release(t, l, pod(2)), "10.0.0.2")
	wantAddrs(t, release(t, l, pod(1)), "10.0.0.1")
	wantAddrs(t, release(t, l, pod(1)))
	wantAddrs(t, allocate(t, l, ask(pod(3), r)), "10.0.0.4")
	wantAddrs(t, allocate(t, l, ask(pod(4), r)), "10.0.0.5")
	wantAddrs(t, allocate(t, l, ask(pod(5), r)), "10.0.0.2")
	wantAddrs(t, allocate(t, l, ask(pod(6), r)), "10.0.0.1")
	_, err := l.Allocate(context.Background(), ask(pod(7), r))
	wantErr(t, err, ErrFull, "10.0.0.0-10.0.0.5", l.path)
	verify(t, l)
}

func TestFixedAddress(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	r := between("10.0.0.1", "10.0.0.9", "10.0.0.7/32")
	fixed := func(n int, a string) Request {
		req := ask(pod(n), r)
		req.Addresses = addrs(a)
		return req
	}
	wantAddrs(t, allocate(t, l, fixed(1, "10.0.0.2")), "10.0.0.2")
	wantAddrs(t, allocate(t, l, fixed(1, "10.0.0.2")), "10.0.0.2")
	_, err := l.Allocate(ctx, fixed(2, "10.0.0.2"))
	wantErr(t, err, ErrTaken, "pod-1", "eth0", "10.0.0.2")
	for _, outside := range []string{"10.0.0.7", "10.0.0.10", "fd00::1"} {
		_, err = l.Allocate(ctx, fixed(2, outside))
		wantErr(t, err, ErrOutsideRange, outside)
	}
	_, err = l.Allocate(ctx, fixed(1, "10.0.0.3"))
	wantErr(t, err, ErrHeld, "10.0.0.2")
	// The cursor passes over what a fixed request took, and a queue gives up its middle.
	for n, want := range []string{"10.0.0.1", "10.0.0.3", "10.0.0.4"} {
		wantAddrs(t, allocate(t, l, ask(pod(10+n), r)), want)
	}
	for n := range 3 {
		release(t, l, pod(10+n))
	}
	verify(t, l)
	wantAddrs(t, allocate(t, l, fixed(20, "10.0.0.3")), "10.0.0.3")
	verify(t, l)
	for n, want := range []string{"10.0.0.5", "10.0.0.6", "10.0.0.8", "10.0.0.9", "10.0.0.1", "10.0.0.4"} {
		wantAddrs(t, allocate(t, l, ask(pod(30+n), r)), want)
	}
	verify(t, l)
}

func TestSeveralSetsAreAllOrNothing(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	small, large := RangeSet{between("10.0.0.1", "10.0.0.1"), between("10.1.0.1", "10.1.0.1")}, RangeSet{between("fd00::1", "fd00::ffff:ffff:ffff:ffff")}
	dual := func(n int) Request { return Request{Attachment: pod(n), Sets: []RangeSet{large, small}} }
	wantAddrs(t, allocate(t, l, dual(1)), "fd00::1", "10.0.0.1")
	wantAddrs(t, allocate(t, l, dual(2)), "fd00::2", "10.1.0.1")
	wantAddrs(t, allocate(t, l, dual(2)), "fd00::2", "10.1.0.1")
	_, err := l.Allocate(ctx, dual(3))
	wantErr(t, err, ErrFull, "10.0.0.1", "10.1.0.1")
	_, err = l.Allocate(ctx, Request{Attachment: pod(1), Sets: []RangeSet{small}})
	wantErr(t, err, ErrHeld)
	_, err = l.Allocate(ctx, Request{Attachment: pod(1), Sets: []RangeSet{large, small, {between("10.2.0.1", "10.2.0.9")}}})
	wantErr(t, err, ErrHeld)
	held, err := l.Lookup(ctx, pod(3))
	if err != nil || len(held) != 0 {
		t.Fatalf("holds %v, %v", held, err)
	}
	usage, err := l.Usage(ctx, []RangeSet{large, small})
	if err != nil || usage[1] != (Usage{Taken: 2, Total: 2}) || usage[0].Taken != 2 || usage[0].Free < 1<<62 {
		t.Fatalf("usage %+v, %v", usage, err)
	}
	wantAddrs(t, release(t, l, pod(1)), "fd00::1", "10.0.0.1")
	wantAddrs(t, allocate(t, l, dual(3)), "fd00::3", "10.0.0.1")
	verify(t, l)
}

func TestCooldown(t *testing.T) {
	c := newClock()
	l := newLedger(t, Options{Cooldown: time.Minute, Now: c.now})
	first, second := between("10.0.0.1", "10.0.0.2"), between("10.1.0.1", "10.1.0.2")
	for n, want := range []string{"10.0.0.1", "10.0.0.2", "10.1.0.1"} {
		wantAddrs(t, allocate(t, l, ask(pod(n), first, second)), want)
	}
	release(t, l, pod(0))
	c.advance(30 * time.Second)
	// The first range has only one that was just freed; the second has a new one.
	wantAddrs(t, allocate(t, l, ask(pod(4), first, second)), "10.1.0.2")
	release(t, l, pod(2))
	// Nothing else is free: the one that waited longest.
	wantAddrs(t, allocate(t, l, ask(pod(5), second, first)), "10.0.0.1")
	release(t, l, pod(5))
	c.advance(time.Minute)
	wantAddrs(t, allocate(t, l, ask(pod(6), first, second)), "10.0.0.1")
	wantAddrs(t, allocate(t, l, ask(pod(7), first, second)), "10.1.0.1")
	c.advance(-time.Hour)
	release(t, l, pod(7))
	c.advance(-time.Hour) // a clock that was set back keeps nothing from being given
	wantAddrs(t, allocate(t, l, ask(pod(8), first, second)), "10.1.0.1")
	verify(t, l)
}

// A node's blocks are ranges of one set, the oldest first: the later ones stay
// empty while the earlier ones have room, so that they can be given back.
func TestEarlierBlocksFillFirst(t *testing.T) {
	ctx := context.Background()
	set := RangeSet{between("10.0.0.1", "10.0.0.62"), between("10.0.0.65", "10.0.0.126"), between("10.0.0.129", "10.0.0.190")}
	l := newLedger(t, Options{})
	request := func(n int) Request { return Request{Attachment: pod(n), Sets: []RangeSet{set}} }
	for n := range 62 + 5 {
		allocate(t, l, request(n))
	}
	release(t, l, pod(40)) // of the first block
	release(t, l, pod(64)) // of the second
	wantAddrs(t, allocate(t, l, request(100)), "10.0.0.41")
	wantAddrs(t, allocate(t, l, request(101)), "10.0.0.70")
	usage, err := l.Usage(ctx, []RangeSet{{set[0]}, {set[1]}, {set[2]}})
	if err != nil || usage[0].Taken != 62 || usage[1].Taken != 5 || usage[2].Taken != 0 {
		t.Fatalf("usage %+v, %v", usage, err)
	}
	withdraw(t, l, set[2])
	for n := range 62 {
		release(t, l, pod(n))
	}
	// Pods come and go, and the second block falls empty without being filled again.
	for _, n := range []int{62, 63, 65, 66, 101} {
		release(t, l, pod(n))
		wantAddrs(t, allocate(t, l, request(200+n)), fmt.Sprintf("10.0.0.%d", map[int]int{62: 1, 63: 2, 65: 3, 66: 4, 101: 5}[n]))
	}
	withdraw(t, l, set[1])
	verify(t, l)
}

// With a cooldown the order is: what is new or ripe, by range; then, when the set
// has nothing else, what was released first, of whichever range.
func TestCooldownOfASet(t *testing.T) {
	ctx := context.Background()
	c := newClock()
	l := newLedger(t, Options{Cooldown: time.Minute, Now: c.now})
	set := RangeSet{between("10.0.0.1", "10.0.0.2"), between("10.1.0.1", "10.1.0.2"), between("10.2.0.1", "10.2.0.2")}
	request := func(n int) Request { return Request{Attachment: pod(n), Sets: []RangeSet{set}} }
	want := func(n int, address string) {
		t.Helper()
		wantAddrs(t, allocate(t, l, request(n)), address)
	}
	for n, address := range []string{"10.0.0.1", "10.0.0.2", "10.1.0.1", "10.1.0.2"} {
		want(n, address)
	}
	release(t, l, pod(3)) // 10.1.0.2
	c.advance(30 * time.Second)
	release(t, l, pod(0)) // 10.0.0.1
	// Both earlier ranges have only what was just released: new ones of a later range.
	want(4, "10.2.0.1")
	c.advance(30 * time.Second)
	// Now that of the second range is ripe, and comes before what is new behind it.
	want(5, "10.1.0.2")
	want(6, "10.2.0.2")
	release(t, l, pod(6)) // 10.2.0.2
	release(t, l, pod(5)) // 10.1.0.2
	c.advance(time.Second)
	// Nothing else is free: in the order of their release, whatever their range.
	want(7, "10.0.0.1")
	want(8, "10.2.0.2")
	want(9, "10.1.0.2")
	_, err := l.Allocate(ctx, request(10))
	wantErr(t, err, ErrFull)
	release(t, l, pod(8)) // 10.2.0.2
	release(t, l, pod(1)) // 10.0.0.2
	c.advance(time.Minute)
	// Both are ripe: the earlier range's, though it was released later.
	want(11, "10.0.0.2")
	verify(t, l)
}

func TestElsewhere(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	here := ask(pod(1), between("10.0.0.1", "10.0.0.9"))
	there := here
	there.Elsewhere = true
	held := func(want bool) Allocation {
		t.Helper()
		all, err := l.All(ctx)
		if err != nil || len(all) != 1 || all[0].Elsewhere != want {
			t.Fatalf("all %+v, %v", all, err)
		}
		one, err := l.Lookup(ctx, pod(1))
		if err != nil || len(one) != 1 || one[0] != all[0] {
			t.Fatalf("lookup %+v, %v, all %+v", one, err, all)
		}
		return one[0]
	}
	allocate(t, l, there)
	wantAddrs(t, allocate(t, l, there), "10.0.0.1")
	seen := held(true)
	_, err := l.Allocate(ctx, here)
	wantErr(t, err, ErrHeld, "10.0.0.1", "elsewhere true")
	other := seen
	other.Elsewhere = false
	if done, err := l.ReleaseIf(ctx, other); done || err != nil {
		t.Fatalf("what isn't elsewhere was released: %t, %v", done, err)
	}
	release(t, l, pod(1))
	// The record is used again, and nothing of its last holder stays.
	here.Addresses = addrs("10.0.0.1")
	wantAddrs(t, allocate(t, l, here), "10.0.0.1")
	held(false)
	_, err = l.Allocate(ctx, there)
	wantErr(t, err, ErrHeld, "elsewhere false")
	verify(t, l)
}

func TestRangeChanges(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	before := between("10.0.0.1", "10.0.0.6")
	for n := 1; n <= 5; n++ {
		allocate(t, l, ask(pod(n), before))
	}
	release(t, l, pod(4))
	release(t, l, pod(2))
	// .1 is cut off, .3 excluded, .7 new; .2 and .4 were given, .5 is taken.
	after := between("10.0.0.2", "10.0.0.7", "10.0.0.3/32")
	usage, err := l.Usage(ctx, []RangeSet{{after}})
	if err != nil || usage[0] != (Usage{Taken: 1, Free: 4, Total: 5}) {
		t.Fatalf("usage %+v, %v", usage, err)
	}
	verify(t, l)
	for n, want := range []string{"10.0.0.6", "10.0.0.7", "10.0.0.4", "10.0.0.2"} {
		wantAddrs(t, allocate(t, l, ask(pod(10+n), after)), want)
	}
	_, err = l.Allocate(ctx, ask(pod(20), after))
	wantErr(t, err, ErrFull)
	release(t, l, pod(1))
	release(t, l, pod(3))
	verify(t, l)
	_, err = l.Allocate(ctx, ask(pod(20), after))
	wantErr(t, err, ErrFull)
	// The old definition comes back.
	wantAddrs(t, allocate(t, l, ask(pod(20), before)), "10.0.0.1")
	wantAddrs(t, allocate(t, l, ask(pod(21), before)), "10.0.0.3")
	_, err = l.Allocate(ctx, ask(pod(22), before))
	wantErr(t, err, ErrFull)
	verify(t, l)
}

func TestReboot(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "ledger")
	r := between("10.0.0.1", "10.0.0.9")
	l := open(t, path, Options{BootID: "boot-1"})
	allocate(t, l, ask(pod(1), r))
	allocate(t, l, ask(pod(2), r))
	next := open(t, path, Options{BootID: "boot-2"})
	all, err := next.All(ctx)
	if err != nil || len(all) != 0 {
		t.Fatalf("after a reboot %v, %v", all, err)
	}
	wantAddrs(t, allocate(t, next, ask(pod(3), r)), "10.0.0.1")
	verify(t, next)
}

func TestLongContainerIDs(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	r := between("10.0.0.1", "10.0.0.9")
	stem := strings.Repeat("x", MaxContainerID-1)
	a, b := Attachment{stem + "a", "eth0"}, Attachment{stem + "b", "eth0"}
	wantAddrs(t, allocate(t, l, ask(a, r)), "10.0.0.1")
	wantAddrs(t, allocate(t, l, ask(b, r)), "10.0.0.2")
	wantAddrs(t, allocate(t, l, ask(a, r)), "10.0.0.1")
	held, err := l.Lookup(ctx, b)
	if err != nil || len(held) != 1 || held[0].Attachment != b || held[0].Truncated {
		t.Fatalf("lookup %+v, %v", held, err)
	}
	all, err := l.All(ctx)
	if err != nil || len(all) != 2 || all[0].ContainerID != stem[:InlineContainerID] || !all[0].Truncated {
		t.Fatalf("all %+v, %v", all, err)
	}
	freed, err := l.Retain(ctx, []Attachment{a})
	if err != nil || len(freed) != 1 || freed[0].Address != addr("10.0.0.2") {
		t.Fatalf("retain %+v, %v", freed, err)
	}
	wantAddrs(t, release(t, l, a), "10.0.0.1")
	_, err = l.Allocate(ctx, ask(Attachment{stem + "ab", "eth0"}, r))
	wantErr(t, err, ErrInvalid)
	exact := Attachment{stem[:InlineContainerID], "eth0123456789ab"}
	allocate(t, l, ask(exact, r))
	if all, err = l.All(ctx); err != nil || len(all) != 1 || all[0].Attachment != exact || all[0].Truncated {
		t.Fatalf("all %+v, %v", all, err)
	}
}

func TestInvalidRequests(t *testing.T) {
	good := between("10.0.0.1", "10.0.0.9")
	tests := map[string]Request{
		"no container":         ask(Attachment{"", "eth0"}, good),
		"no interface":         ask(Attachment{"a", ""}, good),
		"long interface":       ask(Attachment{"a", "0123456789abcdef"}, good),
		"no set":               {Attachment: pod(1)},
		"empty set":            {Attachment: pod(1), Sets: []RangeSet{{}}},
		"no bound":             ask(pod(1), Range{First: addr("10.0.0.1")}),
		"reversed":             ask(pod(1), between("10.0.0.9", "10.0.0.1")),
		"families in a range":  ask(pod(1), between("10.0.0.1", "fd00::1")),
		"families in a set":    ask(pod(1), good, between("fd00::1", "fd00::9")),
		"zone":                 ask(pod(1), between("fe80::1%eth0", "fe80::9%eth0")),
		"mapped inside":        ask(pod(1), between("::", "ffff::")),
		"overlapping sets":     {Attachment: pod(1), Sets: []RangeSet{{good}, {between("10.0.0.9", "10.0.0.20")}}},
		"overlapping ranges":   ask(pod(1), good, good),
		"invalid exclusion":    ask(pod(1), Range{First: addr("10.0.0.1"), Last: addr("10.0.0.2"), Exclude: make([]netip.Prefix, 1)}),
		"two fixed in one set": {Attachment: pod(1), Sets: []RangeSet{{good}}, Addresses: addrs("10.0.0.1", "10.0.0.2")},
	}
	l := newLedger(t, Options{})
	for name, req := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := l.Allocate(context.Background(), req)
			wantErr(t, err, ErrInvalid)
		})
	}
}

func TestRetainKeepsWhatIsNamed(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	r := between("10.0.0.1", "10.0.255.254")
	var keep []Attachment
	for n := range 2000 {
		allocate(t, l, ask(pod(n), r))
		if n%3 == 0 {
			keep = append(keep, pod(n))
		}
	}
	freed, err := l.Retain(ctx, keep)
	if err != nil || len(freed) != 2000-len(keep) {
		t.Fatalf("freed %d, %v", len(freed), err)
	}
	verify(t, l)
	all, err := l.All(ctx)
	if err != nil || len(all) != len(keep) {
		t.Fatalf("%d left, %v", len(all), err)
	}
	if freed, err = l.Retain(ctx, keep); err != nil || len(freed) != 0 {
		t.Fatalf("freed again %v, %v", freed, err)
	}
}

// A range that is never exhausted must not make the ledger grow without end.
func TestLargeRangeReuses(t *testing.T) {
	l := newLedger(t, Options{})
	r := between("fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00::/128")
	for n := range reuseAfter {
		wantAddrs(t, allocate(t, l, ask(pod(0), r)), fmt.Sprintf("fd00::%x", n+1))
		release(t, l, pod(0))
	}
	wantAddrs(t, allocate(t, l, ask(pod(0), r)), "fd00::1")
	verify(t, l)
}

func TestManyBlocks(t *testing.T) {
	ctx := context.Background()
	l := newLedger(t, Options{})
	var set RangeSet
	for n := range 256 {
		first := netip.AddrFrom4([4]byte{10, byte(n), 1, 1})
		set = append(set, Range{First: first, Last: first.Next()})
	}
	for n := range 512 {
		want := netip.AddrFrom4([4]byte{10, byte(n / 2), 1, byte(1 + n%2)})
		wantAddrs(t, allocate(t, l, Request{Attachment: pod(n), Sets: []RangeSet{set}}), want.String())
	}
	_, err := l.Allocate(ctx, Request{Attachment: pod(1000), Sets: []RangeSet{set}})
	wantErr(t, err, ErrFull, "248 more")
	verify(t, l)
}

func TestClosed(t *testing.T) {
	l := newLedger(t, Options{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.All(context.Background()); err == nil {
		t.Fatal("a closed ledger answers")
	}
}
