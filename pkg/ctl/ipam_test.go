package ctl_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/ctl"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// fixture is a node with real ledgers and interfaces that a test names.
type fixture struct {
	ctl.IPAM
	t    *testing.T
	out  strings.Builder
	now  time.Time
	live map[string][]ipam.Allocation
}

func newFixture(t *testing.T, networks ...string) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, now: time.Unix(1_700_000_000, 0), live: map[string][]ipam.Allocation{}}
	f.IPAM = ctl.IPAM{
		Node: config.Node{RunDir: filepath.Join(dir, "run"), DataDir: filepath.Join(dir, "data")}, Out: &f.out,
		Ledger: ipam.Options{BootID: "boot", Now: func() time.Time { return f.now }},
		Live:   func(_ context.Context, network string) ([]ipam.Allocation, error) { return f.live[network], nil },
		Pause:  time.Nanosecond,
	}
	for i, name := range networks {
		n := lease.Network{Name: name, CIDRs: prefixes("10.0.0.0/8", "fd00::/48"), VNI: uint32(1 + i)}.Complete()
		f.must(nodestate.Write(f.Node.RunDir, &nodestate.State{
			Network: n, Node: "a", VTEP: vtep.Spec{Blocks: prefixes(fmt.Sprintf("10.%d.1.0/24", i), fmt.Sprintf("10.%d.2.0/30", i), fmt.Sprintf("fd00:0:0:%d::/64", i))},
		}))
		f.must(os.MkdirAll(filepath.Dir(f.Node.LedgerPath(name)), 0o755))
	}
	return f
}

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, 0, len(all))
	for _, s := range all {
		parsed = append(parsed, netip.MustParsePrefix(s))
	}
	return parsed
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// hold takes an address for a pod as its main plugin does.
func (f *fixture) hold(network, pod, address string, elsewhere bool) {
	f.t.Helper()
	l, err := ipam.OpenLedger(f.Node.LedgerPath(network), f.Ledger)
	f.must(err)
	defer l.Close()
	a := netip.MustParseAddr(address)
	_, err = l.Allocate(f.t.Context(), ipam.Request{
		Attachment: ipam.Attachment{ContainerID: pod, Interface: "eth0"}, Sets: []ipam.RangeSet{{{First: a, Last: a}}}, Elsewhere: elsewhere,
	})
	f.must(err)
}

func (f *fixture) withdraw(network, first, last string) {
	f.t.Helper()
	l, err := ipam.OpenLedger(f.Node.LedgerPath(network), f.Ledger)
	f.must(err)
	defer l.Close()
	f.must(l.Withdraw(f.t.Context(), ipam.Range{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}))
}

func (f *fixture) attach(network, pod, address string) {
	a := ipam.Allocation{Attachment: ipam.Attachment{ContainerID: pod, Interface: "eth0"}}
	if address != "" {
		a.Address = netip.MustParseAddr(address)
	}
	f.live[network] = append(f.live[network], a)
}

// held is what a ledger holds: address, pod, seconds since the test began, and
// where the interface is made.
func (f *fixture) held(network string) string {
	f.t.Helper()
	s, err := ipam.Inspect(f.t.Context(), f.Node.LedgerPath(network), f.Ledger)
	f.must(err)
	var all []string
	for _, a := range s.Held {
		one := fmt.Sprintf("%s %s %d", a.Address, a.ContainerID, a.Since.Unix()-1_700_000_000)
		if a.Elsewhere {
			one += " elsewhere"
		}
		all = append(all, one)
	}
	return strings.Join(all, ", ")
}

func (f *fixture) corrupt(network string, at int64) {
	f.t.Helper()
	file, err := os.OpenFile(f.Node.LedgerPath(network), os.O_RDWR, 0)
	f.must(err)
	_, err = file.WriteAt([]byte{0xff, 0xff}, at)
	f.must(errors.Join(err, file.Close()))
}

// said is what was written since it was asked last, without the test's folder.
func (f *fixture) said() string {
	text := strings.ReplaceAll(f.out.String(), f.Node.DataDir, "DATA")
	f.out.Reset()
	return text
}

