package intent_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

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

func network(cidrs ...string) lease.Network {
	return lease.Network{Name: "pods", CIDRs: prefixes(cidrs...)}.Complete()
}

// leaseOf is a node's claim on a block.
func leaseOf(n *lease.Network, node, block string, underlay ...string) lease.Lease {
	return lease.Lease{
		Network: n.Name, Node: node, Block: netip.MustParsePrefix(block),
		VTEP: lease.VTEP{Underlay: addrs(underlay...), MAC: n.MAC(node)},
	}
}

func ethernet(mtu int, addresses ...string) intent.Underlay {
	return intent.Underlay{Interface: "eth0", MTU: mtu, Addresses: addrs(addresses...)}
}

func TestForNode(t *testing.T) {
	t.Parallel()
	n := network("10.244.0.0/16", "fd00:10:244::/48")
	n.Masquerade.Exclude = prefixes("192.168.0.0/16")
	facts := &intent.Facts{
		Network: n, Node: "a", Underlay: ethernet(1500, "2001:db8::1", "192.0.2.1"),
		Leases: []lease.Lease{
			leaseOf(&n, "b", "10.244.2.0/24", "192.0.2.2", "2001:db8::2"),
			leaseOf(&n, "a", "10.244.1.0/24", "192.0.2.1", "2001:db8::1"),
			leaseOf(&n, "six", "10.244.3.0/24", "2001:db8::3"),
			leaseOf(&n, "a", "fd00:10:244:1::/64", "192.0.2.1", "2001:db8::1"),
			leaseOf(&n, "six", "fd00:10:244:3::/64", "2001:db8::3"),
			leaseOf(&n, "b", "fd00:10:244:2::/64", "192.0.2.2", "2001:db8::2"),
			leaseOf(&n, "b", "10.244.9.0/24", "192.0.2.2", "2001:db8::2"),
		},
	}
	if err := facts.Validate(); err != nil {
		t.Fatal(err)
	}
	got, err := intent.ForNode(facts)
	if err != nil {
		t.Fatal(err)
	}
	v := got.VTEP
	if v.Device != "ovx4096" || v.Local != addrs("192.0.2.1")[0] || v.MTU != 1450 || v.MAC != n.MAC("a") || v.VNI != n.VNI || v.Port != n.Port {
		t.Errorf("the VTEP is %+v", v)
	}
	if !slices.Equal(v.Blocks, prefixes("10.244.1.0/24", "fd00:10:244:1::/64")) || !slices.Equal(v.Within, n.CIDRs) {
		t.Errorf("own blocks are %v within %v", v.Blocks, v.Within)
	}
	if len(got.Peers) != 1 || got.Peers[0].Underlay != addrs("192.0.2.2")[0] || got.Peers[0].MAC != n.MAC("b") ||
		!slices.Equal(got.Peers[0].Blocks, prefixes("10.244.2.0/24", "fd00:10:244:2::/64", "10.244.9.0/24")) {
		t.Errorf("peers are %+v", got.Peers)
	}
	if !slices.Equal(got.Unreachable, []string{"six"}) {
		t.Errorf("unreachable are %v, want six once", got.Unreachable)
	}
	f := got.Firewall
	if f.Network != "pods" || f.VNI != n.VNI || f.Port != n.Port || !slices.Equal(f.Peers, addrs("192.0.2.2")) || !f.Masquerade || !slices.Equal(f.Exclude, n.Masquerade.Exclude) ||
		!slices.Equal(f.VTEPs, addrs("10.244.1.0", "fd00:10:244:1::")) || !slices.Equal(f.Blocks, v.Blocks) || f.External != nil {
		t.Errorf("the firewall is %+v", f)
	}
	if !slices.Equal(got.Families, []lease.Family{lease.IPv4, lease.IPv6}) {
		t.Errorf("families are %v", got.Families)
	}
}

