package ipam

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func inspect(t testing.TB, path string) Snapshot {
	t.Helper()
	s, err := Inspect(context.Background(), path, Options{BootID: "boot-1"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// To inspect makes no file and changes none, whatever it is; and nobody waits for
// who inspects but those who write.
func TestInspectChangesNothing(t *testing.T) {
	t.Parallel()
	contents := map[string]func([]byte) []byte{
		"whole":        func(b []byte) []byte { return b },
		"empty":        func([]byte) []byte { return nil },
		"another boot": func(b []byte) []byte { copy(b, encodeStatic("boot-0")); return b },
		"started":      func([]byte) []byte { return firstPage("boot-1", header{dirty: true}) },
		"killed": func(b []byte) []byte {
			sealHeader(b, func(h *header) { h.dirty = true })
			return append(b, 1)
		},
	}
	for name, damage := range headDamage() {
		contents["damaged: "+name] = damage.do
	}
	for name, damage := range slotDamage() {
		contents["damaged: "+name] = damage.do
	}
	for name, content := range contents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "ledger")
			want := content(prepareDamage(t, path))
			if err := os.WriteFile(path, want, 0o400); err != nil {
				t.Fatal(err)
			}
			live := func(context.Context) ([]Allocation, error) { t.Error("it asks what lives"); return nil, nil }
			_, err := Inspect(context.Background(), path, Options{BootID: "boot-1", Live: live})
			if corrupt := strings.HasPrefix(name, "damaged"); corrupt != errors.Is(err, ErrCorrupt) || !corrupt && err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
	dir := t.TempDir()
	_, err := Inspect(context.Background(), filepath.Join(dir, "none"), Options{BootID: "boot-1"})
	wantErr(t, err, fs.ErrNotExist, "none")
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("it made %v, %v", files, err)
	}
}

func TestInspectWaitsForWriters(t *testing.T) {
	t.Parallel()
	l := newLedger(t, Options{})
	allocate(t, l, ask(pod(1), damageRange))
	opts := Options{BootID: "boot-1", LockWait: time.Millisecond}
	err := l.exclusively(context.Background(), func() error {
		_, err := Inspect(context.Background(), l.path, opts)
		return err
	})
	wantErr(t, err, ErrLocked, l.path)
	if s := inspect(t, l.path); len(s.Held) != 1 {
		t.Fatalf("%+v", s)
	}
}

// Of a damaged file as much is read as can be believed: pods 1, 3, 5, 7, 9 hold
// addresses in slots 3, 5, 7, 9, 11.
func TestInspectReadsWhatIsLeft(t *testing.T) {
	t.Parallel()
	all := "pod-1 pod-3 pod-5 pod-7 pod-9"
	left := map[string]string{ // of those that lose some
		"short": "", "header only": "", "truncated": "pod-1 pod-3 pod-5 pod-7", "zeros": "", "magic": "",
		"static checksum": "", "version": "", "slot size": "",
		"body of a record": "pod-3 pod-5 pod-7 pod-9", "state of a record": "pod-3 pod-5 pod-7 pod-9",
	}
	tests := headDamage()
	maps.Copy(tests, slotDamage())
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "ledger")
			if err := os.WriteFile(path, test.do(prepareDamage(t, path)), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Inspect(context.Background(), path, Options{BootID: "boot-1"})
			wantErr(t, err, ErrCorrupt, path)
			var got []string
			for _, a := range s.Held {
				got = append(got, a.ContainerID)
			}
			want, some := left[name]
			if !some {
				want = all
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%v: got %v, want %s", err, got, want)
			}
		})
	}
}

// A new ledger is what was chosen, with all that the old one knew of it.
func TestRebuildFrom(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c := newClock()
	opts := Options{BootID: "boot-1", Now: c.now}
	l := newLedger(t, opts)
	long := Attachment{strings.Repeat("x", MaxContainerID), "eth0"}
	there := ask(long, damageRange, between("10.0.1.1", "10.0.1.9"))
	there.Elsewhere = true
	allocate(t, l, ask(pod(1), damageRange))
	allocate(t, l, there)
	allocate(t, l, ask(pod(2), damageRange))
	withdraw(t, l, between("10.0.9.0", "10.0.9.9"))
	before := inspect(t, l.path)
	c.advance(time.Hour)
	orphan := Allocation{Attachment: pod(4), Address: addr("10.0.0.9"), Elsewhere: true}
	var damage error
	choose := func(_ context.Context, old Snapshot, d error) ([]Allocation, error) {
		damage = d
		return append(old.Held[:2:2], orphan), nil
	}
	if err := RebuildFrom(ctx, l.path, opts, choose); err != nil || damage != nil {
		t.Fatal(err, damage)
	}
	orphan.Since = c.at
	want := Snapshot{Held: append(before.Held[:2:2], orphan), Withdrawn: before.Withdrawn}
	if got := inspect(t, l.path); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	wantAddrs(t, allocate(t, l, there), "10.0.0.2") // as it was cut, it is still told by all of it
	held, err := l.Lookup(ctx, long)
	if err != nil || len(held) != 1 || held[0].Attachment != long || !held[0].Elsewhere {
		t.Fatalf("%+v, %v", held, err)
	}
	verify(t, l)
}

func TestRebuildFromRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := newLedger(t, Options{})
	allocate(t, l, ask(Attachment{strings.Repeat("x", 200), "eth0"}, damageRange))
	before := inspect(t, l.path)
	stop := errors.New("no")
	later := before.Held[0]
	later.Since = later.Since.Add(1)
	for name, test := range map[string]struct {
		chosen []Allocation
		err    error
		want   error
	}{
		"its own error":         {nil, stop, stop},
		"cut, of another time":  {[]Allocation{later}, nil, ErrInvalid},
		"an address twice":      {[]Allocation{has(1, "10.0.0.3"), has(2, "::ffff:10.0.0.3")}, nil, ErrInvalid},
		"without an address":    {[]Allocation{has(1, "")}, nil, ErrInvalid},
		"cut, and never it was": {[]Allocation{{Attachment: pod(1), Address: addr("10.0.0.4"), Truncated: true}}, nil, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			err := RebuildFrom(ctx, l.path, l.opts, func(context.Context, Snapshot, error) ([]Allocation, error) { return test.chosen, test.err })
			wantErr(t, err, test.want, l.path)
			if got := inspect(t, l.path); !reflect.DeepEqual(got, before) {
				t.Fatalf("the old ledger is now %+v", got)
			}
		})
	}
}
