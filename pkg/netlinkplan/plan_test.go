package netlinkplan_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/netlinkplan"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./pkg/netlinkplan -update writes it anew); got:\n%s\nwant:\n%s", path, got, want)
	}
}

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

func addrs(all ...string) []netip.Addr {
	parsed := make([]netip.Addr, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParseAddr(s)
	}
	return parsed
}

// cluster is a network with what its nodes hold of it.
type cluster struct {
	network lease.Network
	leases  []lease.Lease
}

func newCluster(cidrs ...string) *cluster {
	return &cluster{network: lease.Network{Name: "pods", CIDRs: prefixes(cidrs...)}.Complete()}
}

// node adds a node with its underlay addresses and blocks.
func (c *cluster) node(name string, underlay []netip.Addr, blocks ...string) *cluster {
	for _, b := range prefixes(blocks...) {
		c.leases = append(c.leases, lease.Lease{
			Network: c.network.Name, Node: name, Block: b, VTEP: lease.VTEP{Underlay: underlay, MAC: c.network.MAC(name)},
		})
	}
	return c
}

// seenFrom is what node-1 knows, on an interface with these addresses.
func (c *cluster) seenFrom(underlay ...string) *intent.Facts {
	return &intent.Facts{
		Network: c.network, Node: "node-1", Leases: c.leases,
		Underlay: intent.Underlay{Interface: "eth0", MTU: 1500, Addresses: addrs(underlay...)},
	}
}

// TestNode: what a node amounts to on Linux; the files are for people to read.
func TestNode(t *testing.T) {
	t.Parallel()
	v4 := newCluster("10.244.0.0/16").
		node("node-1", addrs("192.0.2.1"), "10.244.1.0/24").
		node("node-2", addrs("192.0.2.2"), "10.244.2.0/24").
		node("node-3", addrs("198.51.100.3"), "10.244.3.0/24")
	dual := newCluster("10.244.0.0/16", "fd00:10:244::/48").
		node("node-1", addrs("192.0.2.1", "2001:db8::1"), "10.244.1.0/24", "fd00:10:244:1::/64").
		node("node-2", addrs("192.0.2.2", "2001:db8::2"), "10.244.2.0/24", "fd00:10:244:2::/64")
	v6 := newCluster("10.244.0.0/16", "fd00:10:244::/48").
		node("node-1", addrs("2001:db8::1"), "10.244.1.0/24", "fd00:10:244:1::/64").
		node("node-2", addrs("192.0.2.2", "2001:db8::2"), "10.244.2.0/24", "fd00:10:244:2::/64")
	bare := newCluster("10.244.0.0/16").
		node("node-1", addrs("192.0.2.1"), "10.244.1.0/24")
	bare.network.Masquerade.Disabled = true
	pools := newCluster("10.244.0.0/16").
		node("node-1", addrs("192.0.2.1"), "10.244.1.0/26", "10.244.7.64/26").
		node("node-2", addrs("192.0.2.2"), "10.244.1.64/26", "10.244.2.128/26")
	apart := newCluster("10.244.0.0/16").
		node("node-1", addrs("192.0.2.1"), "10.244.1.0/24").
		node("node-2", addrs("2001:db8::2"), "10.244.2.0/24").
		node("node-3", addrs("192.0.2.3"), "10.244.3.0/24")
	announced := dual.seenFrom("192.0.2.1", "2001:db8::1")
	announced.Underlay.AcceptsRA = true
	strict := v4.seenFrom("192.0.2.1")
	strict.Underlay.StrictSources = true
	external := dual.seenFrom("192.0.2.1", "2001:db8::1")
	external.External = []lease.ExternalPeer{{
		Name: "vm", Network: "pods", CIDRs: prefixes("10.50.0.0/24", "fd00:50::7/128"),
		VTEP: lease.VTEP{Underlay: addrs("192.0.2.50"), MAC: ether.Local([5]byte{4: 50})},
	}}
	custom := newCluster("10.244.0.0/16").
		node("node-1", addrs("192.0.2.1"), "10.244.1.0/24").
		node("node-2", addrs("192.0.2.2"), "10.244.2.0/24")
	custom.network.VNI, custom.network.Port, custom.network.MTU = 16777215, 8472, 1400

	for name, facts := range map[string]*intent.Facts{
		"node-ipv4":                     v4.seenFrom("192.0.2.1"),
		"node-dual-stack":               dual.seenFrom("192.0.2.1", "2001:db8::1"),
		"node-ipv6-underlay":            v6.seenFrom("2001:db8::1"),
		"node-alone-without-masquerade": bare.seenFrom("192.0.2.1"),
		"node-several-leases":           pools.seenFrom("192.0.2.1"),
		"node-unreachable-peer":         apart.seenFrom("192.0.2.1"),
		"node-router-advertisements":    announced,
		"node-strict-sources":           strict,
		"node-external-peer":            external,
		"node-custom-vni-port-mtu":      custom.seenFrom("192.0.2.1"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, err := intent.ForNode(facts)
			if err != nil {
				t.Fatal(err)
			}
			objects := netlinkplan.Node(&n)
			checkKeys(t, objects)
			golden(t, name, reconcile.Format(objects))
		})
	}
}

