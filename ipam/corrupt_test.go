package ipam

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// prepareDamage makes a ledger of pods 0 to 9, of which the odd ones hold an address.
func prepareDamage(t testing.TB, path string) []byte {
	t.Helper()
	l := open(t, path, Options{wrap: withoutSync})
	for n := range 10 {
		allocate(t, l, ask(pod(n), damageRange))
	}
	for n := 0; n < 10; n += 2 {
		release(t, l, pod(n))
	}
	l.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

var damageRange = between("10.0.0.1", "10.0.0.10")

func sealHeader(b []byte, change func(*header)) {
	head, err := decodeHeader(b[dynamicOffset : dynamicOffset+dynamicSize])
	if err != nil {
		panic(err)
	}
	change(&head)
	copy(b[dynamicOffset:], head.encode())
}

func slotIn(b []byte, i uint32) *slot { return (*slot)(b[slotOffset(i):]) }

// damage is what may be wrong with a file, and what the error has to say.
type damage struct {
	do   func(b []byte) []byte
	says string
}

// headDamage is what can be seen without reading a slot.
func headDamage() map[string]damage {
	return map[string]damage{
		"short":           {func(b []byte) []byte { return b[:100] }, "100 bytes"},
		"header only":     {func(b []byte) []byte { return b[:headerSize] }, "bytes"},
		"truncated":       {func(b []byte) []byte { return b[:len(b)-1] }, "bytes"},
		"longer":          {func(b []byte) []byte { return append(b, 0) }, "bytes"},
		"zeros":           {func(b []byte) []byte { return make([]byte, len(b)) }, "magic"},
		"magic":           {func(b []byte) []byte { b[0] = 'x'; return b }, "magic"},
		"static checksum": {func(b []byte) []byte { b[30] ^= 1; return b }, "first sector"},
		"version": {func(b []byte) []byte {
			b[8] = 9
			binary.LittleEndian.PutUint32(b[staticSize-4:], checksum(b[:staticSize-4]))
			return b
		}, "version is 9"},
		"slot size": {func(b []byte) []byte {
			b[12] = 9
			binary.LittleEndian.PutUint32(b[staticSize-4:], checksum(b[:staticSize-4]))
			return b
		}, "slots of"},
		"header checksum": {func(b []byte) []byte { b[dynamicOffset+4] ^= 1; return b }, "checksum of the header"},
		"too many slots": {func(b []byte) []byte {
			sealHeader(b, func(h *header) { h.slots = maxSlots + 1 })
			return b
		}, "more than"},
		"too many withdrawn": {func(b []byte) []byte {
			sealHeader(b, func(h *header) { h.withdrawn.count = MaxWithdrawn + 1 })
			return b
		}, "257 withdrawn"},
		"no such copy": {func(b []byte) []byte {
			sealHeader(b, func(h *header) { h.withdrawn.copy = 2 })
			return b
		}, "in copy 2"},
		"withdrawn checksum": {func(b []byte) []byte {
			sealHeader(b, func(h *header) { h.withdrawn.count = 1 })
			return b
		}, "checksum of the withdrawn"},
		"withdrawn reversed": {withdrawnAs(interval{addr("10.0.0.9"), addr("10.0.0.1")}), "withdrawn range 10.0.0.9-10.0.0.1"},
		"withdrawn families": {withdrawnAs(interval{addr("10.0.0.9"), addr("fd00::1")}), "withdrawn range 10.0.0.9-fd00::1"},
		"withdrawn touch":    {withdrawnAs(interval{addr("10.0.9.1"), addr("10.0.9.4")}, interval{addr("10.0.9.5"), addr("10.0.9.5")}), "out of order"},
	}
}

// withdrawnAs puts a list into a file, whatever is in it.
func withdrawnAs(all ...interval) func([]byte) []byte {
	return func(b []byte) []byte {
		list, ref, err := encodeList(all, 1)
		if err != nil {
			panic(err)
		}
		copy(b[ref.offset():], list)
		sealHeader(b, func(h *header) { h.withdrawn = ref })
		return b
	}
}

// slotDamage is in the slots and their links. The range is slot 1, and the
// record of pod n is slot n+2.
func slotDamage() map[string]damage {
	return map[string]damage{
		"body of a record":  {func(b []byte) []byte { slotIn(b, 3)[atID] ^= 1; return b }, "checksum of slot 3"},
		"state of a record": {func(b []byte) []byte { slotIn(b, 3).set(atState, 0); return b }, "slot 3 has state"},
		"bucket out of bounds": {func(b []byte) []byte {
			le.PutUint32(b[byAddress.offset(addressBucket(addr("10.0.0.2"))):], 99)
			return b
		}, "slot 99"},
		"bucket of another": {func(b []byte) []byte {
			le.PutUint32(b[byAddress.offset(addressBucket(addr("10.0.0.2"))):], 4)
			return b
		}, "doesn't belong"},
		"cycle in a chain": {func(b []byte) []byte { slotIn(b, 3).set(atKeyNext, 3); return b }, "cycle"},
		"queue leads to a taken one": {func(b []byte) []byte {
			slotIn(b, 1).set(atHead, 3)
			return b
		}, "queued"},
		"queue leads nowhere": {func(b []byte) []byte { slotIn(b, 1).set(atTail, 77); return b }, "slot 77"},
		"neighbours disagree": {func(b []byte) []byte { slotIn(b, 4).set(atPrev, 6); return b }, "neighbours"},
		"cycle of ranges":     {func(b []byte) []byte { slotIn(b, 1).set(atOlder, 1); return b }, "cycle"},
		"operation of the future": {func(b []byte) []byte {
			slotIn(b, 3).setLong(atTakenOp, 1<<40)
			slotIn(b, 3).seal()
			sealHeader(b, func(h *header) { h.dirty = true })
			return b
		}, "operation"},
		"address twice": {func(b []byte) []byte {
			slotIn(b, 3).setAddress(atAddress, addr("10.0.0.1"))
			slotIn(b, 3).seal()
			sealHeader(b, func(h *header) { h.dirty = true })
			return b
		}, "both of 10.0.0.1"},
	}
}

func TestCorruptFilesAreRefused(t *testing.T) {
	tests := headDamage()
	maps.Copy(tests, slotDamage())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "ledger")
			content := test.do(prepareDamage(t, path))
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			err := exercise(open(t, path, Options{wrap: withoutSync}))
			wantErr(t, err, ErrCorrupt, path, test.says)
			live := []Allocation{{Attachment: pod(3), Address: addr("10.0.0.4"), Since: time.Unix(5, 0)}}
			if err := Rebuild(context.Background(), path, Options{BootID: "boot-1"}, live); err != nil {
				t.Fatal(err)
			}
			l := open(t, path, Options{})
			if err := exercise(l); err != nil {
				t.Fatal(err)
			}
			verify(t, l)
		})
	}
}

