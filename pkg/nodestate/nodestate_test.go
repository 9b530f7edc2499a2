package nodestate_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// state is one with every field set; its revision tells versions of it apart.
func state(revision store.Revision) *nodestate.State {
	n := lease.Network{
		Name: "pods", MTU: 1400,
		CIDRs:      []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/48")},
		Masquerade: lease.Masquerade{Disabled: true, Exclude: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}},
	}.Complete()
	return &nodestate.State{
		Network: n, Node: "a", Revision: revision, Expires: time.Unix(1_700_000_000, 0).UTC(),
		Deadline: time.Hour, Problem: "no free block",
		VTEP: vtep.Spec{
			Device: "ovx4096", VNI: 4096, Port: 4789, Local: netip.MustParseAddr("192.0.2.1"), MAC: n.MAC("a"), MTU: 1400,
			Blocks: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:0:0:1::/64")}, Within: n.CIDRs,
		},
	}
}

func write(t *testing.T, dir string, s *nodestate.State) {
	t.Helper()
	if err := nodestate.Write(dir, s); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "when", "missing")
	want := state(7)
	write(t, dir, want)
	got, err := nodestate.Read(dir, "pods")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || got.Version != nodestate.Version || len(got.Blocks()) != 2 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	info, err := os.Stat(nodestate.Path(dir, "pods"))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("others can't read it: %v, %v", info.Mode(), err)
	}
	endless := state(8)
	endless.Expires = time.Time{}
	write(t, dir, endless)
	if got, err := nodestate.Read(dir, "pods"); err != nil || !got.Expires.IsZero() || got.Revision != 8 {
		t.Errorf("replaced, it is %+v, %v", got, err)
	}
}

func TestReadNotReady(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, state(1))
	whole, err := os.ReadFile(nodestate.Path(dir, "pods"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(whole)
	for _, test := range []struct {
		name, text string
		want       string // what the error says
	}{
		{"empty", "", "corrupt"},
		{"cut off", text[:len(text)/2], "corrupt"},
		{"zeros, as after a loss of power", strings.Repeat("\x00", len(text)), "corrupt"},
		{"another type", "[]", "corrupt"},
		{"a wrong address", strings.Replace(text, "192.0.2.1", "192.0.2", 1), "corrupt"},
		{"no version", strings.Replace(text, `"version": 1,`, "", 1), "has version 0, want 1"},
		{"a later version", strings.Replace(text, `"version": 1`, `"version": 2`, 1), "has version 2, want 1"},
		{"null", "null", "has version 0"},
		{"another network", strings.Replace(text, `"name": "pods"`, `"name": "storage"`, 1), `about network "storage"`},
		{"no blocks", strings.Replace(text, `"blocks"`, `"block"`, 1), "with 0 blocks"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := nodestate.Path(dir, "pods")
			if err := os.WriteFile(path, []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := nodestate.Read(dir, "pods")
			if !errors.Is(err, nodestate.ErrNotReady) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want one that says %q of %s", err, test.want, path)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 {
		_, err := nodestate.Read(dir, "pods")
		if !errors.Is(err, nodestate.ErrNotReady) || !strings.Contains(err.Error(), "pods") || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
		if err := nodestate.Remove(dir, "pods"); err != nil {
			t.Error(err)
		}
		dir = filepath.Join(dir, "missing as well")
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, state(1))
	if err := nodestate.Remove(dir, "pods"); err != nil {
		t.Fatal(err)
	}
	if _, err := nodestate.Read(dir, "pods"); !errors.Is(err, nodestate.ErrNotReady) {
		t.Errorf("got %v", err)
	}
}

// TestReadFails: what can't be read is a failure, not a node that isn't ready.
func TestReadFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(nodestate.Path(dir, "pods"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := nodestate.Read(dir, "pods"); err == nil || errors.Is(err, nodestate.ErrNotReady) {
		t.Errorf("got %v", err)
	}
}

// TestWriteFails: nothing is left behind where the state can't be put in place.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(nodestate.Path(dir, "pods"), "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := nodestate.Write(dir, state(1)); err == nil {
		t.Error("it was written over a directory")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left are %v, %v", entries, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := nodestate.Write(file, state(1)); err == nil {
		t.Error("it was written into a file as directory")
	}
}

// TestReadersSeeAWholeState: whoever reads while it is replaced sees the old or
// the new one, and never an older one than before.
func TestReadersSeeAWholeState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, state(0))
	const writes, readers = 100, 3
	done := make(chan struct{})
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			var last store.Revision
			for {
				s, err := nodestate.Read(dir, "pods")
				if err != nil || s.Revision < last || len(s.Blocks()) != 2 {
					t.Errorf("after revision %d: %+v, %v", last, s, err)
					return
				}
				last = s.Revision
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range writes {
		write(t, dir, state(store.Revision(i)))
	}
	close(done)
	all.Wait()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	s := state(1)
	for _, test := range []struct {
		wall, uptime time.Duration // after its end by either clock
		want         bool
	}{{-1, -1, false}, {0, -1, true}, {1, -1, true}, {-1, 0, true}, {-time.Hour, 1, true}} {
		if s.Expired(s.Expires.Add(test.wall), s.Deadline+test.uptime) != test.want {
			t.Errorf("%s and %s after its end: expired should be %t", test.wall, test.uptime, test.want)
		}
	}
	s.Expires = time.Time{}
	if s.Expired(time.Now(), 1000*time.Hour) {
		t.Error("what has no end expired")
	}
}
