package vtep_test

// The kernel, brought in line from all kinds of states.

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

func open(t testing.TB, h *lab.Host) *kernel.Conn {
	t.Helper()
	c, err := kernel.OpenNamespace(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func newHost(t testing.TB) (*lab.Host, *kernel.Conn) {
	t.Helper()
	h := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a").Host
	return h, open(t, h)
}

// apply reconciles, and checks that a second time there is nothing to do and
// nothing is done.
func apply(t testing.TB, c *kernel.Conn, s *vtep.Spec, peers []vtep.Peer) []reconcile.Change {
	t.Helper()
	made, err := vtep.Reconcile(t.Context(), c, s, peers)
	if err != nil {
		t.Fatal(err)
	}
	left, err := vtep.Check(t.Context(), c, s, peers)
	if err != nil || len(left) > 0 {
		t.Fatalf("left to do: %v, %v", left, err)
	}
	if again, err := vtep.Reconcile(t.Context(), c, s, peers); err != nil || len(again) > 0 {
		t.Fatalf("done again: %v, %v", again, err)
	}
	return made
}

// snapshot is the host's state without the table of local routes: the kernel
// adds IPv6's some time after the address.
func snapshot(t testing.TB, h *lab.Host) lab.Snapshot {
	t.Helper()
	s, err := h.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(s, func(line string) bool { return strings.HasPrefix(line, "route table 255 ") })
}

func command(t testing.TB, h *lab.Host, line string) string {
	t.Helper()
	out, err := h.Command(t.Context(), "sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func TestReconcileAndRemove(t *testing.T) {
	t.Parallel()
	for name, n := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c := newHost(t)
			before := snapshot(t, h)
			if err := vtep.Remove(t.Context(), c, n.spec); err != nil {
				t.Errorf("remove what isn't there: %v", err)
			}
			if made := apply(t, c, n.spec, n.peers); len(made) != len(vtep.Objects(n.spec, n.peers)) {
				t.Errorf("%d changes for %d objects", len(made), len(vtep.Objects(n.spec, n.peers)))
			}
			for range 2 {
				if err := vtep.Remove(t.Context(), c, n.spec); err != nil {
					t.Error(err)
				}
			}
			if diff := before.Diff(snapshot(t, h)); len(diff) > 0 {
				t.Errorf("left behind: %q", diff)
			}
		})
	}
}