// What no operation leaves behind, and only Verify looks for.
func TestVerifyFindsWhatIsWithdrawnAndUsed(t *testing.T) {
	for a, says := range map[string]string{"10.0.0.2": "10.0.0.2 is withdrawn and held", "10.0.0.3": "owns 10.0.0.3, which is withdrawn"} {
		t.Run(a, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger")
			content := withdrawnAs(interval{addr(a), addr(a)})(prepareDamage(t, path))
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			wantErr(t, open(t, path, Options{wrap: withoutSync}).Verify(context.Background()), ErrCorrupt, path, says)
		})
	}
}

// exercise does every operation and returns the first error that isn't about
// addresses. It ends with nothing held.
func exercise(l *Ledger) error {
	ctx := context.Background()
	fixed := ask(pod(20), damageRange)
	fixed.Addresses = addrs("10.0.0.5")
	steps := []func() error{
		func() error { _, err := l.Lookup(ctx, pod(1)); return err },
		func() error { _, err := l.All(ctx); return err },
		func() error { _, err := l.Usage(ctx, []RangeSet{{damageRange}}); return err },
		func() error { _, err := l.Allocate(ctx, fixed); return err },
		func() error { _, err := l.Allocate(ctx, ask(pod(21), damageRange)); return err },
		func() error { _, err := l.Allocate(ctx, ask(pod(22), between("fd00::1", "fd00::9"))); return err },
		func() error { _, err := l.Release(ctx, pod(1)); return err },
		func() error { _, err := l.Release(ctx, pod(3)); return err },
		func() error { _, err := l.Release(ctx, pod(20)); return err },
		func() error { _, err := l.Allocate(ctx, ask(pod(23), between("10.0.0.3", "10.0.0.30"))); return err },
		func() error { return l.Withdraw(ctx, between("10.0.0.6", "10.0.0.7")) },
		func() error { _, err := l.Allocate(ctx, ask(pod(24), damageRange)); return err },
		func() error { return l.Admit(ctx, between("10.0.0.0", "10.0.0.255")) },
		func() error {
			held, err := l.Lookup(ctx, pod(21))
			if err == nil && len(held) > 0 {
				_, err = l.ReleaseIf(ctx, held[0])
			}
			return err
		},
		func() error { _, err := l.Retain(ctx, nil); return err },
		func() error { return l.Verify(ctx) },
	}
	for _, step := range steps {
		if err := step(); err != nil && !aboutAddresses(err) {
			return err
		}
	}
	return nil
}

