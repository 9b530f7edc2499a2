package ctl_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// A ledger that can be read: what lives, what can't be looked at, and what may be
// on its way stay; what leaked or is another's by now goes.
func TestRebuild(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods")
	f.hold("pods", "web", "10.0.1.1", false)
	f.hold("pods", "bridged", "10.0.1.2", true)
	f.hold("pods", "gone", "10.0.1.3", false)
	f.hold("pods", "lost", "10.0.1.4", false)
	f.hold("pods", "made", "10.0.1.5", false)
	f.hold("pods", strings.Repeat("x", 200), "10.0.1.6", true)
	f.now = f.now.Add(time.Minute)
	f.hold("pods", "young", "10.0.1.7", false)
	f.attach("pods", "web", "10.0.1.1")
	f.attach("pods", "other", "10.0.1.4")
	f.attach("pods", "orphan", "10.0.1.9")
	f.attach("pods", "made", "")
	f.must(f.Rebuild(t.Context()))
	want := "10.0.1.1 web 0, 10.0.1.2 bridged 0 elsewhere, 10.0.1.4 other 60, 10.0.1.5 made 0, 10.0.1.6 " +
		strings.Repeat("x", 128) + " 0 elsewhere, 10.0.1.7 young 60, 10.0.1.9 orphan 60"
	if got := f.held("pods"); got != want {
		t.Errorf("it holds\n%s\nwant\n%s", got, want)
	}
	f.wantSaid(`pods: DATA/ipam/pods.ledger is rebuilt: 3 addresses of live interfaces, 2 kept for other main plugins, 2 kept that may still be being attached, 2 dropped
pods: dropped 10.0.1.4 of container lost interface eth0
pods: dropped 10.0.1.3 of container gone interface eth0
`)
	f.now = f.now.Add(time.Minute)
	f.attach("pods", "young", "10.0.1.7")
	f.must(f.Rebuild(t.Context()))
	if got := f.held("pods"); got != want {
		t.Errorf("again, it holds\n%s\nwant\n%s", got, want)
	}
	f.must(f.Audit(t.Context()))
}

// A lost or corrupt ledger: what can't be known is said.
func TestRebuildSaysWhatItCantKnow(t *testing.T) {
	t.Parallel()
	warning := "may be missing and be given again"
	for name, test := range map[string]struct {
		damage func(*fixture)
		says   string // beside the warning; "": no warning
		want   string
	}{
		"whole":   {func(*fixture) {}, "", "10.0.1.1 web 0, 10.0.1.2 bridged 0 elsewhere"},
		"removed": {func(f *fixture) { f.must(os.Remove(f.Node.LedgerPath("pods"))) }, "there was none", "10.0.1.1 web 90"},
		"emptied": {func(f *fixture) { f.must(os.Truncate(f.Node.LedgerPath("pods"), 0)) }, "there was none", "10.0.1.1 web 90"},
		"header":  {func(f *fixture) { f.corrupt("pods", 512) }, "checksum of the header", "10.0.1.1 web 0, 10.0.1.2 bridged 0 elsewhere"},
		"no ledger": {func(f *fixture) {
			f.must(os.WriteFile(f.Node.LedgerPath("pods"), make([]byte, 5000), 0o600))
		}, "magic", "10.0.1.1 web 90"},
		"another boot": {func(f *fixture) { f.Ledger.BootID = "next" }, "", "10.0.1.1 web 90"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, "pods")
			f.hold("pods", "web", "10.0.1.1", false)
			f.hold("pods", "bridged", "10.0.1.2", true)
			f.attach("pods", "web", "10.0.1.1")
			f.now = f.now.Add(90 * time.Second)
			test.damage(f)
			f.must(f.Rebuild(t.Context()))
			if got := f.held("pods"); got != test.want {
				t.Errorf("it holds %s, want %s", got, test.want)
			}
			said := f.said()
			if strings.Contains(said, warning) != (test.says != "") || !strings.Contains(said, test.says) {
				t.Errorf("it says\n%s\nwant %q", said, test.says)
			}
		})
	}
}

// The state isn't needed where a ledger is; but a name that was mistyped is told.
func TestRebuildWithoutState(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods", "storage")
	f.must(os.RemoveAll(f.Node.RunDir))
	f.hold("pods", "gone", "10.0.1.1", false)
	f.attach("pods", "web", "10.0.1.7")
	f.now = f.now.Add(time.Hour)
	f.Network = "pods"
	f.must(f.Rebuild(t.Context()))
	if got := f.held("pods"); got != "10.0.1.7 web 3600" {
		t.Errorf("it holds %s", got)
	}
	f.Network = "storage"
	wantError(t, f.Rebuild(t.Context()), os.ErrNotExist, "storage.ledger")
}

// Where it isn't known what lives, or what lives is in conflict, nothing is
// replaced.
func TestRebuildFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods")
	f.hold("pods", "gone", "10.0.1.1", false)
	f.now = f.now.Add(time.Hour)
	f.attach("pods", "web", "10.0.1.7")
	f.attach("pods", "db", "10.0.1.7")
	wantError(t, f.Rebuild(t.Context()), ipam.ErrInvalid, "10.0.1.7", "web", "db")
	broken := errors.New("no netlink")
	f.Live = func(context.Context, string) ([]ipam.Allocation, error) { return nil, broken }
	wantError(t, f.Rebuild(t.Context()), broken, "pods")
	if got := f.held("pods"); got != "10.0.1.1 gone 0" {
		t.Errorf("it holds %s", got)
	}
	f.wantSaid("")
}

// Nobody takes an address between the look and the new ledger.
func TestRebuildKeepsOthersOut(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods")
	f.hold("pods", "web", "10.0.1.1", false)
	f.attach("pods", "web", "10.0.1.1")
	impatient := f.Ledger
	impatient.LockWait = time.Millisecond
	f.Live = func(ctx context.Context, network string) ([]ipam.Allocation, error) {
		_, err := ipam.Inspect(ctx, f.Node.LedgerPath(network), impatient)
		wantError(t, err, ipam.ErrLocked)
		return f.live[network], nil
	}
	f.must(f.Rebuild(t.Context()))
}
