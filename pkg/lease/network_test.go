package lease_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// network is one with its defaults.
func network(name string, cidrs ...string) lease.Network {
	return lease.Network{Name: name, CIDRs: prefixes(cidrs...)}.Complete()
}

// wantField checks which field and value an error names; no field: no error.
func wantField(t *testing.T, err error, field, value string) {
	t.Helper()
	var f *lease.FieldError
	switch {
	case field == "" && err != nil:
		t.Errorf("got %v, want no error", err)
	case field == "":
	case !errors.As(err, &f):
		t.Errorf("got %v, want an error about %s", err, field)
	case f.Field != field || f.Value != value:
		t.Errorf("%q is about field %q with value %q, want %q with %q", err, f.Field, f.Value, field, value)
	case !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), value) || f.Problem == "":
		t.Errorf("%q doesn't name %q, %q and the problem", err, field, value)
	}
}

func TestNetworkValidate(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, test := range []struct {
		name         string
		change       func(*lease.Network)
		field, value string
	}{
		{"dual stack with the defaults", func(*lease.Network) {}, "", ""},
		{"no name", func(n *lease.Network) { n.Name = "" }, "name", ""},
		{"a name that is too long", func(n *lease.Network) { n.Name = long }, "name", long},
		{"the longest name", func(n *lease.Network) { n.Name = long[1:] }, "", ""},
		{"capitals in the name", func(n *lease.Network) { n.Name = "Pods" }, "name", "Pods"},
		{"a path as name", func(n *lease.Network) { n.Name = "../pods" }, "name", "../pods"},
		{"dots as name", func(n *lease.Network) { n.Name = ".." }, "name", ".."},
		{"an underscore in the name", func(n *lease.Network) { n.Name = "my_pods" }, "name", "my_pods"},
		{"a space in the name", func(n *lease.Network) { n.Name = "my pods" }, "name", "my pods"},
		{"letters beyond ASCII in the name", func(n *lease.Network) { n.Name = "pödz" }, "name", "pödz"},
		{"a dash at the end of the name", func(n *lease.Network) { n.Name = "pods-" }, "name", "pods-"},
		{"an empty part in the name", func(n *lease.Network) { n.Name = "a..b" }, "name", "a..b"},
		{"a dash beside a dot in the name", func(n *lease.Network) { n.Name = "a-.b" }, "name", "a-.b"},
		{"a name with dots", func(n *lease.Network) { n.Name = "pods.example-1.org" }, "", ""},
		{"no CIDR", func(n *lease.Network) { n.CIDRs = nil }, "cidrs", ""},
		{"an invalid CIDR", func(n *lease.Network) { n.CIDRs[1] = netip.Prefix{} }, "cidrs[1]", "invalid Prefix"},
		{"an IPv4-mapped CIDR", func(n *lease.Network) { n.CIDRs = prefixes("::ffff:10.0.0.0/104") }, "cidrs[0]", "::ffff:10.0.0.0/104"},
		{"bits beyond the length", func(n *lease.Network) { n.CIDRs = prefixes("10.244.1.0/16") }, "cidrs[0]", "10.244.1.0/16"},
		{"bits beyond the length, IPv6", func(n *lease.Network) { n.CIDRs = prefixes("fd00::1/48") }, "cidrs[0]", "fd00::1/48"},
		{"multicast", func(n *lease.Network) { n.CIDRs = prefixes("239.1.0.0/16") }, "cidrs[0]", "239.1.0.0/16"},
		{"multicast, IPv6", func(n *lease.Network) { n.CIDRs = prefixes("ff05::/64") }, "cidrs[0]", "ff05::/64"},
		{"loopback", func(n *lease.Network) { n.CIDRs = prefixes("127.1.0.0/16") }, "cidrs[0]", "127.1.0.0/16"},
		{"what holds loopback", func(n *lease.Network) { n.CIDRs = prefixes("126.0.0.0/7") }, "cidrs[0]", "126.0.0.0/7"},
		{"link-local", func(n *lease.Network) { n.CIDRs = prefixes("169.254.0.0/16") }, "cidrs[0]", "169.254.0.0/16"},
		{"what holds link-local", func(n *lease.Network) { n.CIDRs = prefixes("168.0.0.0/6") }, "cidrs[0]", "168.0.0.0/6"},
		{"link-local, IPv6", func(n *lease.Network) { n.CIDRs = prefixes("fe80::/64") }, "cidrs[0]", "fe80::/64"},
		{"this network", func(n *lease.Network) { n.CIDRs = prefixes("0.0.0.0/8") }, "cidrs[0]", "0.0.0.0/8"},
		{"everything", func(n *lease.Network) { n.CIDRs = prefixes("0.0.0.0/0") }, "cidrs[0]", "0.0.0.0/0"},
		{"everything, IPv6", func(n *lease.Network) { n.CIDRs = prefixes("::/0") }, "cidrs[0]", "::/0"},
		{"what holds IPv4-mapped addresses", func(n *lease.Network) { n.CIDRs = prefixes("::/64") }, "cidrs[0]", "::/64"},
		{"CIDRs that overlap", func(n *lease.Network) { n.CIDRs = prefixes("10.0.0.0/8", "fd00::/48", "10.244.0.0/16") }, "cidrs[2]", "10.244.0.0/16"},
		{"a CIDR twice", func(n *lease.Network) { n.CIDRs = prefixes("fd00::/48", "fd00::/48") }, "cidrs[1]", "fd00::/48"},
		{"a CIDR with room for no block", func(n *lease.Network) { n.CIDRs = prefixes("10.0.0.0/31") }, "cidrs[0]", "10.0.0.0/31"},
		{"a CIDR of one address", func(n *lease.Network) { n.CIDRs = prefixes("fd00::1/128") }, "cidrs[0]", "fd00::1/128"},
		{"blocks shorter than the CIDR", func(n *lease.Network) { n.BlockLength.IPv4 = 15 }, "blockLength.ipv4", "15"},
		{"blocks as long as the CIDR", func(n *lease.Network) { n.BlockLength.IPv4 = 16 }, "", ""},
		{"the longest blocks", func(n *lease.Network) { n.BlockLength = lease.BlockLength{IPv4: 30, IPv6: 126} }, "", ""},
		{"blocks that are too long", func(n *lease.Network) { n.BlockLength.IPv4 = 31 }, "blockLength.ipv4", "31"},
		{"blocks that are too long, IPv6", func(n *lease.Network) { n.BlockLength.IPv6 = 127 }, "blockLength.ipv6", "127"},
		{"blocks shorter than one of two CIDRs", func(n *lease.Network) {
			n.CIDRs, n.BlockLength.IPv4 = prefixes("10.0.0.0/16", "10.9.0.0/25"), 24
		}, "blockLength.ipv4", "24"},
		{"no block length", func(n *lease.Network) { n.BlockLength.IPv6 = 0 }, "blockLength.ipv6", "0"},
		{"VNI 0", func(n *lease.Network) { n.VNI = 0 }, "vni", "0"},
		{"VNI 1", func(n *lease.Network) { n.VNI = 1 }, "", ""},
		{"the highest VNI", func(n *lease.Network) { n.VNI = 16777215 }, "", ""},
		{"a VNI of 25 bits", func(n *lease.Network) { n.VNI = 16777216 }, "vni", "16777216"},
		{"port 0", func(n *lease.Network) { n.Port = 0 }, "port", "0"},
		{"an MTU too small for IPv6", func(n *lease.Network) { n.MTU = 1279 }, "mtu", "1279"},
		{"the least MTU for IPv6", func(n *lease.Network) { n.MTU = 1280 }, "", ""},
		{"the least MTU for IPv4", func(n *lease.Network) { n.CIDRs, n.MTU = prefixes("10.0.0.0/16"), 576 }, "", ""},
		{"an MTU too small for IPv4", func(n *lease.Network) { n.CIDRs, n.MTU = prefixes("10.0.0.0/16"), 575 }, "mtu", "575"},
		{"an MTU below zero", func(n *lease.Network) { n.MTU = -1 }, "mtu", "-1"},
		{"an MTU too large", func(n *lease.Network) { n.MTU = 65536 }, "mtu", "65536"},
		{"exclusions", func(n *lease.Network) { n.Masquerade.Exclude = prefixes("192.168.0.0/16", "0.0.0.0/0", "::/0") }, "", ""},
		{"an exclusion with bits beyond its length", func(n *lease.Network) {
			n.Masquerade.Exclude = prefixes("10.0.0.0/8", "192.168.1.0/16")
		}, "masquerade.exclude[1]", "192.168.1.0/16"},
		{"an invalid exclusion", func(n *lease.Network) { n.Masquerade.Exclude = []netip.Prefix{{}} }, "masquerade.exclude[0]", "invalid Prefix"},
		{"an IPv4-mapped exclusion", func(n *lease.Network) { n.Masquerade.Exclude = prefixes("::ffff:10.0.0.0/104") }, "masquerade.exclude[0]", "::ffff:10.0.0.0/104"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := network("pods", "10.244.0.0/16", "fd00:10:244::/48")
			test.change(&n)
			wantField(t, n.Validate(), test.field, test.value)
		})
	}
}

