package kernel_test

// What the tests of this package have in common: a host of their own, and the
// ways to look at it that don't go through the code under test.

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

var (
	macA = ether.Addr{0x0e, 0, 0, 0, 0, 0x0a}
	macB = ether.Addr{0x0e, 0, 0, 0, 0, 0x0b}
	macC = ether.Addr{0x0e, 0, 0, 0, 0, 0x0c}
)

func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// newHost makes a host with a connection to its kernel.
func newHost(t testing.TB) (*lab.Host, *kernel.Conn) {
	t.Helper()
	h := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a").Host
	return h, open(t, h)
}

func open(t testing.TB, h *lab.Host) *kernel.Conn {
	t.Helper()
	c, err := kernel.OpenNamespace(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// vxlan is a device on the host's underlay; v6 says over which family.
func vxlan(v6 bool) kernel.VXLAN {
	v := kernel.VXLAN{Name: "vx0", VNI: 77, Port: 4789, Local: ip("172.30.1.10"), MTU: 1400, MAC: macA}
	if v6 {
		v.Local = ip("fd00:30:1::a")
	}
	return v
}

// bridge makes a link that isn't ours, with an address and a route of our own
// protocol's number on it, so that there is something to be wrong about.
func bridge(t testing.TB, h *lab.Host, name string) {
	t.Helper()
	command(t, h, "ip link add "+name+" type bridge")
	command(t, h, "ip link set "+name+" up")
	command(t, h, "ip address add 192.0.2.1/24 dev "+name)
	command(t, h, "ip -6 address add 2001:db8::1/64 nodad dev "+name)
	command(t, h, "ip neighbour add 192.0.2.2 lladdr 0e:00:00:00:00:01 dev "+name)
	command(t, h, "ip route add 198.51.100.0/24 via 192.0.2.2 dev "+name+" proto 118")
}

func do(t testing.TB, h *lab.Host, fn func() error) {
	t.Helper()
	if err := h.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// command runs a program in the host and returns what it writes.
func command(t testing.TB, h *lab.Host, line string) string {
	t.Helper()
	f := strings.Fields(line)
	out, err := h.Command(t.Context(), f[0], f[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func snapshot(t testing.TB, h *lab.Host) lab.Snapshot {
	t.Helper()
	s, err := h.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// settle makes the objects be, and checks that nothing is left to do.
func settle(t testing.TB, target *kernel.Target, want []reconcile.Object, scope reconcile.Scope) []reconcile.Change {
	t.Helper()
	changes, err := reconcile.Settle(t.Context(), target, want, scope)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := reconcile.Run(t.Context(), target, want, scope); err != nil || len(left) > 0 {
		t.Fatalf("after settling: %v, %v", left, err)
	}
	return changes
}

func observe(t testing.TB, target *kernel.Target) []reconcile.Object {
	t.Helper()
	have, err := target.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// count says how many observed objects match one.
func count(have []reconcile.Object, o reconcile.Object) int {
	n := 0
	for _, h := range have {
		if h.Key() == o.Key() && o.Matches(h) {
			n++
		}
	}
	return n
}

// expectLines looks for texts in what a program wrote, whatever the white space.
func expectLines(t testing.TB, what, out string, texts []string) {
	t.Helper()
	flat := strings.Join(strings.Fields(out), " ")
	for _, text := range texts {
		if !strings.Contains(flat, text) {
			t.Errorf("%s: no %q in\n%s", what, text, out)
		}
	}
}