// checkKeys: a plan with two objects of one key could never be met.
func checkKeys(t *testing.T, objects []reconcile.Object) {
	t.Helper()
	seen := map[any]reconcile.Object{}
	for _, o := range objects {
		if other, ok := seen[o.Key()]; ok {
			t.Errorf("%s and %s exclude each other", o, other)
		}
		seen[o.Key()] = o
	}
}

// TestPod: what an attachment amounts to on Linux, on both sides.
func TestPod(t *testing.T) {
	t.Parallel()
	pod := func(name string, addresses []netip.Addr, routes ...string) *intent.Pod {
		a := intent.Attachment{Network: "pods", Container: "c0ffee", Interface: name}
		return &intent.Pod{Attachment: a, Addresses: addresses, MTU: 1450, MAC: a.PodMAC(), Routes: prefixes(routes...)}
	}
	fixed := pod("eth0", addrs("10.244.1.5"), "0.0.0.0/0")
	fixed.MAC = ether.Addr{0x02, 0x42, 0xac, 0x11, 0x00, 0x02}
	for name, p := range map[string]*intent.Pod{
		"pod-ipv4":             pod("eth0", addrs("10.244.1.5"), "0.0.0.0/0"),
		"pod-ipv6":             pod("eth0", addrs("fd00:10:244:1::5"), "::/0"),
		"pod-dual-stack":       pod("eth0", addrs("10.244.1.5", "fd00:10:244:1::5"), "0.0.0.0/0", "::/0"),
		"pod-fixed-mac":        fixed,
		"pod-second-interface": pod("net1", addrs("10.244.1.6"), "0.0.0.0/0"),
		"pod-custom-routes":    pod("net1", addrs("10.244.1.6"), "10.244.0.0/16", "192.168.0.0/16", "fd00::/8"),
		"pod-without-routes":   pod("eth0", addrs("10.244.1.5")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, inside, mark := netlinkplan.Pod(p)
			checkKeys(t, append(host[:len(host):len(host)], mark))
			checkKeys(t, inside)
			var b strings.Builder
			b.WriteString("# on the host\n" + reconcile.Format(host))
			b.WriteString("# in the pod\n" + reconcile.Format(inside))
			b.WriteString("# in the pod, at first\n" + reconcile.Format(netlinkplan.Announcements(p)))
			b.WriteString("# when all of it is there\n" + mark.String() + "\n")
			golden(t, name, b.String())
		})
	}
}

// TestPodIsReachedOnlyWhenItIsThere: the mark comes after all else, and the
// host's route after the neighbour that it needs.
func TestPodIsReachedOnlyWhenItIsThere(t *testing.T) {
	t.Parallel()
	a := intent.Attachment{Network: "pods", Container: "c0ffee", Interface: "eth0"}
	p := &intent.Pod{Attachment: a, Addresses: addrs("10.244.1.5", "fd00::5"), MTU: 1450, MAC: a.PodMAC(), Routes: prefixes("0.0.0.0/0", "::/0")}
	host, inside, mark := netlinkplan.Pod(p)
	last := -1
	for _, c := range reconcile.Diff(append(host, mark), nil, reconcile.Owned) {
		if c.Want.Rank() < last {
			t.Errorf("%s comes too late", c.Want)
		}
		last = c.Want.Rank()
	}
	if mark.Rank() != last {
		t.Errorf("%s isn't last", mark)
	}
	for _, o := range append(host, inside...) {
		if o.Rank() >= mark.Rank() {
			t.Errorf("%s doesn't come before the mark", o)
		}
	}
}

// TestInterfacesOfAPodCanAllHaveADefaultRoute: their metrics differ, and eth0's
// is the least.
func TestInterfacesOfAPodCanAllHaveADefaultRoute(t *testing.T) {
	t.Parallel()
	owner := map[uint32]string{}
	for _, name := range []string{"eth0", "net1", "net2", "net3", "net4", "eth1", "eth2", "storage"} {
		a := intent.Attachment{Network: "pods", Container: "c0ffee", Interface: name}
		_, inside, _ := netlinkplan.Pod(&intent.Pod{Attachment: a, Addresses: addrs("10.244.1.5"), MAC: a.PodMAC(), Routes: prefixes("0.0.0.0/0")})
		for _, o := range inside {
			r, ok := o.(kernel.Route)
			if !ok {
				continue
			}
			if other, taken := owner[r.Metric]; taken || (name != "eth0" && r.Metric <= 1024) || (name == "eth0" && r.Metric != 1024) {
				t.Errorf("%s of %s: metric is also that of %q", r, name, other)
			}
			owner[r.Metric] = name
		}
	}
	if len(owner) != 8 {
		t.Errorf("there are %d default routes, want 8", len(owner))
	}
}
