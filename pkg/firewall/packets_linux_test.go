package firewall_test

// What the rules do to real packets.

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

func TestMasquerade(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		edit func(*firewall.Rules)
		own  bool // the pod's own address is seen
	}{
		"masqueraded":     {nil, false},
		"excluded":        {func(r *firewall.Rules) { r.Exclude = prefixes("172.30.1.0/24", "fd00:30:1::/64") }, true},
		"excluded others": {func(r *firewall.Rules) { r.Exclude = prefixes("172.30.2.0/24", "fd00:30:2::/64") }, false},
		"excluded all":    {func(r *firewall.Rules) { r.Exclude = prefixes("0.0.0.0/0", "::/0") }, true},
		"disabled":        {func(r *firewall.Rules) { r.Masquerade = false }, true},
	}
	for _, backend := range []firewall.Backend{firewall.Nftables, firewall.Iptables} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t)
			pod := o.pods["p1"]
			for name, tt := range tests {
				o.protect(t, backend, tt.edit)
				for f, to := range []netip.Addr{o.vm.IPv4(), o.vm.IPv6()} {
					want := []netip.Addr{o.nodes[0].IPv4(), o.nodes[0].IPv6()}[f]
					if tt.own {
						want = pod.addresses[f]
					}
					for _, source := range exchange(t, pod.Host, netip.AddrPortFrom(to, port)) {
						if source != want {
							t.Errorf("%s: %s sees %s, want %s", name, to, source, want)
						}
					}
				}
				// To other pods it is always its own.
				for _, other := range []string{"p2", "p3"} {
					for f := range families() {
						for _, source := range exchange(t, pod.Host, o.pods[other].at(f)) {
							if source != pod.addresses[f] {
								t.Errorf("%s: %s sees %s", name, other, source)
							}
						}
					}
				}
			}
		})
	}
}

func TestPodsAreNotTracked(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	o.protect(t, firewall.Auto, nil)
	from := o.pods["p1"]
	for f := range families() {
		exchange(t, from.Host, o.pods["p2"].at(f))
		exchange(t, from.Host, o.pods["p3"].at(f))
	}
	for _, node := range o.nodes {
		if flows := tracked(t, node.Host); len(flows) > 0 {
			t.Errorf("%s tracks %q", node.Name(), flows)
		}
	}
	// What leaves the network is tracked, or this would say nothing.
	exchange(t, from.Host, netip.AddrPortFrom(o.vm.IPv4(), port))
	if flows := tracked(t, o.nodes[0].Host, from.addresses[0]); len(flows) != 3 {
		t.Errorf("flows to the machine: %q, want 3", flows)
	}
}

// With iptables pods are tracked, but the outer packets aren't.
func TestOuterPacketsAreNotTracked(t *testing.T) {
	t.Parallel()
	for _, backend := range []firewall.Backend{firewall.Nftables, firewall.Iptables} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t)
			for _, node := range o.nodes { // tracks all there is
				command(t, node.Host, "nft add table inet watch; nft add chain inet watch in '{ type filter hook input priority 0; }'; nft add rule inet watch in ct state established accept")
			}
			exchange(t, o.pods["p1"].Host, o.pods["p3"].at(0))
			if flows := strings.Join(tracked(t, o.nodes[0].Host), "\n"); !strings.Contains(flows, "4789") {
				t.Errorf("without rules the outer packets aren't tracked either:\n%s", flows)
			}
			for _, node := range o.nodes {
				if err := node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
					t.Fatal(err)
				}
			}
			o.protect(t, backend, nil)
			exchange(t, o.pods["p1"].Host, o.pods["p3"].at(0))
			exchange(t, o.pods["p1"].Host, o.pods["p3"].at(1))
			for _, node := range o.nodes {
				if flows := strings.Join(tracked(t, node.Host), "\n"); strings.Contains(flows, "4789") {
					t.Errorf("%s tracks\n%s", node.Name(), flows)
				}
			}
		})
	}
}