// Whatever is done to the device by hand is undone, and the others' things
// stay as they are.
func TestReconcileHeals(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"device deleted":             "ip link delete ovx4096",
		"device down":                "ip link set ovx4096 down",
		"device down and up":         "ip link set ovx4096 down; ip link set ovx4096 up",
		"device with another MTU":    "ip link set ovx4096 mtu 1280",
		"device with a small MTU":    "ip link set ovx4096 mtu 1000",
		"device with another MAC":    "ip link set ovx4096 address 0e:00:00:00:00:99",
		"device of another port":     "ip link delete ovx4096; ip link add ovx4096 up type vxlan id 4096 dstport 8472 local UNDERLAY nolearning",
		"device that learns":         "ip link delete ovx4096; ip link add ovx4096 up type vxlan id 4096 dstport 4789 local UNDERLAY",
		"device with a group":        "ip link delete ovx4096; ip link add ovx4096 up type vxlan id 4096 dstport 4789 GROUP dev eth0 nolearning",
		"IPv6 off and on":            "sysctl -qw net.ipv6.conf.ovx4096.disable_ipv6=1; sysctl -qw net.ipv6.conf.ovx4096.disable_ipv6=0",
		"addresses flushed":          "ip address flush dev ovx4096",
		"routes flushed":             "ip route flush dev ovx4096 proto 118; ip -6 route flush dev ovx4096 proto 118",
		"neighbours flushed":         "ip neighbour flush dev ovx4096 nud all",
		"FDB entries deleted":        "bridge fdb show dev ovx4096 | while read m _ d _; do bridge fdb delete $m dev ovx4096 dst $d; done",
		"FDB entry elsewhere":        "bridge fdb replace 0e:00:00:00:00:02 dev ovx4096 dst ELSEWHERE",
		"FDB entry of another port":  "bridge fdb replace 0e:00:00:00:00:02 dev ovx4096 dst ELSEWHERE port 1234 vni 7",
		"FDB entry, right but port":  "bridge fdb delete 0e:00:00:00:00:02 dev ovx4096 dst PEER; bridge fdb append 0e:00:00:00:00:02 dev ovx4096 dst PEER port 1234",
		"neighbour elsewhere":        "ip neighbour replace 10.244.2.0 lladdr 0e:00:00:00:00:99 dev ovx4096",
		"neighbour not permanent":    "ip neighbour replace 10.244.2.0 lladdr 0e:00:00:00:00:02 nud stale dev ovx4096",
		"stale FDB entry":            "bridge fdb append 0e:00:00:00:00:77 dev ovx4096 dst ELSEWHERE",
		"stale FDB entry with port":  "bridge fdb append 0e:00:00:00:00:77 dev ovx4096 dst ELSEWHERE port 1234 vni 7",
		"default FDB entries":        "for n in 1 2 3; do bridge fdb append 00:00:00:00:00:00 dev ovx4096 dst UNDERLAY$n; done",
		"stale neighbour":            "ip neighbour add 10.244.9.0 lladdr 0e:00:00:00:00:77 dev ovx4096; ip neighbour add fd00:10:244:9:: lladdr 0e:00:00:00:00:77 dev ovx4096",
		"stale routes":               "ip route add 10.244.9.0/24 via 10.244.9.0 dev ovx4096 onlink proto 118 metric 5; ip -6 route add fd00:10:244:9::/64 via fd00:10:244:9:: dev ovx4096 onlink proto 118 metric 5",
		"stale route to the link":    "ip route add 10.244.9.0/24 dev ovx4096 proto 118; ip -6 route add fd00:10:244:9::/64 dev ovx4096 proto 118",
		"stale blackholes":           "ip route add blackhole 10.244.9.0/24 proto 118 metric 2147483648; ip -6 route add blackhole fd00:10:244:9::/64 proto 118",
		"stale addresses":            "ip address add 10.244.9.1/32 dev ovx4096; ip -6 address add fd00:10:244:9::1/128 dev ovx4096",
		"address of another length":  "ip address add 10.244.1.0/24 dev ovx4096",
		"blackholes deleted":         "ip route delete blackhole 10.244.1.0/24 metric 2147483648 proto 118",
		"route with a second metric": "ip route add 10.244.2.0/24 via 10.244.2.0 dev ovx4096 onlink proto 118 metric 3",
	}
	for name, n := range specs() {
		if name == "ipv4" {
			continue // the others have all of it, and IPv6
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c := newHost(t)
			// What other programs have.
			others := `ip link add flannel.1 up type vxlan id 1 dstport 8472 local UNDERLAY nolearning
				ip address add 10.42.1.0/32 dev flannel.1
				ip route add 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
				ip neighbour add 10.42.2.0 lladdr 0e:00:00:00:00:02 dev flannel.1
				bridge fdb append 0e:00:00:00:00:02 dev flannel.1 dst ELSEWHERE
				ip route add 10.43.0.0/16 via 172.30.1.1 proto 118
				ip route add blackhole 10.45.0.0/16 proto 118
				ip route add blackhole 10.244.77.0/24 proto static
				ip route add 10.244.78.0/24 via 172.30.1.1`
			local, group := n.spec.Local.String(), "group 239.1.1.1"
			if n.spec.Local.Is6() {
				group = "group ff02::77"
			}
			fill := strings.NewReplacer("UNDERLAY", local, "ELSEWHERE", local+"9", "PEER", n.peers[0].Underlay.String(), "GROUP", group)
			command(t, h, fill.Replace(others))
			apply(t, c, n.spec, n.peers)
			want := snapshot(t, h)
			wantFDB := sortedFDB(t, h)
			for what, line := range tests {
				command(t, h, fill.Replace(line))
				if made := apply(t, c, n.spec, n.peers); len(made) == 0 {
					t.Errorf("%s: nothing noticed", what)
				}
				if diff := want.Diff(snapshot(t, h)); len(diff) > 0 {
					t.Errorf("%s: %q", what, diff)
				}
				if got := sortedFDB(t, h); got != wantFDB {
					t.Errorf("%s: forwarding entries\n%s\nwant\n%s", what, got, wantFDB)
				}
			}
		})
	}
}