func (f *fixture) wantSaid(want string) {
	f.t.Helper()
	if got := f.said(); got != want {
		f.t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
}

func wantError(t *testing.T, err, target error, parts ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q doesn't name %q", err, part)
		}
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods", "storage")
	f.hold("pods", "web", "10.0.1.7", false)
	f.hold("pods", "web2", "10.0.2.1", true)
	f.hold("pods", strings.Repeat("x", 200), "fd00::7", false)
	f.withdraw("pods", "10.0.2.2", "10.0.2.3")
	f.must(f.Show(t.Context()))
	f.wantSaid(`network pods on node a, ledger DATA/ipam/pods.ledger
BLOCK        FAMILY  TAKEN  FREE     WITHDRAWN  TOTAL
10.0.1.0/24  IPv4    1      253      0          254
10.0.2.0/30  IPv4    1      0        1          2
fd00::/64    IPv6    1      1.8e+19  0          1.8e+19
ADDRESS   CONTAINER` + strings.Repeat(" ", 124) + `INTERFACE  SINCE                 MADE
10.0.1.7  web` + strings.Repeat(" ", 130) + `eth0       2023-11-14T22:13:20Z  here
10.0.2.1  web2` + strings.Repeat(" ", 129) + `eth0       2023-11-14T22:13:20Z  elsewhere
fd00::7   ` + strings.Repeat("x", 128) + `...  eth0       2023-11-14T22:13:20Z  here

network storage on node a, ledger DATA/ipam/storage.ledger
BLOCK            FAMILY  TAKEN  FREE     WITHDRAWN  TOTAL
10.1.1.0/24      IPv4    0      254      0          254
10.1.2.0/30      IPv4    0      2        0          2
fd00:0:0:1::/64  IPv6    0      1.8e+19  0          1.8e+19
`)
	if files, err := os.ReadDir(filepath.Dir(f.Node.LedgerPath("pods"))); err != nil || len(files) != 1 {
		t.Errorf("it made a ledger: %v, %v", files, err)
	}
}

func TestShowJSON(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods", "storage")
	f.hold("storage", "web", "10.1.1.7", true)
	f.Format, f.Network = ctl.JSON, "storage"
	f.must(f.Show(t.Context()))
	var got []map[string]any
	f.must(json.Unmarshal([]byte(f.said()), &got))
	if len(got) != 1 || got[0]["network"] != "storage" || got[0]["node"] != "a" {
		t.Fatalf("got %v", got)
	}
	want := "map[address:10.1.1.7 container:web elsewhere:true interface:eth0 since:2023-11-14T22:13:20Z]"
	if all := fmt.Sprint(got[0]["allocations"]); all != "["+want+"]" {
		t.Errorf("allocations are %s", all)
	}
	if blocks := fmt.Sprint(got[0]["blocks"]); !strings.Contains(blocks, "map[block:10.1.1.0/24 family:IPv4 free:253 taken:1 total:254 withdrawn:0]") {
		t.Errorf("blocks are %s", blocks)
	}
}

// Of a corrupt ledger what can be read is shown, and the others' as well.
func TestShowCorrupt(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods", "storage")
	f.hold("pods", "web", "10.0.1.7", false)
	f.hold("storage", "db", "10.1.1.7", false)
	f.corrupt("pods", 512) // the header's changing part
	err := f.Show(t.Context())
	wantError(t, err, ipam.ErrCorrupt, "pods.ledger", "overlayctl ipam rebuild --network pods")
	if text := f.said(); !strings.Contains(text, "web") || !strings.Contains(text, "db") {
		t.Errorf("it says\n%s", text)
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	do := map[string]func(context.Context) error{"show": f.Show, "audit": f.Audit, "rebuild": f.Rebuild}
	for name, fn := range do {
		wantError(t, fn(t.Context()), nodestate.ErrNotReady, f.Node.RunDir)
		f.Network = "pods"
		wantError(t, fn(t.Context()), nodestate.ErrNotReady, "pods", f.Node.RunDir)
		f.Network = ""
		if _, err := os.Stat(f.Node.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s made the data directory: %v", name, err)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{"table": true, "json": true, "": false, "JSON": false, "yaml": false} {
		var f ctl.Format
		if err := f.UnmarshalText([]byte(text)); (err == nil) != good || good && string(f) != text {
			t.Errorf("%q: %q, %v", text, f, err)
		}
	}
}