// serve makes a Service in front of a pod.
func (o *overlay) serve(t testing.TB, backend *pod) [2]netip.AddrPort {
	t.Helper()
	return o.translate(t, [2]netip.AddrPort{backend.at(0), backend.at(1)})
}

// translate makes a Service as kube-proxy does: a translation on each node, which
// drops what connection tracking calls invalid.
func (o *overlay) translate(t testing.TB, backend [2]netip.AddrPort) [2]netip.AddrPort {
	t.Helper()
	services := [2]netip.AddrPort{netip.MustParseAddrPort("10.96.0.1:80"), netip.MustParseAddrPort("[fd00:10:96::1]:80")}
	for _, node := range o.nodes {
		command(t, node.Host, `nft add table inet kube; nft add chain inet kube nat '{ type nat hook prerouting priority dstnat; }'
			nft add chain inet kube local '{ type nat hook output priority -100; }'
			nft add chain inet kube strict '{ type filter hook forward priority 0; }'
			nft add rule inet kube strict ct state invalid drop`)
		for f, ip := range []string{"ip", "ip6"} {
			for _, chain := range []string{"nat", "local"} {
				command(t, node.Host, fmt.Sprintf("nft 'add rule inet kube %s %s daddr %s tcp dport 80 dnat %s to %s'",
					chain, ip, services[f].Addr(), ip, backend[f]))
			}
		}
	}
	return services
}

func TestServiceBehindAnotherNode(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	services := o.serve(t, o.pods["p3"])
	o.protect(t, firewall.Auto, nil)
	for f, family := range families() {
		for range 3 { // the first teaches the node, the next find it taught
			x, err := o.pods["p1"].TCP(t.Context(), services[f])
			if err != nil {
				t.Fatalf("%s: %v", family, err)
			}
			if x.Source.Addr() != o.pods["p1"].addresses[f] {
				t.Errorf("%s: the pod behind the Service sees %s", family, x.Source)
			}
		}
		// Directly, another pod isn't tracked, on neither node.
		exchange(t, o.pods["p2"].Host, o.pods["p3"].at(f))
		for _, node := range o.nodes {
			if flows := tracked(t, node.Host, o.pods["p2"].addresses[f]); len(flows) > 0 {
				t.Errorf("%s tracks %q", node.Name(), flows)
			}
		}
		// Nor on the other node the pod that came by the Service.
		if flows := tracked(t, o.nodes[1].Host, o.pods["p1"].addresses[f]); len(flows) > 0 {
			t.Errorf("%s tracks %q", o.nodes[1].Name(), flows)
		}
		// The node uses it itself, and a pod on the same node as the one behind it.
		if _, err := o.nodes[0].TCP(t.Context(), services[f]); err != nil {
			t.Errorf("%s: node to Service: %v", family, err)
		}
	}
}

func TestServiceOnTheSameNode(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	services := o.serve(t, o.pods["p2"])
	o.protect(t, firewall.Auto, nil)
	for f, family := range families() {
		for _, client := range []string{"p1", "p3", "p1"} {
			if _, err := o.pods[client].TCP(t.Context(), services[f]); err != nil {
				t.Errorf("%s: %s: %v", family, client, err)
			}
			exchange(t, o.pods[client].Host, o.pods["p2"].at(f))
		}
	}
}

// machine is where the VM serves, in both families.
func (o *overlay) machine() [2]netip.AddrPort {
	return [2]netip.AddrPort{netip.AddrPortFrom(o.vm.IPv4(), port), netip.AddrPortFrom(o.vm.IPv6(), port)}
}