// sortedFDB shows ports and VNIs of entries, too.
func sortedFDB(t testing.TB, h *lab.Host) string {
	t.Helper()
	return command(t, h, "bridge fdb show dev ovx4096 | sort")
}

func TestPeersComeAndGo(t *testing.T) {
	t.Parallel()
	for name, n := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c := newHost(t)
			apply(t, c, n.spec, nil)
			without := snapshot(t, h)
			apply(t, c, n.spec, n.peers)
			all := snapshot(t, h)

			moved := slices.Clone(n.peers)
			moved[0].Underlay = moved[1].Underlay
			expectChanges(t, "another underlay address", apply(t, c, n.spec, moved), "differs: fdb")
			moved[0].MAC = mac(9)
			expectChanges(t, "another MAC", apply(t, c, n.spec, moved), "missing: fdb", "differs: neighbor", "unexpected: fdb")
			moved[0].Blocks = prefixes("10.244.99.0/24")
			if made := apply(t, c, n.spec, moved); len(made) == 0 {
				t.Error("another block: no changes")
			}
			apply(t, c, n.spec, n.peers[1:])
			apply(t, c, n.spec, slices.Concat(n.peers[1:], n.peers[:1]))
			if diff := all.Diff(snapshot(t, h)); len(diff) > 0 {
				t.Errorf("after all came back: %q", diff)
			}
			apply(t, c, n.spec, nil)
			if diff := without.Diff(snapshot(t, h)); len(diff) > 0 {
				t.Errorf("after all left: %q", diff)
			}
		})
	}
}

// expectChanges checks that the changes are of these kinds, and no others.
func expectChanges(t testing.TB, what string, made []reconcile.Change, kinds ...string) {
	t.Helper()
	for _, c := range made {
		if !slices.ContainsFunc(kinds, func(k string) bool { return strings.HasPrefix(c.String(), k) }) {
			t.Errorf("%s: %s", what, c)
		}
	}
	for _, k := range kinds {
		if !slices.ContainsFunc(made, func(c reconcile.Change) bool { return strings.HasPrefix(c.String(), k) }) {
			t.Errorf("%s: no change %q in %v", what, k, made)
		}
	}
}

func TestForeignDeviceOfOurName(t *testing.T) {
	t.Parallel()
	h, c := newHost(t)
	n := specs()["dual-stack"]
	command(t, h, `ip link add ovx4096 up type bridge; ip address add 192.0.2.1/24 dev ovx4096
		ip route add 198.51.100.0/24 via 192.0.2.9 dev ovx4096 proto 118`)
	before := snapshot(t, h)
	_, err := vtep.Reconcile(t.Context(), c, n.spec, n.peers)
	if !errors.Is(err, kernel.ErrLinkExists) || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("%v, want %v and no more", err, kernel.ErrLinkExists)
	}
	if err := vtep.Remove(t.Context(), c, n.spec); err != nil {
		t.Errorf("remove: %v", err)
	}
	if diff := before.Diff(snapshot(t, h)); len(diff) > 0 {
		t.Errorf("touched: %q", diff)
	}
}

