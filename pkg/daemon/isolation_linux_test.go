package daemon_test

// Pods of several networks on the same nodes.

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// guest is a pod with what it has in one of its networks.
type guest struct {
	*lab.Pod
	addresses []netip.Addr
	leave     func() error
}

// attach attaches a pod to a network, as Multus does: with a conflist and an
// interface of its own.
func attach(t *testing.T, n *cluster.Node, p *lab.Pod, network, ifname string) *guest {
	t.Helper()
	cni, _, err := n.CNI()
	if err != nil {
		t.Fatal(err)
	}
	conflist, err := n.Conflist()
	if err != nil {
		t.Fatal(err)
	}
	conflist = bytes.Replace(conflist, []byte(`"name": "pods"`), []byte(`"name": "`+network+`"`), 1)
	list, err := libcni.NetworkConfFromBytes(conflist)
	if err != nil {
		t.Fatal(err)
	}
	runtime := &libcni.RuntimeConf{ContainerID: p.ContainerID(), NetNS: p.Path(), IfName: ifname}
	raw, err := cni.AddNetworkList(t.Context(), list, runtime)
	if err != nil {
		t.Fatal(err)
	}
	result, err := types100.NewResultFromResult(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := cni.CheckNetworkList(t.Context(), list, runtime); err != nil {
		t.Errorf("CHECK of %s: %v", ifname, err)
	}
	g := &guest{Pod: p, leave: func() error { return cni.DelNetworkList(t.Context(), list, runtime) }}
	for _, ip := range result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		g.addresses = append(g.addresses, a.Unmap())
	}
	return g
}

// newGuest makes a pod that serves in one network.
func newGuest(t *testing.T, n *cluster.Node, name, network string) *guest {
	t.Helper()
	p, err := n.NewPod(name)
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Serve(t, p.Host, port)
	return attach(t, n, p, network, "eth0")
}

// greet fails unless a pod reaches another, which sees its own address.
func greet(t *testing.T, from, to *guest) {
	t.Helper()
	for i, dst := range to.addresses {
		talk(t, from.Host, from.addresses[i], to.Host, dst)
	}
}

// avoid fails if a pod reaches another by one of the addresses.
func avoid(t *testing.T, from *lab.Host, addresses ...netip.AddrPort) {
	t.Helper()
	for _, dst := range addresses {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := from.UDP(ctx, dst, 100, false); err == nil {
			t.Errorf("%s reaches %s by UDP", from.Name(), dst)
		}
		cancel()
		ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
		if x, err := from.TCP(ctx, dst); err == nil {
			t.Errorf("%s reaches %s by TCP, seen as %s", from.Name(), dst, x.Source)
		}
		cancel()
	}
}

func (g *guest) servers() (all []netip.AddrPort) {
	for _, a := range g.addresses {
		all = append(all, netip.AddrPortFrom(a, port))
	}
	return all
}

// twoNetworks are what daemons serve.
func twoNetworks(edit func(pods, blue map[string]any)) []any {
	pods := map[string]any{"name": "pods", "cidrs": []string{"10.244.0.0/16", "fd00:10:244::/48"}}
	blue := map[string]any{"name": "blue", "cidrs": []string{"10.9.0.0/16", "fd00:10:9::/48"}, "vni": 9}
	if edit != nil {
		edit(pods, blue)
	}
	return []any{pods, blue}
}

// publish makes a Service in front of a pod on a node, as kube-proxy does, and
// returns its addresses.
func publish(t *testing.T, n *cluster.Node, to *guest) []netip.AddrPort {
	t.Helper()
	services := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.1:80"), netip.MustParseAddrPort("[fd00:10:96::1]:80")}
	shell(t, n.Host, `nft add table inet kube; nft add chain inet kube nat '{ type nat hook prerouting priority dstnat; }'`)
	for i, ip := range []string{"ip", "ip6"} {
		shell(t, n.Host, fmt.Sprintf("nft 'add rule inet kube nat %s daddr %s tcp dport 80 dnat %s to %s'", ip, services[i].Addr(), ip, to.servers()[i]))
	}
	return services
}

