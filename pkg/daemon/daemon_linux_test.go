package daemon_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

const port = 7000

// meet fails unless two pods reach each other on both families.
func meet(t *testing.T, a, b *cluster.Pod) {
	t.Helper()
	for i, dst := range b.Addresses() {
		x, err := a.TCP(t.Context(), netip.AddrPortFrom(dst, port))
		if err != nil {
			t.Errorf("%s to %s: %v", a, b, err)
			continue
		}
		if own := a.Addresses()[i]; x.Source.Addr() != own {
			t.Errorf("%s saw %s instead of %s", b, x.Source.Addr(), own)
		}
	}
}

func served(t *testing.T, n *cluster.Node, name string) *cluster.Pod {
	t.Helper()
	p := clustertest.Pod(t, n, name)
	clustertest.Serve(t, p.Host, port)
	return p
}

func TestHealth(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n := clustertest.Node(t, c, "n1", "a")
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusOK, "/other": http.StatusNotFound} {
		if got, err := n.Health(t.Context(), path); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", path, got, err, want)
		}
	}
}

// TestStopAndRestart: running pods don't notice, new ones get addresses
// meanwhile, and the restart finds nothing to change.
func TestStopAndRestart(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	meet(t, p1, p2)
	before := snapshot(t, n1)
	if err := n1.StopDaemon(); err != nil {
		t.Fatalf("a clean stop: %v\n%s", err, n1.Log())
	}
	meet(t, p1, p2)
	meet(t, p2, p1)
	if err := n1.Status(t.Context()); err != nil {
		t.Errorf("STATUS while the daemon is stopped: %v", err)
	}
	p3 := served(t, n1, "p3")
	meet(t, p2, p3)
	if err := p3.Del(t.Context()); err != nil {
		t.Fatal(err)
	}
	logged := len(n1.Log())
	if err := n1.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := n1.Log()[logged:]; strings.Contains(log, "changed") {
		t.Errorf("the restart changed something:\n%s", log)
	}
	if diff := before.Diff(snapshot(t, n1)); len(diff) > 0 {
		t.Errorf("after the restart:\n%s", strings.Join(diff, "\n"))
	}
	meet(t, p2, p1)
}

func snapshot(t *testing.T, n *cluster.Node) lab.Snapshot {
	t.Helper()
	s, err := n.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// settled is a snapshot of a node that serves its VTEP's addresses: the kernel adds
// its own route to one of IPv6 after it has added the address.
func settled(t *testing.T, n *cluster.Node) lab.Snapshot {
	t.Helper()
	s, err := n.State()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range s.VTEP.Addresses() {
		await(t, func() bool {
			return strings.HasPrefix(shell(t, n.Host, "ip route get "+a.String()+" || true"), "local")
		})
	}
	return snapshot(t, n)
}

// TestKilledDaemon: SIGKILL at once after the start, at every moment of it.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	if err := n1.KillDaemon(); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		runIP(t, n1, "link", "del", "ovx4096") // so that there is something to do
		if err := n1.LaunchDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i) * 5 * time.Millisecond)
		if err := n1.KillDaemon(); err != nil {
			t.Fatal(err)
		}
	}
	if err := n1.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	meet(t, p1, p2)
	meet(t, p2, p1)
}

func runIP(t *testing.T, n *cluster.Node, args ...string) {
	t.Helper()
	_ = n.Command(t.Context(), "ip", args...).Run() // it may be gone already
}

// TestPeersComeAndGo: nodes that join are programmed at once, and what they
// leave behind when their lease is given back is removed.
func TestPeersComeAndGo(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1 := clustertest.Node(t, c, "n1", "a")
	p1 := served(t, n1, "p1")
	alone := settled(t, n1)
	n2 := clustertest.Node(t, c, "n2", "b")
	p2 := served(t, n2, "p2")
	await(t, func() bool { return len(alone.Diff(snapshot(t, n1))) == 6 }) // 2 routes, 2 neighbours, 1 FDB entry, 1 element of peers
	meet(t, p1, p2)
	if err := c.Release(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	if err := n2.KillDaemon(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		// The daemon of n2 may have renewed it just before its end.
		return c.Release(t.Context(), "n2") == nil && len(alone.Diff(snapshot(t, n1))) == 0
	})
}