func TestNetworkComplete(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		in   lease.Network
		want lease.Network
	}{
		{
			"two lines of configuration", lease.Network{CIDRs: prefixes("10.244.0.0/16", "fd00::/48")},
			lease.Network{CIDRs: prefixes("10.244.0.0/16", "fd00::/48"), VNI: 4096, Port: 4789, BlockLength: lease.BlockLength{IPv4: 24, IPv6: 64}},
		},
		{
			"no length for a family without CIDRs", lease.Network{CIDRs: prefixes("fd00::/48")},
			lease.Network{CIDRs: prefixes("fd00::/48"), VNI: 4096, Port: 4789, BlockLength: lease.BlockLength{IPv6: 64}},
		},
		{
			"one node has all of a small network", lease.Network{CIDRs: prefixes("10.1.0.0/26", "10.2.0.0/28", "fd00::/112")},
			lease.Network{CIDRs: prefixes("10.1.0.0/26", "10.2.0.0/28", "fd00::/112"), VNI: 4096, Port: 4789, BlockLength: lease.BlockLength{IPv4: 28, IPv6: 112}},
		},
		{
			"what is given stays",
			lease.Network{CIDRs: prefixes("10.0.0.0/8"), VNI: 7, Port: 8472, MTU: 1400, BlockLength: lease.BlockLength{IPv4: 26}},
			lease.Network{CIDRs: prefixes("10.0.0.0/8"), VNI: 7, Port: 8472, MTU: 1400, BlockLength: lease.BlockLength{IPv4: 26}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := test.in.Complete()
			if !got.Equal(&test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			if again := got.Complete(); !again.Equal(&got) {
				t.Errorf("completed again it is %+v", again)
			}
		})
	}
}

