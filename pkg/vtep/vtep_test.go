package vtep_test

// What should exist for a VTEP, as pure functions say it.

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

var update = flag.Bool("update", false, "write the golden files")

func prefixes(list ...string) (found []netip.Prefix) {
	for _, s := range list {
		found = append(found, netip.MustParsePrefix(s))
	}
	return found
}

func mac(n int) ether.Addr { return ether.Local([5]byte{3: byte(n >> 8), 4: byte(n)}) }

// specs are a node's VTEP in each kind of network, with two peers.
func specs() map[string]struct {
	spec  *vtep.Spec
	peers []vtep.Peer
} {
	type node = struct {
		spec  *vtep.Spec
		peers []vtep.Peer
	}
	base := func(local string, blocks, within []netip.Prefix) *vtep.Spec {
		return &vtep.Spec{
			Device: vtep.DeviceName(4096), VNI: 4096, Port: 4789, Local: netip.MustParseAddr(local),
			MAC: mac(1), MTU: 1450, Blocks: blocks, Within: within,
		}
	}
	peer := func(n int, underlay string, blocks ...string) vtep.Peer {
		return vtep.Peer{Underlay: netip.MustParseAddr(underlay), MAC: mac(n), Blocks: prefixes(blocks...)}
	}
	return map[string]node{
		"ipv4": {
			base("172.30.1.10", prefixes("10.244.1.0/24"), prefixes("10.244.0.0/16")),
			[]vtep.Peer{peer(2, "172.30.1.11", "10.244.2.0/24"), peer(3, "172.30.2.10", "10.244.3.0/24", "10.244.4.0/24")},
		},
		"dual-stack": {
			base("172.30.1.10", prefixes("10.244.1.0/24", "fd00:10:244:1::/64", "10.244.7.0/24"), prefixes("10.244.0.0/16", "fd00:10:244::/48")),
			[]vtep.Peer{peer(2, "172.30.1.11", "10.244.2.0/24", "fd00:10:244:2::/64"), peer(3, "172.30.2.10", "fd00:10:244:3::/64")},
		},
		"ipv6-underlay": {
			base("fd00:30:1::a", prefixes("10.244.1.0/24", "fd00:10:244:1::/64"), prefixes("10.244.0.0/16", "fd00:10:244::/48")),
			[]vtep.Peer{peer(2, "fd00:30:1::b", "10.244.2.0/24", "fd00:10:244:2::/64"), peer(3, "fd00:30:2::a", "10.244.3.0/24")},
		},
	}
}

func TestObjectsGolden(t *testing.T) {
	t.Parallel()
	for name, n := range specs() {
		text := reconcile.Format(vtep.Objects(n.spec, n.peers))
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if text != string(want) {
			t.Errorf("%s: differs from %s:\n%s", name, file, text)
		}
	}
}

// The metrics of the routes of a network differ, as good as all of them, for
// otherwise the kernel takes n^2 steps to add n routes.
func TestMetricsDiffer(t *testing.T) {
	t.Parallel()
	networks := map[string]func(n int) netip.Prefix{
		"all /24 of a /16": func(n int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24)
		},
		"all /24 of a /8": func(n int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
		},
		"/26 of a /10": func(n int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 + byte(n>>10), byte(n >> 2), byte(n << 6)}), 26)
		},
		"/64 of a /48": func(n int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 5: 1, 6: byte(n >> 8), 7: byte(n)}), 64)
		},
		"/122 of a /106": func(n int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 13: byte(n >> 10), 14: byte(n >> 2), 15: byte(n << 6)}), 122)
		},
	}
	for name, block := range networks {
		count := 1 << 16
		if name == "all /24 of a /16" {
			count = 256
		}
		used := map[uint32]int{}
		most := 0
		for n := range count {
			m := vtep.Metric(block(n))
			if m >= vtep.BlackholeMetric || m < 1024 {
				t.Fatalf("%s: metric %d of %s isn't within %d..%d", name, m, block(n), 1024, vtep.BlackholeMetric)
			}
			used[m]++
			most = max(most, used[m])
		}
		if collisions := count - len(used); collisions > count/1000 || most > 3 {
			t.Errorf("%s: %d of %d metrics collide, %d times the same", name, collisions, count, most)
		}
	}
}

// The metric is what a route is known by in the kernel, so it may never change.
func TestMetricStays(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint32{"10.244.2.0/24": 127462693, "fd00:10:244:2::/64": 2008483368} {
		if got := vtep.Metric(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	s := &vtep.Spec{Blocks: prefixes("fd00:10:244:1::/64", "10.244.7.0/24", "10.244.1.0/24")}
	if got := fmt.Sprint(s.Addresses()); got != "[10.244.7.0 fd00:10:244:1::]" {
		t.Errorf("addresses %s, want the first of each family's first block", got)
	}
	if got := (&vtep.Spec{}).Addresses(); len(got) > 0 {
		t.Errorf("without blocks: %v", got)
	}
}