func aboutAddresses(err error) bool {
	for _, target := range []error{ErrFull, ErrTaken, ErrHeld, ErrWithdrawn, ErrInUse} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// A past boot's file isn't believed, so it doesn't matter what is wrong with it.
func TestCorruptFileOfAPastBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	content := prepareDamage(t, path)
	for i := dynamicOffset; i < len(content); i += 7 {
		content[i] ^= 0x55
	}
	if err := os.WriteFile(path, content[:len(content)-100], 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path, Options{BootID: "boot-2"})
	if err := exercise(l); err != nil {
		t.Fatal(err)
	}
	verify(t, l)
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{
		"directory":    dir,
		"no directory": filepath.Join(dir, "none", "ledger"),
		"device":       os.DevNull,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := OpenLedger(path, Options{BootID: "b"}); err == nil {
				t.Fatal("opened")
			}
		})
	}
}

// FuzzOpenLedger gives the ledger arbitrary files: as they are if whole,
// otherwise a good one with arbitrary words in arbitrary places, of which the
// checksums are made right so that what is behind them is reached.
func FuzzOpenLedger(f *testing.F) {
	dir := f.TempDir()
	good := prepareDamage(f, filepath.Join(dir, "good"))
	f.Add(true, []byte{})
	f.Add(true, good[:headerSize])
	f.Add(true, good[:700])
	f.Add(false, []byte{})
	f.Add(false, []byte{0, 0, 3, 0, 0, 0, 8, 0, 3, 0, 0, 0})
	f.Add(false, []byte{1, 0, 0, 0, 0, 0, 4, 2, 1, 0, 0, 0})
	l := open(f, filepath.Join(dir, "ledger"), Options{wrap: withoutSync})
	f.Fuzz(func(t *testing.T, whole bool, data []byte) {
		m := newMemory(data)
		if !whole {
			m = newMemory(patch(bytes.Clone(good), data))
		}
		fuzzed := &Ledger{path: l.path, opts: l.opts, turn: make(chan struct{}, 1)}
		fuzzed.opts.wrap = func(file) file { return m }
		defer fuzzed.Close()
		began := time.Now()
		left := salvage(m, l.opts.BootID)
		if left.damage != nil && !errors.Is(left.damage, ErrCorrupt) {
			t.Fatal(left.damage)
		}
		for _, a := range left.snapshot().Held {
			if !a.Address.IsValid() {
				t.Fatalf("it holds %+v", a)
			}
		}
		if err := exercise(fuzzed); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("took %s", took) // some milliseconds, were it not for a loop
		}
	})
}

// patch writes words of four bytes: where to (a slot and a place in it, or the
// header) and what.
func patch(content, data []byte) []byte {
	slots := uint32((len(content) - arenaOffset) / slotSize)
	for ; len(data) >= 12; data = data[12:] {
		i, at, v := le.Uint32(data)%(slots+2), le.Uint32(data[4:]), le.Uint32(data[8:])
		switch {
		case i == 0:
			at = dynamicOffset + at%(dynamicSize-4)
			le.PutUint32(content[at:], v)
		case i > slots: // a bucket in use, to which any slot is led
			s := slotIn(content, 1+at%slots)
			le.PutUint32(content[byAddress.offset(s.bucket(byAddress)):], v%(slots+2))
		default:
			slotIn(content, i).set(int(at%(slotSize-4)), v)
			slotIn(content, i).seal()
		}
	}
	le.PutUint32(content[dynamicOffset+dynamicSize-4:], checksum(content[dynamicOffset:dynamicOffset+dynamicSize-4]))
	return content
}

// TestLostWithAnUnknownAddress: an attachment that lives with nobody knows which
// address keeps all others from being given.
func TestLostWithAnUnknownAddress(t *testing.T) {
	t.Parallel()
	live := []Allocation{
		{Attachment: Attachment{"c1", "eth0"}, Address: netip.MustParseAddr("10.0.0.2")},
		{Attachment: Attachment{"c2", "eth0"}},
	}
	l, err := OpenLedger(filepath.Join(t.TempDir(), "ledger"), Options{
		BootID: "b", Live: func(context.Context) ([]Allocation, error) { return live, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	request := Request{Attachment: Attachment{"c3", "eth0"}, Sets: []RangeSet{{{First: netip.MustParseAddr("10.0.0.1"), Last: netip.MustParseAddr("10.0.0.9")}}}}
	if _, err := l.Allocate(t.Context(), request); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "container c2 interface eth0") {
		t.Errorf("got %v", err)
	}
	live = live[:1] // deleted, as the error says
	got, err := l.Allocate(t.Context(), request)
	if err != nil || got[0] == live[0].Address {
		t.Errorf("got %v, %v", got, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