func TestNetworkConflictsWith(t *testing.T) {
	t.Parallel()
	other := network("pods", "10.244.0.0/16", "fd00:10:244::/48")
	for _, test := range []struct {
		name         string
		n            lease.Network
		change       func(*lease.Network)
		field, value string
	}{
		{"apart", network("storage", "10.9.0.0/16"), func(n *lease.Network) { n.VNI = 5000 }, "", ""},
		{"the same CIDR", network("storage", "10.244.0.0/16"), func(n *lease.Network) { n.VNI = 5000 }, "cidrs[0]", "10.244.0.0/16"},
		{"a CIDR within", network("storage", "10.9.0.0/16", "fd00:10:244:7::/64"), func(n *lease.Network) { n.VNI = 5000 }, "cidrs[1]", "fd00:10:244:7::/64"},
		{"a CIDR around", network("storage", "10.0.0.0/8"), func(n *lease.Network) { n.VNI = 5000 }, "cidrs[0]", "10.0.0.0/8"},
		{"the same VNI", network("storage", "10.9.0.0/16"), func(*lease.Network) {}, "vni", "4096"},
		{"the same VNI at another port: one device name", network("storage", "10.9.0.0/16"), func(n *lease.Network) { n.Port = 8472 }, "vni", "4096"},
		{"the same port at another VNI", network("storage", "10.9.0.0/16"), func(n *lease.Network) { n.VNI = 4097 }, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.change(&test.n)
			err := test.n.ConflictsWith(&other)
			wantField(t, err, test.field, test.value)
			if err != nil && (!strings.Contains(err.Error(), "storage") || !strings.Contains(err.Error(), "pods")) {
				t.Errorf("%q doesn't name both networks", err)
			}
			if (other.ConflictsWith(&test.n) == nil) != (err == nil) {
				t.Error("only one of the two conflicts with the other")
			}
		})
	}
}

