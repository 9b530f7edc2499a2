package node_test

// One network on one node, brought up for real: lease, kernel, packet filter,
// node state.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// journal is a log that can be read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// take returns what was written since it was last asked.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return j.text.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func spec() lease.Network {
	n := lease.Network{
		Name:  "pods",
		CIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
	}
	return n.Complete()
}

// member is a network on a node of a lab, with its store and its log.
type member struct {
	*node.Network
	host  *lab.Node
	store store.Store
	log   *journal
}

// join puts a network on a host, with the leases in a directory.
func join(t testing.TB, h *lab.Node, dir string) *member {
	t.Helper()
	s, err := local.Open(dir, local.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	j := &journal{}
	return &member{
		Network: &node.Network{
			Spec: spec(), Node: h.Name(), Registry: &lease.Registry{Store: s},
			RunDir: h.RunDir(), Ledger: filepath.Join(h.Dir(), "ipam", "pods.ledger"), Firewall: firewall.Firewall{Backend: firewall.Auto}, Log: j.logger(),
		},
		host: h, store: s, log: j,
	}
}

func newMember(t testing.TB) *member {
	t.Helper()
	return join(t, labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a"), t.TempDir())
}

func (m *member) sync(ctx context.Context) (state *nodestate.State, err error) {
	if inside := m.host.Do(func() error {
		state, err = m.Sync(ctx)
		return nil
	}); inside != nil {
		return nil, inside
	}
	return state, err
}

func (m *member) mustSync(t testing.TB) *nodestate.State {
	t.Helper()
	state, err := m.sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// snapshot is the node's state without the table of local routes: the kernel
// adds IPv6's some time after the address.
func snapshot(t testing.TB, h *lab.Host) lab.Snapshot {
	t.Helper()
	s, err := h.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	kept := s[:0]
	for _, line := range s {
		if !strings.HasPrefix(line, "route table 255 ") {
			kept = append(kept, line)
		}
	}
	return kept
}

func (m *member) command(t testing.TB, line string) string {
	t.Helper()
	out, err := m.host.Command(t.Context(), "sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func (m *member) entries(t testing.TB) (found []store.Entry, revision store.Revision) {
	t.Helper()
	found, revision, err := m.store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return found, revision
}

func TestSync(t *testing.T) {
	t.Parallel()
	m := newMember(t)
	state := m.mustSync(t)

	read, err := nodestate.Read(m.RunDir, "pods")
	if err != nil || !reflect.DeepEqual(read, state) {
		t.Errorf("the file says %+v, %v\nreturned %+v", read, err, state)
	}
	v := state.VTEP
	if v.Device != "ovx4096" || v.VNI != 4096 || v.Port != 4789 || v.Local != m.host.IPv4() || v.MTU != 1450 || v.MAC != m.Spec.MAC("n1") {
		t.Errorf("VTEP %+v", v)
	}
	if len(v.Blocks) != 2 || v.Blocks[0].Bits() != 24 || v.Blocks[1].Bits() != 64 || !m.Spec.Contains(v.Blocks[0].Addr()) || !m.Spec.Contains(v.Blocks[1].Addr()) {
		t.Errorf("blocks %v", v.Blocks)
	}
	if state.Node != "n1" || !state.Network.Equal(&m.Spec) || state.Version != nodestate.Version || !state.Expires.IsZero() {
		t.Errorf("state %+v", state)
	}
	info, err := os.Stat(nodestate.Path(m.RunDir, "pods"))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info, err)
	}
	if rest, err := filepath.Glob(filepath.Join(m.RunDir, ".state-*")); err != nil || len(rest) > 0 {
		t.Errorf("files left: %v, %v", rest, err)
	}
	forwarding := m.command(t, "sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding; nft list tables; ip -o link show ovx4096")
	for _, text := range []string{"1\n1\n", "table inet overlay-cni-pods", "ovx4096: <BROADCAST,MULTICAST,UP"} {
		if !strings.Contains(forwarding, text) {
			t.Errorf("no %q in\n%s", text, forwarding)
		}
	}
	if log := m.log.take(); !strings.Contains(log, "missing: link ovx4096") {
		t.Errorf("the changes aren't logged:\n%s", log)
	}
}

func TestSecondSyncChangesNothing(t *testing.T) {
	t.Parallel()
	m := newMember(t)
	first := m.mustSync(t)
	_ = m.log.take()
	kernelBefore := snapshot(t, m.host.Host)
	filterBefore := m.command(t, "nft -a list ruleset") // handles would show rules that were written again
	_, revision := m.entries(t)
	for range 3 {
		if again := m.mustSync(t); !reflect.DeepEqual(again, first) {
			t.Errorf("state %+v, was %+v", again, first)
		}
	}
	if diff := kernelBefore.Diff(snapshot(t, m.host.Host)); len(diff) > 0 {
		t.Errorf("kernel: %q", diff)
	}
	if after := m.command(t, "nft -a list ruleset"); after != filterBefore {
		t.Errorf("packet filter:\n%s", after)
	}
	if _, now := m.entries(t); now != revision || first.Revision != revision {
		t.Errorf("store's revision %d, was %d, state's %d", now, revision, first.Revision)
	}
	if log := m.log.take(); log != "" {
		t.Errorf("logged:\n%s", log)
	}
	m.mustSync(t)
	if log := m.log.take(); strings.Contains(log, "level=WARN") {
		t.Errorf("logged again, though nothing is new:\n%s", log)
	}
}

// Two nodes with one store find each other, and come back from a reboot as they
// were.
func TestNodesFindEachOther(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	dir := t.TempDir()
	a := join(t, labtest.Node(t, l, "n1", "a"), dir)
	b := join(t, labtest.Node(t, l, "n2", "b"), dir)
	before := a.mustSync(t)
	there := b.mustSync(t)
	a.mustSync(t) // which the daemon does when the store has changed
	reach := func(when string) {
		t.Helper()
		for _, to := range there.VTEP.Addresses() {
			if _, err := a.host.Ping(t.Context(), to); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	reach("at first")
	if err := a.host.Reset(); err != nil {
		t.Fatal(err)
	}
	if after := a.mustSync(t); !reflect.DeepEqual(after.VTEP, before.VTEP) {
		t.Errorf("after a reboot %+v, before %+v", after.VTEP, before.VTEP)
	}
	reach("after a reboot")
}

func TestUnreachablePeerIsNamed(t *testing.T) {
	t.Parallel()
	m := newMember(t)
	_, err := m.Registry.Acquire(t.Context(), &lease.Claim{
		Network: m.Spec, Node: "lonely",
		VTEP: lease.VTEP{Underlay: []netip.Addr{netip.MustParseAddr("fd00:30:9::9")}, MAC: m.Spec.MAC("lonely")},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.mustSync(t)
	if log := m.log.take(); !strings.Contains(log, "level=WARN") || !strings.Contains(log, "peers=[lonely]") {
		t.Errorf("logged:\n%s", log)
	}
}

func TestSyncRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(testing.TB, *member)
		want    error  // nil: a *lease.FieldError
		text    string // within the error
		claimed bool   // a lease may have been claimed
	}{
		"MTU too large": {
			prepare: func(_ testing.TB, m *member) { m.Spec.MTU = 1451 },
			text:    `network pods: mtu: "1451": is too large: interface eth0 has an MTU of 1500, which leaves 1450`,
		},
		"underlay's MTU too small": {
			prepare: func(t testing.TB, m *member) { m.command(t, "ip link set eth0 mtu 1300") },
			text:    "but the network needs 1280",
		},
		"missing interface": {
			prepare: func(_ testing.TB, m *member) { m.Underlay = "eth7" },
			text:    "network pods: underlay.interface: \"eth7\"",
		},
		"no underlay": {
			prepare: func(t testing.TB, m *member) { m.command(t, "ip route delete default; ip -6 route delete default") },
			want:    underlay.ErrNone, text: "set underlay.interface",
		},
		"network registered otherwise": {
			prepare: func(t testing.TB, m *member) {
				other := spec()
				other.VNI = 9
				if _, err := m.Registry.Join(t.Context(), &other); err != nil {
					t.Fatal(err)
				}
			},
			want: lease.ErrConflict, text: "network pods is registered with vni 9, not 4096",
		},
		"all blocks leased": {
			prepare: func(t testing.TB, m *member) {
				m.Spec.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}
				_, err := m.Registry.Acquire(t.Context(), &lease.Claim{
					Network: m.Spec, Node: "other", VTEP: lease.VTEP{Underlay: []netip.Addr{netip.MustParseAddr("172.30.1.99")}, MAC: m.Spec.MAC("other")},
				})
				if err != nil {
					t.Fatal(err)
				}
			},
			want: lease.ErrNoBlock, text: "network pods",
		},
		"VNI in use": {
			prepare: func(t testing.TB, m *member) {
				m.command(t, "ip link add flannel.1 up type vxlan id 4096 dstport 4789 local 172.30.1.10 nolearning")
			},
			want: kernel.ErrVNIInUse, text: "VNI 4096", claimed: true,
		},
		"port in use": {
			prepare: func(t testing.TB, m *member) {
				err := m.host.Do(func() error {
					c, err := net.ListenPacket("udp", ":4789")
					if err == nil {
						t.Cleanup(func() { _ = c.Close() })
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			},
			want: kernel.ErrPortInUse, text: fmt.Sprintf("it is used by process %d", os.Getpid()), claimed: true,
		},
		"device of another kind": {
			prepare: func(t testing.TB, m *member) {
				m.command(t, "ip link add ovx4096 up type bridge; ip address add 192.0.2.1/24 dev ovx4096")
			},
			want: kernel.ErrLinkExists, text: "network pods", claimed: true,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMember(t)
			tt.prepare(t, m)
			links := m.command(t, "ip -o link | cut -d: -f2; ip -o address")
			before := snapshot(t, m.host.Host)
			_, revision := m.entries(t)
			state, err := m.sync(t.Context())
			if state != nil || err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("%+v, %v; want an error with %q", state, err, tt.text)
			}
			var field *lease.FieldError
			if tt.want == nil && !errors.As(err, &field) || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%T %v", err, err)
			}
			if _, err := nodestate.Read(m.RunDir, "pods"); !errors.Is(err, nodestate.ErrNotReady) {
				t.Errorf("node state: %v", err)
			}
			if now := m.command(t, "ip -o link | cut -d: -f2; ip -o address"); now != links {
				t.Errorf("links:\n%s\nbefore:\n%s", now, links)
			}
			if tt.claimed {
				return
			}
			if diff := before.Diff(snapshot(t, m.host.Host)); len(diff) > 0 {
				t.Errorf("kernel: %q", diff)
			}
			for found, now := m.entries(t); now != revision; revision = now {
				for _, e := range found {
					if strings.HasPrefix(e.Key, "leases/pods/") && strings.Contains(string(e.Value), `"n1"`) {
						t.Errorf("claimed for nothing: %s", e.Key)
					}
				}
			}
		})
	}
}

func TestConflictNamesDevice(t *testing.T) {
	t.Parallel()
	m := newMember(t)
	m.command(t, "ip link add flannel.1 up type vxlan id 4096 dstport 4789 local 172.30.1.10 nolearning")
	if _, err := m.sync(t.Context()); err == nil || !strings.Contains(err.Error(), "it is used by device flannel.1") {
		t.Errorf("%v", err)
	}
}

func TestCanceledSync(t *testing.T) {
	t.Parallel()
	m := newMember(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := snapshot(t, m.host.Host)
	if _, err := m.sync(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if diff := before.Diff(snapshot(t, m.host.Host)); len(diff) > 0 {
		t.Errorf("kernel: %q", diff)
	}
}