// TestForNodeIsolates: from all other networks, unless both are open.
func TestForNodeIsolates(t *testing.T) {
	t.Parallel()
	other := func(name string, vni uint32, open bool, cidrs ...string) lease.Network {
		return lease.Network{Name: name, VNI: vni, Open: open, CIDRs: prefixes(cidrs...)}.Complete()
	}
	blue, green := other("blue", 7, false, "10.8.0.0/16", "fd00:8::/48"), other("green", 8, true, "10.9.0.0/16")
	for name, test := range map[string]struct {
		open   bool
		others []lease.Network
		want   []netip.Prefix
	}{
		"alone":                   {false, nil, nil},
		"beside others":           {false, []lease.Network{blue, green}, prefixes("10.8.0.0/16", "fd00:8::/48", "10.9.0.0/16")},
		"open":                    {true, []lease.Network{blue, green}, prefixes("10.8.0.0/16", "fd00:8::/48")},
		"beside one around it":    {false, []lease.Network{green, other("wide", 9, false, "10.0.0.0/8")}, prefixes("10.9.0.0/16")},
		"beside one with its VNI": {false, []lease.Network{other("twin", 4096, false, "192.0.2.0/24"), blue}, prefixes("10.8.0.0/16", "fd00:8::/48")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := network("10.244.0.0/16")
			n.Open = test.open
			got, err := intent.ForNode(&intent.Facts{
				Network: n, Node: "a", Underlay: ethernet(1500, "192.0.2.1"), Leases: []lease.Lease{leaseOf(&n, "a", "10.244.1.0/24", "192.0.2.1")},
				Others: append(test.others, n),
			})
			if err != nil || !slices.Equal(got.Firewall.Others, test.want) {
				t.Errorf("isolated from %v, want %v: %v", got.Firewall.Others, test.want, err)
			}
		})
	}
}

