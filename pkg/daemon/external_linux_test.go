package daemon_test

// Machines that are no nodes and speak VXLAN, set up by the commands of
// docs/external-peers.md.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/daemon"
	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// strictNode adds a node that drops what a stock node of Kubernetes drops:
// packets that connection tracking calls invalid (kube-proxy), and those whose
// source it reaches by another interface. Before its daemon starts more is done.
func strictNode(t *testing.T, c *cluster.Cluster, name, segment string, more ...string) *cluster.Node {
	t.Helper()
	host, err := c.Lab.AddNode(name, segment)
	if err != nil {
		t.Fatal(err)
	}
	n := cluster.Adopt(c, host)
	shell(t, n.Host, `sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
		nft add table inet kube
		nft add chain inet kube forward '{ type filter hook forward priority 0; }'
		nft add rule inet kube forward ct state invalid drop`)
	for _, script := range more {
		shell(t, host.Host, script)
	}
	if err := n.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of overlayd on %s:\n%s", name, n.Log())
		}
	})
	return n
}

func shell(t *testing.T, h *lab.Host, script string, env ...string) string {
	t.Helper()
	cmd := h.Command(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = h.Dir(), append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s\n%s", h.Name(), err, out, script)
	}
	return string(out)
}

// page returns the commands that the documentation shows under a mark.
func page(t *testing.T, mark string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/external-peers.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- " + mark + " -->\n```bash\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatalf("docs/external-peers.md has no commands marked %q", mark)
	}
	return string(block[1])
}

// registry is what an operator has of a cluster's store.
func registry(t *testing.T, n *cluster.Node) *lease.Registry {
	t.Helper()
	config, err := daemon.ReadConfig(filepath.Join(n.Dir(), "overlayd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := daemon.OpenStore(&config.Store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &lease.Registry{Store: s}
}

// vm is an external peer's machine.
type vm struct {
	*lab.Machine
	peer lease.ExternalPeer
	// own are its addresses on the VXLAN device; behind those that are beyond.
	own, behind []netip.Addr
	// outer is the family of outer packets.
	outer lease.Family
}

// mtu is what VXLAN leaves of the lab's 1500.
func mtu(outer lease.Family) int { return 1500 - outer.Overhead() }

// newVM adds a machine with the CIDRs 10.50.number.0/24 and fd00:50:number::/64.
func newVM(t *testing.T, l *lab.Lab, name, segment string, number byte) *vm {
	t.Helper()
	m := labtest.VM(t, l, name, segment)
	clustertest.Serve(t, m.Host, port)
	v := &vm{Machine: m, outer: lease.IPv4, peer: lease.ExternalPeer{
		Name: name, Network: cluster.Network,
		VTEP: lease.VTEP{Underlay: []netip.Addr{m.IPv4(), m.IPv6()}, MAC: ether.Local([5]byte{0: number, 4: byte(len(name))})},
		CIDRs: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50, number}), 24), netip.MustParsePrefix(fmt.Sprintf("fd00:50:%d::/64", number)),
		},
	}}
	for _, c := range v.peer.CIDRs {
		v.own = append(v.own, c.Addr().Next())
		v.behind = append(v.behind, c.Addr().Next().Next())
	}
	return v
}

// device makes the VM's VXLAN device.
func (v *vm) device(t *testing.T, edit func(script string) string) {
	t.Helper()
	script := page(t, "vm: the device")
	if edit != nil {
		script = edit(script)
	}
	v.run(t, script, fmt.Sprintf("mtu=%d", mtu(v.outer)), "port=4789", "mac="+v.peer.VTEP.MAC.String(),
		"underlay="+v.peer.VTEP.UnderlayOf(v.outer).String(),
		fmt.Sprintf("addresses=%s/32 %s/128", v.own[0], v.own[1]))
	shell(t, v.Host, fmt.Sprintf("ip address add %s/32 dev lo; ip address add %s/128 dev lo", v.behind[0], v.behind[1]))
}

func (v *vm) run(t *testing.T, script string, env ...string) {
	t.Helper()
	shell(t, v.Host, script, append(env, "vni=4096", "cidrs=10.244.0.0/16 fd00:10:244::/48")...)
}

// knowEvery tells the VM every node's blocks.
func (v *vm) knowEvery(t *testing.T, r *lease.Registry) {
	t.Helper()
	leases, err := r.Leases(t.Context(), cluster.Network)
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, l := range leases {
		fmt.Fprintln(&lines, l.Block, l.VTEP.UnderlayOf(v.outer), l.VTEP.MAC)
	}
	if err := os.WriteFile(filepath.Join(v.Dir(), "nodes"), []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	v.run(t, page(t, "vm: every node"))
}

// knowOne tells the VM one node, which forwards to the others.
func (v *vm) knowOne(t *testing.T, n *cluster.Node) {
	t.Helper()
	s, err := n.State()
	if err != nil {
		t.Fatal(err)
	}
	v.run(t, page(t, "vm: one gateway"), "node="+outerOf(n, v.outer).String(), "nodemac="+s.VTEP.MAC.String(), gatewaysOf(t, n))
}

func outerOf(n *cluster.Node, outer lease.Family) netip.Addr {
	if outer == lease.IPv6 {
		return n.IPv6()
	}
	return n.IPv4()
}

func gatewaysOf(t *testing.T, n *cluster.Node) string {
	t.Helper()
	s, err := n.State()
	if err != nil {
		t.Fatal(err)
	}
	a := s.VTEP.Addresses()
	return fmt.Sprintf("gateways=%s %s", a[0], a[1])
}

// talk exchanges packets in all ways, and fails unless the server sees the client
// as it should.
func talk(t *testing.T, from *lab.Host, seen netip.Addr, to *lab.Host, dst netip.Addr) {
	t.Helper()
	talkOf(t, from, seen, to, dst, mtu(lease.IPv4))
}

// talkOf does so with packets of up to a size.
func talkOf(t *testing.T, from *lab.Host, seen netip.Addr, to *lab.Host, dst netip.Addr, size int) {
	t.Helper()
	if _, err := from.Ping(t.Context(), dst); err != nil {
		t.Error(err)
		return // the rest would take its time to fail
	}
	tcp, err := from.TCP(t.Context(), netip.AddrPortFrom(dst, port))
	if err != nil || tcp.Source.Addr() != seen {
		t.Errorf("TCP from %s: %s saw %s instead of %s: %v", from.Name(), to.Name(), tcp.Source, seen, err)
	}
	udp, err := from.UDP(t.Context(), netip.AddrPortFrom(dst, port), lab.UDPPayload(size, dst), true)
	if err != nil || udp.Source.Addr() != seen {
		t.Errorf("UDP from %s: %s saw %s instead of %s: %v", from.Name(), to.Name(), udp.Source, seen, err)
	}
}

// talkBoth lets a pod and a VM reach each other, and what is behind the VM.
func talkBoth(t *testing.T, p *cluster.Pod, v *vm) {
	t.Helper()
	for i, pod := range p.Addresses() {
		talkOf(t, p.Host, pod, v.Host, v.own[i], mtu(v.outer))
		talkOf(t, p.Host, pod, v.Host, v.behind[i], mtu(v.outer))
		talkOf(t, v.Host, v.own[i], p.Host, pod, mtu(v.outer))
	}
}

// TestExternalPeers: pods of all nodes and VMs on either segment, each of which
// knows the nodes in another way, reach each other.
func TestExternalPeers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		outer    lease.Family
		firewall string
	}{"over IPv4": {lease.IPv4, "nftables"}, "over IPv6": {lease.IPv6, "nftables"}, "iptables": {lease.IPv4, "iptables"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outer, only := test.outer, "true"
			if outer == lease.IPv6 {
				only = "ip -4 address flush dev eth0"
			}
			c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"firewall": test.firewall}})
			nodes := []*cluster.Node{strictNode(t, c, "n1", "a", only), strictNode(t, c, "n2", "b", only), strictNode(t, c, "n3", "a", only)}
			r := registry(t, nodes[0])
			vms := threeVMs(t, c.Lab, r, nodes, outer)
			var pods []*cluster.Pod
			for _, n := range nodes {
				pods = append(pods, served(t, n, "p"))
			}
			for _, v := range vms {
				if err := r.ApplyPeer(t.Context(), &v.peer); err != nil {
					t.Fatal(err)
				}
			}
			for _, n := range nodes {
				await(t, func() bool { return followed(t, n, len(vms)) })
				if err := n.Status(t.Context()); err != nil {
					t.Errorf("STATUS: %v", err)
				}
			}
			for _, v := range vms {
				for _, p := range pods {
					talkBoth(t, p, v)
				}
				for i, dst := range v.own { // the node itself, by its VTEP's address
					s, err := nodes[1].State()
					if err != nil {
						t.Fatal(err)
					}
					talkOf(t, nodes[1].Host, s.VTEP.Addresses()[i], v.Host, dst, mtu(outer))
				}
			}
			meet(t, pods[0], pods[1])
		})
	}
}

// threeVMs know every node, one of another segment, and one that they ask for its
// MAC.
func threeVMs(t *testing.T, l *lab.Lab, r *lease.Registry, nodes []*cluster.Node, outer lease.Family) []*vm {
	t.Helper()
	every, one, asking := newVM(t, l, "v1", "a", 1), newVM(t, l, "v2", "b", 2), newVM(t, l, "v3", "a", 3)
	every.outer, one.outer, asking.outer = outer, outer, outer
	every.device(t, nil)
	every.knowEvery(t, r)
	one.device(t, nil)
	one.knowOne(t, nodes[0])
	asking.device(t, func(script string) string { return strings.Replace(script, " nolearning", "", 1) })
	underlay := "nodes="
	for _, n := range nodes {
		underlay += outerOf(n, outer).String() + " "
	}
	asking.run(t, page(t, "vm: asking"), gatewaysOf(t, nodes[1]), underlay)
	return []*vm{every, one, asking}
}

// followed says whether a node has the state of a number of external peers with
// CIDRs of both families.
func followed(t *testing.T, n *cluster.Node, peers int) bool {
	t.Helper()
	s, err := n.State()
	return err == nil && len(s.External) == 2*peers
}

// stream sends datagrams, one after the answer to the other, until it is stopped,
// and fails when one wasn't answered. None is sent twice.
func stream(t *testing.T, from *lab.Host, dst netip.Addr) (stop func()) {
	t.Helper()
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = net.Dial("udp", netip.AddrPortFrom(dst, port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stopped, failed := make(chan struct{}), make(chan error)
	go func() {
		answered := 0
		buffer := make([]byte, 256)
		for {
			_, err := conn.Write([]byte(fmt.Sprintf("datagram %07d", answered)))
			if err == nil {
				err = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			}
			if err == nil {
				_, err = conn.Read(buffer)
			}
			if err != nil {
				failed <- fmt.Errorf("after %d answers: %w", answered, err)
				return
			}
			answered++
			select {
			case <-stopped:
				failed <- nil
				return
			default:
			}
		}
	}()
	return func() {
		t.Helper()
		close(stopped)
		if err := errors.Join(<-failed, conn.Close()); err != nil {
			t.Errorf("%s to %s: %v", from.Name(), dst, err)
		}
	}
}

// TestExternalPeerChanges: the peer gets another machine, other CIDRs, and is
// removed; the nodes follow, others don't notice, and nothing stays.
func TestExternalPeerChanges(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	r := registry(t, n1)
	meet(t, p1, p2)
	before := [2]lab.Snapshot{snapshot(t, n1), snapshot(t, n2)}
	first, second, other := newVM(t, c.Lab, "v1", "a", 1), newVM(t, c.Lab, "v1-new", "b", 1), newVM(t, c.Lab, "v2", "b", 2)
	for _, v := range []*vm{first, second, other} {
		v.device(t, nil)
		v.knowEvery(t, r)
	}
	apply := func(p *lease.ExternalPeer) {
		t.Helper()
		if err := r.ApplyPeer(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	apply(&first.peer)
	apply(&other.peer)
	for _, p := range []*cluster.Pod{p1, p2} {
		talkBoth(t, p, first)
		talkBoth(t, p, other)
	}
	stops := []func(){stream(t, p1.Host, p2.Addresses()[0]), stream(t, p2.Host, other.own[1]), stream(t, other.Host, p1.Addresses()[0])}
	began := time.Now()
	second.peer.Name = "v1"
	apply(&second.peer)
	for i := range first.own {
		if err := first.Disconnect(); err != nil { // whoever still sends there gets no answer
			t.Fatal(err)
		}
		talk(t, p1.Host, p1.Addresses()[i], second.Host, second.own[i])
	}
	t.Logf("another machine answered after %s at most", time.Since(began))
	talkBoth(t, p2, second)
	smaller := second.peer
	smaller.CIDRs = []netip.Prefix{netip.PrefixFrom(second.own[0], 32)}
	apply(&smaller)
	for _, n := range []*cluster.Node{n1, n2} {
		await(t, func() bool { s, err := n.State(); return err == nil && len(s.External) == 3 })
		if routes := shell(t, n.Host, "ip route show table all; ip -6 route show table all; ip neighbor; ip -6 neighbor"); strings.Contains(routes, "10.50.1.0") || strings.Contains(routes, "fd00:50:1:") {
			t.Errorf("%s still has\n%s", n.Name(), routes)
		}
	}
	talk(t, p1.Host, p1.Addresses()[0], second.Host, second.own[0])
	for _, stop := range stops {
		stop()
	}
	for _, name := range []string{"v1", "v2"} {
		if err := r.RemovePeer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range []*cluster.Node{n1, n2} {
		await(t, func() bool { return followed(t, n, 0) })
		if diff := before[i].Diff(snapshot(t, n)); len(diff) > 0 {
			t.Errorf("%s still differs:\n%s", n.Name(), strings.Join(diff, "\n"))
		}
	}
	meet(t, p1, p2)
}

// TestExternalPeersByHand: what somebody wrote into the store past all checks is
// told once, and the network and its other peers go on.
func TestExternalPeersByHand(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	r := registry(t, n1)
	for key, value := range map[string]string{
		"peers/garbage":  `{"cidrs": 5}`,
		"peers/hijacker": `{"network": "pods", "vtep": {"underlay": ["172.30.1.99"], "mac": "0e:00:00:00:00:63"}, "cidrs": ["10.244.0.0/16"]}`,
		"peers/looping":  `{"network": "pods", "vtep": {"underlay": ["172.30.1.98"], "mac": "0e:00:00:00:00:62"}, "cidrs": ["` + n2.IPv4().String() + `/32"]}`,
	} {
		if _, err := r.Store.Create(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	v := newVM(t, c.Lab, "v1", "a", 1)
	v.device(t, nil)
	v.knowEvery(t, r)
	if err := r.ApplyPeer(t.Context(), &v.peer); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*cluster.Node{n1, n2} {
		await(t, func() bool { return followed(t, n, 1) })
		var told []string
		for line := range strings.Lines(n.Log()) {
			if strings.Contains(line, "external peers aren't used") && strings.Contains(line, "hijacker") && strings.Contains(line, "garbage") && strings.Contains(line, "looping") {
				told = append(told, line)
			}
		}
		if len(told) != 1 {
			t.Errorf("%s told %d times", n.Name(), len(told))
		}
	}
	meet(t, p1, p2)
	talkBoth(t, p2, v)
}
