package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

func TestCaptureSeesEchoRequest(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	client := labtest.VM(t, l, "v1", "a")
	server := labtest.VM(t, l, "v2", "b")
	for _, addrs := range [][2]netip.Addr{{client.IPv4(), server.IPv4()}, {client.IPv6(), server.IPv6()}} {
		request := func(f lab.Frame) bool {
			p, ok := f.IP()
			return ok && p.EchoRequest() && p.Src == addrs[0] && p.Dst == addrs[1]
		}
		sent, err := client.Capture("eth0", request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := server.Capture("eth0", request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Ping(t.Context(), addrs[1]); err != nil {
			t.Fatal(err)
		}
		for outgoing, c := range map[bool]*lab.Capture{true: sent, false: got} {
			frames, err := c.Wait(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if frames[0].Outgoing != outgoing || c.Count() == 0 {
				t.Errorf("outgoing %t, want %t; count %d", frames[0].Outgoing, outgoing, c.Count())
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := client.Capture("eth9", nil); err == nil {
		t.Error("captured on an interface that doesn't exist")
	}
}

func TestCaptureProvesEncapsulation(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	nodes := []*lab.Node{labtest.Node(t, l, "n1", "a"), labtest.Node(t, l, "n2", "b")}
	inner := []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}
	for i, n := range nodes {
		run(t, n.Host, fmt.Sprintf("ip link add vx0 type vxlan id 4096 dstport 4789 remote %s", nodes[1-i].IPv4()))
		run(t, n.Host, fmt.Sprintf("ip addr add %s/24 dev vx0", inner[i]))
		run(t, n.Host, "ip link set vx0 up")
	}
	c, err := l.Router().Capture("eth0", func(f lab.Frame) bool {
		vni, inside, ok := f.VXLAN(4789)
		p, ip := inside.IP()
		return ok && vni == 4096 && ip && p.EchoRequest() && p.Src == inner[0] && p.Dst == inner[1]
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nodes[0].Ping(t.Context(), inner[1]); err != nil {
		t.Fatal(err)
	}
	frames, err := c.Wait(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if outer, ok := frames[0].IP(); !ok || outer.Src != nodes[0].IPv4() || outer.Dst != nodes[1].IPv4() {
		t.Errorf("outer packet is from %s to %s", outer.Src, outer.Dst)
	}
}

func TestSnapshotFindsLeaks(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	other := labtest.VM(t, l, "v1", "a")
	before, err := node.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{0x0e, 0, 0, 0, 0, 1}.String()
	steps := []struct{ add, del, line string }{
		{"ip link add vx0 address 0e:00:00:00:00:02 mtu 1450 type vxlan id 7 dstport 4789 nolearning local 172.30.1.10", "ip link del vx0", "link vx0 vxlan up mtu 1450 mac 0e:00:00:00:00:02 vni 7 port 4789 learning false local 172.30.1.10 dev -"},
		{"ip link set vx0 up", "", ""},
		{"ip addr add 10.9.1.0/32 dev vx0", "", "addr vx0 10.9.1.0/32 scope universe"},
		{"ip route add 10.9.2.0/24 via 10.9.2.0 dev vx0 onlink metric 77 proto 99", "", "route table 254 unicast 10.9.2.0/24 proto 99 scope universe metric 77 dev vx0 via 10.9.2.0 onlink"},
		{"ip neigh add 10.9.2.0 lladdr " + mac + " dev vx0 nud permanent", "", "neigh vx0 10.9.2.0 mac " + mac},
		{"bridge fdb add " + mac + " dev vx0 dst 172.30.2.10", "", "fdb vx0 " + mac + " dst 172.30.2.10"},
		{"ip route add blackhole 10.9.1.0/24 metric 88", "ip route del blackhole 10.9.1.0/24 metric 88", "route table 254 blackhole 10.9.1.0/24 proto 3 scope universe metric 88"},
		{"ip -6 route add fd00:9::/64 via fd00:30:1::1 table 100", "ip -6 route del fd00:9::/64 table 100", "route table 100 unicast fd00:9::/64 proto 3 scope universe metric 1024 dev eth0 via fd00:30:1::1"},
		{"ip rule add from 10.9.0.0/16 table 100 priority 50", "ip rule del priority 50", "rule family 2 ip rule 50: from 10.9.0.0/16 to all table 100"},
		{"nft add table inet leak", "nft delete table inet leak", "nft table inet leak"},
		{"nft add set inet leak pods { type ipv4_addr ; }", "", "nft set inet leak pods"},
		{"nft add element inet leak pods { 10.9.1.5 }", "", "nft set inet leak pods element 10.9.1.5"},
		{"nft add chain inet leak forward", "", "nft chain inet leak forward rules 1"},
		{"nft add rule inet leak forward ip saddr @pods counter accept", "", ""},
	}
	for _, s := range steps {
		run(t, node.Host, s.add)
	}
	reachable(t, node.Host, other.IPv4(), other.IPv6()) // what is learnt is no leak
	during, err := node.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	diff := before.Diff(during)
	for _, s := range steps {
		if s.line != "" && !slices.ContainsFunc(diff, func(d string) bool { return d == "+ "+s.line }) {
			t.Errorf("after %s: no line %q in\n%s", s.add, s.line, strings.Join(diff, "\n"))
		}
	}
	for _, s := range slices.Backward(steps) {
		if s.del != "" {
			run(t, node.Host, s.del)
		}
	}
	after, err := node.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if diff := before.Diff(after); len(diff) > 0 {
		t.Errorf("left after clean-up:\n%s", strings.Join(diff, "\n"))
	}
}