// await fails unless a condition comes true soon.
func await(t *testing.T, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it didn't happen")
		}
	}
}

// TestReset: a node that lost its power comes back with what it had.
func TestReset(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "a")
	p1 := served(t, n1, "p1")
	before, err := n2.State()
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { // n1 has taken in both of n2's leases
		routes := strings.Join(snapshot(t, n1), "\n")
		return strings.Contains(routes, before.Blocks()[0].String()) && strings.Contains(routes, before.Blocks()[1].String())
	})
	peer := snapshot(t, n1)
	if err := n2.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := n2.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := n2.State()
	if err != nil {
		t.Fatal(err)
	}
	if before.VTEP.MAC != after.VTEP.MAC || !slices.Equal(before.Blocks(), after.Blocks()) {
		t.Errorf("it was %v and came back as %v", before.VTEP, after.VTEP)
	}
	p2 := served(t, n2, "p2")
	meet(t, p1, p2)
	meet(t, p2, p1)
	if diff := peer.Diff(snapshot(t, n1)); len(diff) > 0 {
		t.Errorf("the other node changed:\n%s", strings.Join(diff, "\n"))
	}
}

// TestMasquerade: who is outside sees the node, unless that is excluded.
func TestMasquerade(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		network    string
		masquerade bool
	}{
		"on":       {cluster.DefaultNetwork, true},
		"excluded": {`{"cidrs": ["10.244.0.0/16", "fd00:10:244::/48"], "masquerade": {"exclude": ["172.30.2.0/24", "fd00:30:2::/64"]}}`, false},
		"off":      {`{"cidrs": ["10.244.0.0/16", "fd00:10:244::/48"], "masquerade": {"enabled": false}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, backend := range []string{"nftables", "iptables"} {
				cl := clustertest.New(t, cluster.Options{Network: c.network, Daemon: map[string]any{"firewall": backend}})
				n := clustertest.Node(t, cl, "n1", "a")
				vm := labtest.VM(t, cl.Lab, "v1", "b")
				clustertest.Serve(t, vm.Host, port)
				p := clustertest.Pod(t, n, "p1")
				// The way back to a pod's own address is not the overlay's business.
				for i, via := range []netip.Addr{n.IPv4(), n.IPv6()} {
					if !c.masquerade {
						routeBack(t, cl, p.Addresses()[i], via)
					}
				}
				want := []netip.Addr{n.IPv4(), n.IPv6()}
				if !c.masquerade {
					want = p.Addresses()
				}
				for i, dst := range []netip.Addr{vm.IPv4(), vm.IPv6()} {
					x, err := p.TCP(t.Context(), netip.AddrPortFrom(dst, port))
					if err != nil || x.Source.Addr() != want[i] {
						t.Errorf("%s: %s saw %s (%v), want %s", backend, dst, x.Source.Addr(), err, want[i])
					}
				}
			}
		})
	}
}

// routeBack lets the router send what is for a pod to its node.
func routeBack(t *testing.T, c *cluster.Cluster, pod, via netip.Addr) {
	t.Helper()
	out, err := c.Lab.Router().Command(t.Context(), "ip", "route", "add", pod.String(), "via", via.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestRefusals: what can't be is said at the start.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		network string
		daemon  map[string]any
		texts   []string
	}{
		"unknown store":  {cluster.DefaultNetwork, map[string]any{"store": map[string]any{"type": "paper"}}, []string{"store.type", "paper"}},
		"short lease":    {cluster.DefaultNetwork, map[string]any{"lease": map[string]any{"ttl": "1s"}}, []string{"lease.ttl", "1s"}},
		"health":         {cluster.DefaultNetwork, map[string]any{"health": "nowhere"}, []string{"health", "nowhere"}},
		"malformed CIDR": {`{"cidrs": ["10.244.0.0"]}`, nil, []string{"networks[0].cidrs[0]", "10.244.0.0"}},
		"two of a name": {cluster.DefaultNetwork, map[string]any{"networks": []any{
			map[string]any{"name": "pods", "cidrs": []string{"10.1.0.0/16"}}, map[string]any{"name": "pods", "cidrs": []string{"10.2.0.0/16"}},
		}}, []string{"networks[1].name", "pods", "networks[0]"}},
		"two overlap": {cluster.DefaultNetwork, map[string]any{"networks": []any{
			map[string]any{"name": "a", "cidrs": []string{"10.0.0.0/8"}}, map[string]any{"name": "b", "cidrs": []string{"10.2.0.0/16"}, "vni": 7},
		}}, []string{"networks[1].cidrs[0]", "10.2.0.0/16", "10.0.0.0/8"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := clustertest.New(t, cluster.Options{Network: c.network, Daemon: c.daemon, NoDaemon: true})
			n := clustertest.Node(t, cl, "n1", "a")
			if err := n.LaunchDaemon(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := n.WaitDaemon(); err == nil {
				t.Error("it ended with status 0")
			}
			for _, text := range c.texts {
				if !strings.Contains(n.Log(), text) {
					t.Errorf("its log doesn't contain %q:\n%s", text, n.Log())
				}
			}
		})
	}
}

// TestOneDaemon: a second one on the node is refused.
func TestOneDaemon(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n := clustertest.Node(t, c, "n1", "a")
	cmd := n.Command(t.Context(), filepath.Join(clustertest.Bin(t), "overlayd"), "-config", filepath.Join(n.Dir(), "overlayd.yaml"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another overlayd is running") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestStatusTellsDrift: what the daemon would mend, and doesn't while it is
// stopped, STATUS says.
func TestStatusTellsDrift(t *testing.T) {
	t.Parallel()
	for command, message := range map[string]string{
		"ip link set ovx4096 down":                     "missing: link ovx4096 up",
		"ip link del ovx4096":                          "missing: link ovx4096",
		"nft delete table inet overlay-cni-pods":       "missing: table inet overlay-cni-pods",
		"nft flush chain inet overlay-cni-pods output": "differs: table inet overlay-cni-pods",
		"sysctl -qw net.ipv4.ip_forward=0":             "net.ipv4.ip_forward",
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			n := clustertest.Node(t, clustertest.New(t, cluster.Options{}), "n1", "a")
			if err := n.Status(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := n.StopDaemon(); err != nil {
				t.Fatal(err)
			}
			if out, err := n.Command(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var refused *types.Error
			if err := n.Status(t.Context()); !errors.As(err, &refused) || refused.Code != types.ErrLimitedConnectivity || !strings.Contains(refused.Msg, message) {
				t.Errorf("STATUS: %v", err)
			}
			if err := n.StartDaemon(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := n.Status(t.Context()); err != nil {
				t.Errorf("STATUS after the daemon's start: %v", err)
			}
		})
	}
}

// TestTwoMachinesOfOneName: the second is refused, and the first isn't
// disturbed.
func TestTwoMachinesOfOneName(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"node": "twin"}})
	n1 := clustertest.Node(t, c, "n1", "a")
	before := snapshot(t, n1)
	host, err := c.Lab.AddNode("n2", "b")
	if err != nil {
		t.Fatal(err)
	}
	n2 := cluster.Adopt(c, host)
	if err := n2.LaunchDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		return strings.Contains(n2.Log(), "node name twin is used by another machine, at [172.30.1.10")
	})
	if status, err := n2.Health(t.Context(), "/readyz"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("readyz of the second: %d %v", status, err)
	}
	if diff := before.Diff(snapshot(t, n1)); len(diff) > 0 {
		t.Errorf("the first changed:\n%s", strings.Join(diff, "\n"))
	}
}

// TestNetworkIsRetired: one that is no longer configured goes from the node,
// but not while it has pods; and its settings may change.
func TestNetworkIsRetired(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n := clustertest.Node(t, c, "n1", "a")
	p := clustertest.Pod(t, n, "p1")
	restart := func(networks ...any) {
		t.Helper()
		n.Daemon = map[string]any{"networks": networks}
		if err := n.StopDaemon(); err != nil {
			t.Fatal(err)
		}
		if err := n.StartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pods := map[string]any{"name": "pods", "cidrs": []string{"10.244.0.0/16", "fd00:10:244::/48"}, "masquerade": map[string]any{"enabled": false}}
	blue := map[string]any{"name": "blue", "cidrs": []string{"10.9.0.0/16"}, "vni": 9}
	restart(pods)
	restart(blue)
	if err := p.Check(t.Context()); err != nil || !strings.Contains(n.Log(), "still has pods") {
		t.Errorf("CHECK of the old network's pod: %v", err)
	}
	if err := p.Del(t.Context()); err != nil {
		t.Fatal(err)
	}
	restart(blue)
	left := strings.Join(snapshot(t, n), "\n")
	for _, text := range []string{"ovx4096", "overlay-cni-pods", "10.244."} {
		if strings.Contains(left, text) {
			t.Errorf("the node still has %q:\n%s", text, left)
		}
	}
	restart(map[string]any{"name": "other", "cidrs": []string{"10.244.0.0/16"}}) // its CIDR is free again
}

// TestPluginBesideADaemon: a plugin that is to work without one leaves the node
// to it.
func TestPluginBesideADaemon(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n := clustertest.Node(t, c, "n1", "a")
	before := snapshot(t, n)
	var refused *types.Error
	if err := n.Alone(t.Context()); !errors.As(err, &refused) || refused.Code != types.ErrPluginNotAvailable || !strings.Contains(refused.Msg, "overlayd is running") {
		t.Errorf("STATUS: %v", err)
	}
	if diff := before.Diff(snapshot(t, n)); len(diff) > 0 {
		t.Errorf("the node changed:\n%s", strings.Join(diff, "\n"))
	}
}

// TestSeveralNetworks: one daemon, two networks; their pods don't meet by
// overlapping state.
func TestSeveralNetworks(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"networks": []any{
		map[string]any{"name": "pods", "cidrs": []string{"10.244.0.0/16", "fd00:10:244::/48"}},
		map[string]any{"name": "blue", "cidrs": []string{"10.9.0.0/16"}, "vni": 9, "port": 4790},
	}}})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	meet(t, p1, p2)
	for _, n := range []*cluster.Node{n1, n2} {
		if _, err := os.Stat(filepath.Join(n.RunDir(), "blue.json")); err != nil {
			t.Errorf("%s: %v", n.Name(), err)
		}
	}
}

// TestMasqueradeOfTheVXLANPort: what a pod sends to that port of a machine
// outside isn't taken for the node's own VXLAN, and is masqueraded.
func TestMasqueradeOfTheVXLANPort(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n := clustertest.Node(t, c, "n1", "a")
	vm := labtest.VM(t, c.Lab, "v1", "b")
	clustertest.Serve(t, vm.Host, 4789)
	p := clustertest.Pod(t, n, "p1")
	for dst, want := range map[netip.Addr]netip.Addr{vm.IPv4(): n.IPv4(), vm.IPv6(): n.IPv6()} {
		x, err := p.UDP(t.Context(), netip.AddrPortFrom(dst, 4789), 64, false)
		if err != nil || x.Source.Addr() != want {
			t.Errorf("%s saw %s (%v), want %s", dst, x.Source.Addr(), err, want)
		}
	}
}

// TestLeave: a node is taken out for good when its pods are gone, and not before;
// nothing of it is left, on the node and in the store, and others follow.
func TestLeave(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1 := clustertest.Node(t, c, "n1", "a")
	alone := snapshot(t, n1)
	host, err := c.Lab.AddNode("n2", "b")
	if err != nil {
		t.Fatal(err)
	}
	n2 := cluster.Adopt(c, host)
	before := snapshot(t, n2)
	if err := n2.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused := func(text string) {
		t.Helper()
		during := snapshot(t, n2)
		if out, err := n2.Leave(t.Context()); err == nil || !strings.Contains(out, text) {
			t.Errorf("leave: %v, want %q:\n%s", err, text, out)
		}
		if diff := during.Diff(snapshot(t, n2)); len(diff) > 0 {
			t.Errorf("refused, leave changed:\n%s", strings.Join(diff, "\n"))
		}
	}
	refused("another overlayd is running")
	p := clustertest.Pod(t, n2, "p")
	if err := n2.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	refused("the node still has pods: 1 in network pods")
	if err := p.Del(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := n2.Leave(t.Context()); err != nil {
			t.Fatalf("leave: %v\n%s", err, out)
		}
	}
	// Forwarding stays on, which others may need by now; the kernel shows it by
	// anycast routes.
	diff := slices.DeleteFunc(before.Diff(snapshot(t, n2)), func(line string) bool { return strings.Contains(line, " anycast ") })
	if len(diff) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(diff, "\n"))
	}
	await(t, func() bool { return len(alone.Diff(snapshot(t, n1))) == 0 })
}

// TestNewAddress: a node that comes back with another underlay address keeps its
// blocks and its pods, and the others reach them there.
func TestNewAddress(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "a")
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	meet(t, p1, p2)
	blocks := state(n2, "pods").Blocks()
	if err := n2.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	old := n2.IPv4()
	next := netip.AddrFrom4([4]byte{172, 30, 1, 222})
	if local := state(n2, "pods").VTEP.Local; local != old {
		t.Fatalf("the VTEP is at %s, the node at %s", local, old)
	}
	uplink, gateway := uplinkOf(t, n2), defaultGateway(t, n2)
	runIP(t, n2, "address", "delete", old.String()+"/24", "dev", uplink)
	runIP(t, n2, "address", "add", next.String()+"/24", "dev", uplink)
	runIP(t, n2, "route", "replace", "default", "via", gateway)
	if err := n2.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := state(n2, "pods"); s.VTEP.Local != next || !slices.Equal(s.Blocks(), blocks) {
		t.Errorf("the node has blocks %v behind %s, want %v behind %s", s.Blocks(), s.VTEP.Local, blocks, next)
	}
	await(t, func() bool {
		_, err := p1.TCP(t.Context(), netip.AddrPortFrom(p2.Addresses()[0], port))
		return err == nil
	})
	meet(t, p1, p2)
	meet(t, p2, p1)
	if strings.Contains(strings.Join(snapshot(t, n1), "\n"), old.String()) {
		t.Errorf("n1 still knows %s", old)
	}
}

// uplinkOf names a node's interface on the underlay, and defaultGateway the router
// there.
func uplinkOf(t *testing.T, n *cluster.Node) string { return routeField(t, n, "dev") }

func defaultGateway(t *testing.T, n *cluster.Node) string { return routeField(t, n, "via") }

func routeField(t *testing.T, n *cluster.Node, name string) string {
	t.Helper()
	out, err := n.Command(t.Context(), "ip", "-4", "route", "show", "default").Output()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(out))
	at := slices.Index(words, name)
	if at < 0 || at+1 == len(words) {
		t.Fatalf("the default route is %q", out)
	}
	return words[at+1]
}