// The VM sends through n1 whatever is for pods. Those of n2 answer on their own
// node's way, so that n1 sees one direction of each flow, and calls it invalid if
// it tracks it.
func TestAnswersPassTheNodeBy(t *testing.T) {
	t.Parallel()
	for _, backend := range []firewall.Backend{firewall.Nftables, firewall.Iptables} {
		for name, edit := range map[string]func(*firewall.Rules){
			"excluded": func(r *firewall.Rules) { r.Exclude = prefixes("172.30.0.0/16", "fd00:30::/32") },
			"all":      func(r *firewall.Rules) { r.Exclude = prefixes("0.0.0.0/0", "::/0") },
			"disabled": func(r *firewall.Rules) { r.Masquerade = false },
			"external": func(r *firewall.Rules) { r.External = prefixes("172.30.1.0/24", "fd00:30:1::/64") },
		} {
			t.Run(string(backend)+" "+name, func(t *testing.T) {
				t.Parallel()
				o := newOverlay(t)
				services := o.serve(t, o.pods["p3"])
				o.protect(t, backend, edit)
				for f, family := range families() {
					for _, p := range []string{"p1", "p3"} { // on n1 and on n2
						for _, source := range exchange(t, o.vm.Host, o.pods[p].at(f)) {
							if source != o.machine()[f].Addr() {
								t.Errorf("%s: %s sees %s", family, p, source)
							}
						}
						for _, source := range exchange(t, o.pods[p].Host, o.machine()[f]) {
							if source != o.pods[p].addresses[f] {
								t.Errorf("%s: the machine sees %s instead of %s", family, source, p)
							}
						}
					}
					// And between pods all is as it was, by a Service too.
					exchange(t, o.pods["p1"].Host, o.pods["p3"].at(f))
					exchange(t, o.pods["p3"].Host, o.pods["p1"].at(f))
					if _, err := o.pods["p1"].TCP(t.Context(), services[f]); err != nil {
						t.Errorf("%s: %v", family, err)
					}
				}
			})
		}
	}
}

// A Service whose backend is outside, and sees the pods' own addresses: what it
// answers is translated back.
func TestServiceInFrontOfAMachine(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*firewall.Rules){
		"excluded": func(r *firewall.Rules) { r.Exclude = prefixes("172.30.0.0/16", "fd00:30::/32") },
		"external": func(r *firewall.Rules) { r.External = prefixes("172.30.1.0/24", "fd00:30:1::/64") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t)
			services := o.translate(t, o.machine())
			o.protect(t, firewall.Auto, edit)
			for f, family := range families() {
				for _, p := range []string{"p1", "p2", "p1"} {
					x, err := o.pods[p].TCP(t.Context(), services[f])
					if err != nil || x.Source.Addr() != o.pods[p].addresses[f] {
						t.Errorf("%s: %s: the machine sees %s, %v", family, p, x.Source, err)
					}
				}
			}
		})
	}
}

// What is behind an external peer goes as pods do: untracked, both ways.
func TestExternalIsNotTracked(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	o.protect(t, firewall.Auto, func(r *firewall.Rules) { r.External = prefixes("172.30.1.0/24", "fd00:30:1::/64") })
	for f := range families() {
		exchange(t, o.pods["p1"].Host, o.machine()[f])
		exchange(t, o.vm.Host, o.pods["p2"].at(f))
		exchange(t, o.vm.Host, o.pods["p3"].at(f))
	}
	for _, node := range o.nodes {
		if flows := tracked(t, node.Host); len(flows) > 0 {
			t.Errorf("%s tracks %q", node.Name(), flows)
		}
	}
}

// stream is a connection that stays open.
type stream struct {
	net.Conn
	*bufio.Reader
}