func TestNetworkEqual(t *testing.T) {
	t.Parallel()
	base := func() lease.Network {
		n := network("pods", "10.244.0.0/16", "fd00::/48")
		n.Masquerade.Exclude = prefixes("192.168.0.0/16")
		return n
	}
	for name, change := range map[string]func(*lease.Network){
		"name":         func(n *lease.Network) { n.Name = "other" },
		"CIDRs":        func(n *lease.Network) { n.CIDRs = n.CIDRs[:1] },
		"CIDR order":   func(n *lease.Network) { n.CIDRs[0], n.CIDRs[1] = n.CIDRs[1], n.CIDRs[0] },
		"block length": func(n *lease.Network) { n.BlockLength.IPv6 = 80 },
		"VNI":          func(n *lease.Network) { n.VNI = 1 },
		"port":         func(n *lease.Network) { n.Port = 1 },
		"MTU":          func(n *lease.Network) { n.MTU = 1400 },
		"masquerade":   func(n *lease.Network) { n.Masquerade.Disabled = true },
		"exclusions":   func(n *lease.Network) { n.Masquerade.Exclude = nil },
	} {
		a, b := base(), base()
		if !a.Equal(&b) {
			t.Fatal("a network differs from itself")
		}
		if change(&b); a.Equal(&b) {
			t.Errorf("%s may differ", name)
		}
	}
}

func TestNetworkFamilies(t *testing.T) {
	t.Parallel()
	n := network("pods", "fd00::/48", "10.1.0.0/16", "10.2.0.0/16")
	if f := n.Families(); len(f) != 2 || f[0] != lease.IPv4 || f[1] != lease.IPv6 {
		t.Errorf("families are %v", f)
	}
	if c := n.CIDRsOf(lease.IPv4); len(c) != 2 || c[0] != n.CIDRs[1] {
		t.Errorf("IPv4 CIDRs are %v", c)
	}
	for address, want := range map[string]bool{"10.2.255.255": true, "10.3.0.0": false, "fd00::1": true, "fd01::1": false} {
		if n.Contains(netip.MustParseAddr(address)) != want {
			t.Errorf("%s within the network: want %t", address, want)
		}
	}
	if v4, v6 := lease.IPv4, lease.IPv6; v4.String() != "IPv4" || v6.String() != "IPv6" || v4.Overhead() != 50 || v6.Overhead() != 70 {
		t.Error("a family is wrong about itself")
	}
}

// TestNetworkMAC: the address of a VTEP follows from network and node, is one
// that an interface may have, and no two nodes share one.
func TestNetworkMAC(t *testing.T) {
	t.Parallel()
	pods, storage := network("pods", "10.1.0.0/16"), network("storage", "10.2.0.0/16")
	seen := map[string]bool{}
	for _, n := range []lease.Network{pods, storage} {
		for _, node := range []string{"a", "b", "c", "node-1", "node-11"} {
			mac := n.MAC(node)
			if !mac.IsValid() || mac[0] != 0x0e || mac != n.MAC(node) || seen[mac.String()] {
				t.Errorf("node %s of network %s has %s", node, n.Name, mac)
			}
			seen[mac.String()] = true
		}
	}
	if pods.MAC("node-1").String() != "0e:6f:60:be:2e:06" {
		t.Errorf("the MAC of node-1 is now %s: running clusters would see it change", pods.MAC("node-1"))
	}
}