// TestForNodeWithExternalPeers: they are peers like others, and the packet filter
// knows what is behind those that are reached.
func TestForNodeWithExternalPeers(t *testing.T) {
	t.Parallel()
	n := network("10.244.0.0/16", "fd00:10:244::/48")
	vm := func(name, mac string, underlay []netip.Addr, cidrs ...string) lease.ExternalPeer {
		parsed, err := ether.Parse(mac)
		if err != nil {
			t.Fatal(err)
		}
		return lease.ExternalPeer{Name: name, Network: "pods", VTEP: lease.VTEP{Underlay: underlay, MAC: parsed}, CIDRs: prefixes(cidrs...)}
	}
	got, err := intent.ForNode(&intent.Facts{
		Network: n, Node: "a", Underlay: ethernet(1500, "192.0.2.1"),
		Leases: []lease.Lease{leaseOf(&n, "a", "10.244.1.0/24", "192.0.2.1"), leaseOf(&n, "b", "10.244.2.0/24", "192.0.2.2")},
		External: []lease.ExternalPeer{
			vm("one", "0e:00:00:00:00:01", addrs("192.0.2.50", "2001:db8::50"), "10.50.0.0/24", "fd00:50::/64"),
			vm("six", "0e:00:00:00:00:02", addrs("2001:db8::51"), "10.51.0.0/24"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Peers) != 2 || got.Peers[1].Underlay != addrs("192.0.2.50")[0] || got.Peers[1].MAC.String() != "0e:00:00:00:00:01" ||
		!slices.Equal(got.Peers[1].Blocks, prefixes("10.50.0.0/24", "fd00:50::/64")) {
		t.Errorf("peers are %+v", got.Peers)
	}
	if !slices.Equal(got.Unreachable, []string{"external peer six"}) {
		t.Errorf("unreachable are %v", got.Unreachable)
	}
	if !slices.Equal(got.Firewall.Peers, addrs("192.0.2.2", "192.0.2.50")) {
		t.Errorf("VXLAN packets may come from %v", got.Firewall.Peers)
	}
	if !slices.Equal(got.Firewall.External, prefixes("10.50.0.0/24", "fd00:50::/64")) || !slices.Equal(got.Firewall.CIDRs, n.CIDRs) {
		t.Errorf("the firewall is %+v", got.Firewall)
	}
	if !slices.Equal(got.VTEP.Within, n.CIDRs) {
		t.Errorf("own blackholes are within %v", got.VTEP.Within)
	}
}

func TestForNodeWithoutMasquerade(t *testing.T) {
	t.Parallel()
	n := network("10.244.0.0/16")
	n.Masquerade.Disabled = true
	got, err := intent.ForNode(&intent.Facts{
		Network: n, Node: "a", Underlay: ethernet(1500, "192.0.2.1"), Leases: []lease.Lease{leaseOf(&n, "a", "10.244.1.0/24", "192.0.2.1")},
	})
	if err != nil || got.Firewall.Masquerade || len(got.Peers) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestForNodeWithoutLease(t *testing.T) {
	t.Parallel()
	n := network("10.244.0.0/16")
	_, err := intent.ForNode(&intent.Facts{
		Network: n, Node: "a", Underlay: ethernet(1500, "192.0.2.1"),
		Leases: []lease.Lease{leaseOf(&n, "b", "10.244.2.0/24", "192.0.2.2")},
	})
	if err == nil || !strings.Contains(err.Error(), "node a has no lease in network pods") {
		t.Errorf("got %v", err)
	}
}

func TestForNodeWithoutUnderlay(t *testing.T) {
	t.Parallel()
	n := network("10.244.0.0/16")
	facts := &intent.Facts{Network: n, Node: "a", Underlay: ethernet(1500), Leases: []lease.Lease{leaseOf(&n, "a", "10.244.2.0/24", "192.0.2.2")}}
	_, err := intent.ForNode(facts)
	for _, err := range []error{err, facts.Validate()} {
		if err == nil || !strings.Contains(err.Error(), "interface eth0 has no address") {
			t.Errorf("got %v", err)
		}
	}
}

func TestMTU(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		cidr     string
		mtu      int // of the network; 0: auto
		underlay intent.Underlay
		want     int
		value    string // that the error names
	}{
		{"auto over IPv4", "10.244.0.0/16", 0, ethernet(1500, "192.0.2.1"), 1450, ""},
		{"auto over IPv6", "10.244.0.0/16", 0, ethernet(1500, "2001:db8::1"), 1430, ""},
		{"auto over both takes IPv4", "fd00::/48", 0, ethernet(1500, "2001:db8::1", "192.0.2.1"), 1450, ""},
		{"auto over jumbo frames", "10.244.0.0/16", 0, ethernet(9000, "192.0.2.1"), 8950, ""},
		{"what is asked for", "10.244.0.0/16", 1400, ethernet(9000, "192.0.2.1"), 1400, ""},
		{"all that there is", "10.244.0.0/16", 1450, ethernet(1500, "192.0.2.1"), 1450, ""},
		{"one more than there is", "10.244.0.0/16", 1451, ethernet(1500, "192.0.2.1"), 0, "1451"},
		{"what IPv4 would leave, over IPv6", "10.244.0.0/16", 1450, ethernet(1500, "2001:db8::1"), 0, "1450"},
		{"just enough for IPv6 pods", "fd00::/48", 0, ethernet(1330, "192.0.2.1"), 1280, ""},
		{"not enough for IPv6 pods", "fd00::/48", 0, ethernet(1329, "192.0.2.1"), 0, "auto"},
		{"IPv6 over the least IPv6", "fd00::/48", 0, ethernet(1280, "2001:db8::1"), 0, "auto"},
		{"enough for IPv4 pods", "10.244.0.0/16", 0, ethernet(1329, "192.0.2.1"), 1279, ""},
		{"not enough for IPv4 pods", "10.244.0.0/16", 0, ethernet(600, "192.0.2.1"), 0, "auto"},
		{"less than the overhead", "10.244.0.0/16", 0, ethernet(40, "192.0.2.1"), 0, "auto"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := network(test.cidr)
			n.MTU = test.mtu
			block := netip.PrefixFrom(n.CIDRs[0].Addr(), n.BlockLength.Of(n.Families()[0]))
			got, err := intent.ForNode(&intent.Facts{
				Network: n, Node: "a", Underlay: test.underlay, Leases: []lease.Lease{leaseOf(&n, "a", block.String(), "192.0.2.1")},
			})
			var f *lease.FieldError
			switch {
			case test.value == "" && (err != nil || got.VTEP.MTU != test.want):
				t.Errorf("got an MTU of %d, %v, want %d", got.VTEP.MTU, err, test.want)
			case test.value == "":
			case !errors.As(err, &f) || f.Field != "mtu" || f.Value != test.value || !strings.Contains(f.Problem, "eth0"):
				t.Errorf("got error %v, want one about mtu %s and eth0", err, test.value)
			}
		})
	}
}