// TestNetworksAreIsolated: pods reach those of their own network, directly and by a
// Service, and none of the other, on the same node or another.
func TestNetworksAreIsolated(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"firewall": backend, "networks": twoNetworks(nil)}})
			n1 := strictNode(t, c, "n1", "a", "iptables-nft -A FORWARD -j ACCEPT; ip6tables-nft -A FORWARD -j ACCEPT") // somebody else accepts all
			n2 := strictNode(t, c, "n2", "b")
			pods := []*guest{newGuest(t, n1, "p1", "pods"), newGuest(t, n1, "p2", "pods"), newGuest(t, n2, "p3", "pods")}
			blue := []*guest{newGuest(t, n1, "b1", "blue"), newGuest(t, n1, "b2", "blue"), newGuest(t, n2, "b3", "blue")}
			for _, same := range [][]*guest{pods, blue} {
				for _, to := range same[1:] {
					greet(t, same[0], to)
					greet(t, to, same[0])
				}
			}
			for _, to := range []int{0, 2} {
				avoid(t, pods[0].Host, blue[to].servers()...)
				avoid(t, blue[0].Host, pods[to].servers()...)
			}
			services := publish(t, n1, blue[2])
			for i, dst := range services {
				if x, err := blue[0].TCP(t.Context(), dst); err != nil || x.Source.Addr() != blue[0].addresses[i] {
					t.Errorf("by the Service %s is seen: %v", x.Source, err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				if _, err := pods[0].TCP(ctx, dst); err == nil {
					t.Errorf("the other network is reached by the Service %s", dst)
				}
				cancel()
			}
			if err := n1.Status(t.Context()); err != nil {
				t.Errorf("STATUS: %v", err)
			}
		})
	}
}

// TestOpenNetworks: they are as they would be without isolation.
func TestOpenNetworks(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"networks": twoNetworks(func(pods, blue map[string]any) {
		pods["open"], blue["open"] = true, true
		pods["masquerade"] = map[string]any{"exclude": blue["cidrs"]}
	})}})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p1 := newGuest(t, n1, "p1", "pods")
	greet(t, p1, newGuest(t, n1, "b1", "blue"))
	greet(t, p1, newGuest(t, n2, "b2", "blue"))
	for _, n := range []*cluster.Node{n1, n2} {
		if rules := shell(t, n.Host, "nft list ruleset"); strings.Contains(rules, "hook forward") {
			t.Errorf("%s has rules at a hook that nobody needs:\n%s", n.Name(), rules)
		}
	}
}

// TestIsolationFollowsTheNetworks: as networks come and go, those that stay know of
// it, and have no rule for others when they are alone.
func TestIsolationFollowsTheNetworks(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"networks": nil}})
	apply(t, c, lease.Network{Name: "pods", CIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48")})
	n1 := clustertest.Node(t, c, "n1", "a")
	p1, p2 := newGuest(t, n1, "p1", "pods"), newGuest(t, n1, "p2", "pods")
	alone := settled(t, n1)
	for range 2 {
		blue := lease.Network{Name: "blue", CIDRs: prefixes("10.9.0.0/16", "fd00:10:9::/48"), VNI: 9}
		apply(t, c, blue)
		await(t, func() bool {
			s := state(n1, "pods")
			return state(n1, "blue") != nil && s != nil && len(s.Others) == 2
		})
		b1 := newGuest(t, n1, "b1", "blue")
		avoid(t, p1.Host, b1.servers()...)
		avoid(t, b1.Host, p1.servers()...)
		greet(t, p1, p2)
		if err := b1.leave(); err != nil {
			t.Fatal(err)
		}
		if err := b1.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Operate(func(r *lease.Registry) error { return r.RemoveNetwork(t.Context(), "blue", true) }); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return !strings.Contains(shell(t, n1.Host, "nft list tables"), "blue") }) // what goes can't be listed
		await(t, func() bool { return len(alone.Diff(snapshot(t, n1))) == 0 && len(state(n1, "pods").Others) == 0 })
	}
	greet(t, p1, p2)
}

// TestPodOfTwoNetworks: it is reached in each by the address that it has there, and
// only so; and sends to each as who it is there.
func TestPodOfTwoNetworks(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"firewall": backend, "networks": twoNetworks(nil)}})
			n1, n2 := strictNode(t, c, "n1", "a"), strictNode(t, c, "n2", "b")
			both := newGuest(t, n1, "both", "pods")
			second := attach(t, n1, both.Pod, "blue", "net1")
			for _, n := range []*cluster.Node{n1, n2} {
				pod, blue := newGuest(t, n, "pod", "pods"), newGuest(t, n, "blue", "blue")
				greet(t, pod, both)
				greet(t, both, pod)
				greet(t, blue, second)
				greet(t, second, blue)
				avoid(t, pod.Host, second.servers()...)
				avoid(t, blue.Host, both.servers()...)
			}
			if err := second.leave(); err != nil {
				t.Fatal(err)
			}
			greet(t, both, newGuest(t, n2, "late", "pods"))
		})
	}
}