func dial(t testing.TB, h *lab.Host, to netip.AddrPort) *stream {
	t.Helper()
	s := &stream{}
	err := h.Do(func() (err error) {
		s.Conn, err = net.DialTimeout("tcp", to.String(), 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.Reader = bufio.NewReader(s.Conn)
	if _, err := s.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return s
}

// echo sends something, and waits until it is back.
func (s *stream) echo(t testing.TB, when string) {
	t.Helper()
	sent, got := []byte("are you still there?"), make([]byte, 20)
	err := s.SetDeadline(time.Now().Add(5 * time.Second))
	if err == nil {
		_, err = s.Conn.Write(sent)
	}
	if err == nil {
		_, err = io.ReadFull(s.Reader, got)
	}
	if err != nil || string(got) != string(sent) {
		t.Errorf("%s: %v, %q", when, err, got)
	}
}

// Connections go on when the table is written anew, and when it had been gone
// for a moment.
func TestOpenConnectionsSurvive(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	services := o.serve(t, o.pods["p3"])
	o.protect(t, firewall.Auto, nil)
	open := map[string]*stream{}
	for f, family := range families() {
		open[family+" to the Service"] = dial(t, o.pods["p1"].Host, services[f])
		open[family+" to the pod"] = dial(t, o.pods["p2"].Host, o.pods["p3"].at(f))
		open[family+" node to the pod"] = dial(t, o.nodes[0].Host, o.pods["p3"].at(f))
		open[family+" to the machine"] = dial(t, o.pods["p1"].Host, netip.AddrPortFrom([]netip.Addr{o.vm.IPv4(), o.vm.IPv6()}[f], port))
	}
	echo := func(when string) {
		t.Helper()
		for what, s := range open {
			s.echo(t, when+": "+what)
		}
	}
	echo("at first")
	for _, node := range o.nodes {
		command(t, node.Host, "nft add rule inet overlay-cni-pods output counter")
	}
	o.protect(t, firewall.Auto, nil)
	echo("rule removed")
	o.protect(t, firewall.Auto, func(r *firewall.Rules) { r.Exclude = prefixes("192.0.2.0/24") })
	echo("rules changed")
	for _, node := range o.nodes {
		command(t, node.Host, "nft flush table inet overlay-cni-pods")
	}
	echo("table empty")
	o.protect(t, firewall.Auto, nil)
	echo("table restored")
	for n, node := range o.nodes {
		remove(t, node.Host, firewall.Auto, o.rules(n))
	}
	echo("table removed")
	o.protect(t, firewall.Auto, nil)
	echo("table made anew")
}

// A node whose own rules are strict reaches pods elsewhere: what has its VTEP's
// address is tracked.
func TestStrictNodeReachesPods(t *testing.T) {
	t.Parallel()
	for _, backend := range []firewall.Backend{firewall.Nftables, firewall.Iptables} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t)
			o.protect(t, backend, nil)
			node := o.nodes[0].Host
			command(t, node, `nft add table inet strict; nft add chain inet strict in '{ type filter hook input priority 0; policy drop; }'
				nft add rule inet strict in ct state established,related accept
				nft add rule inet strict in udp dport 4789 accept
				nft add rule inet strict in icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept`)
			for f := range families() {
				for _, name := range []string{"p3", "p1"} {
					exchange(t, node, o.pods[name].at(f))
					if flows := tracked(t, node, o.pods[name].addresses[f]); len(flows) == 0 {
						t.Errorf("%s isn't tracked", name)
					}
				}
				// And it stays closed to what it didn't ask for.
				to := o.rules(0).VTEPs[f]
				if _, err := o.pods["p3"].Ping(within(t, soon), to); err == nil {
					t.Errorf("%s answers", to)
				}
			}
		})
	}
}

func TestForwardPolicyDrop(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t)
			for _, node := range o.nodes {
				command(t, node.Host, fmt.Sprintf("iptables-%s -w -P FORWARD DROP; ip6tables-%s -w -P FORWARD DROP", kind, kind))
			}
			for f := range families() {
				if _, err := o.pods["p1"].Ping(within(t, soon), o.pods["p2"].addresses[f]); err == nil {
					t.Error("forwarded although the policy is to drop")
				}
			}
			o.protect(t, firewall.Auto, nil)
			for f := range families() {
				for _, to := range []netip.AddrPort{
					o.pods["p2"].at(f), o.pods["p3"].at(f), netip.AddrPortFrom([]netip.Addr{o.vm.IPv4(), o.vm.IPv6()}[f], port),
				} {
					exchange(t, o.pods["p1"].Host, to)
				}
				exchange(t, o.pods["p3"].Host, o.pods["p1"].at(f))
			}
		})
	}
}