// Two nodes, told of each other by hand, exchange packets of both families.
func TestNodesReachEachOther(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, segments := range []string{"aa", "ab"} {
			t.Run(fmt.Sprintf("IPv6 underlay %t, segments %s", v6, segments), func(t *testing.T) {
				t.Parallel()
				l := labtest.New(t, lab.Topology{})
				var nodes [2]*lab.Node
				var underlay [2]netip.Addr
				for n := range nodes {
					nodes[n] = labtest.Node(t, l, fmt.Sprintf("n%d", n), segments[n:n+1])
					underlay[n] = nodes[n].IPv4()
					if v6 {
						underlay[n] = nodes[n].IPv6()
					}
				}
				blocks := func(n int) []netip.Prefix {
					return prefixes(fmt.Sprintf("10.244.%d.0/24", n), fmt.Sprintf("fd00:10:244:%d::/64", n))
				}
				wire, err := nodes[0].Capture("eth0", func(f lab.Frame) bool { _, _, ok := f.VXLAN(4789); return ok })
				if err != nil {
					t.Fatal(err)
				}
				for n, node := range nodes {
					s := &vtep.Spec{
						Device: "ovx77", VNI: 77, Port: 4789, Local: underlay[n], MAC: mac(n), MTU: 1430,
						Blocks: blocks(n), Within: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
					}
					peer := vtep.Peer{Underlay: underlay[1-n], MAC: mac(1 - n), Blocks: blocks(1 - n)}
					apply(t, open(t, node.Host), s, []vtep.Peer{peer})
				}
				for _, b := range blocks(1) {
					if _, err := nodes[0].Ping(t.Context(), vtep.Gateway(b)); err != nil {
						t.Error(err)
					}
					labtest.Server(t, nodes[1].Host, 7+uint16(b.Bits()))
					to := netip.AddrPortFrom(vtep.Gateway(b), 7+uint16(b.Bits()))
					if _, err := nodes[0].UDP(t.Context(), to, lab.UDPPayload(1430, to.Addr()), true); err != nil {
						t.Error(err)
					}
				}
				frames, err := wire.Wait(t.Context(), 8)
				if err != nil {
					t.Error(err)
				}
				for _, f := range frames {
					p, _ := f.IP()
					if vni, _, _ := f.VXLAN(4789); vni != 77 || p.Src != underlay[0] && p.Src != underlay[1] {
						t.Errorf("VNI %d from %s", vni, p.Src)
					}
				}
			})
		}
	}
}

// To an address of an own block that is no pod's, packets go nowhere.
func TestUnusedAddressIsUnreachable(t *testing.T) {
	t.Parallel()
	h, c := newHost(t)
	n := specs()["dual-stack"]
	apply(t, c, n.spec, n.peers)
	for _, to := range []string{"10.244.1.99", "fd00:10:244:1::99", "10.244.7.1"} {
		out, err := h.Command(t.Context(), "ip", "route", "get", to).CombinedOutput()
		if err == nil && !strings.Contains(string(out), "blackhole") {
			t.Errorf("%s: %s", to, out)
		}
	}
}

func benchmark(b *testing.B, peers int, unchanged bool) {
	_, c := newHost(b)
	s := *specs()["dual-stack"].spec
	s.Blocks, s.Within = prefixes("10.0.0.0/24"), prefixes("10.0.0.0/8")
	var all []vtep.Peer
	for n := 1; n <= peers; n++ {
		all = append(all, vtep.Peer{
			Underlay: netip.AddrFrom4([4]byte{172, 16 + byte(n>>16), byte(n >> 8), byte(n)}), MAC: mac(n),
			Blocks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)},
		})
	}
	if unchanged {
		apply(b, c, &s, all)
	}
	for b.Loop() {
		made, err := vtep.Reconcile(b.Context(), c, &s, all)
		if err != nil || (len(made) == 0) != unchanged {
			b.Fatalf("%d changes, %v", len(made), err)
		}
		if !unchanged {
			b.StopTimer()
			if err := vtep.Remove(b.Context(), c, &s); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
}

func BenchmarkReconcile1000(b *testing.B) {
	b.Run("from empty", func(b *testing.B) { benchmark(b, 1000, false) })
	b.Run("unchanged", func(b *testing.B) { benchmark(b, 1000, true) })
}

func BenchmarkReconcile10000(b *testing.B) {
	b.Run("from empty", func(b *testing.B) { benchmark(b, 10000, false) })
	b.Run("unchanged", func(b *testing.B) { benchmark(b, 10000, true) })
}
