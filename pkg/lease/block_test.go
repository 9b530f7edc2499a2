package lease

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestBlockAt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		cidr   string
		length int
		i      uint64
		want   string
	}{
		{"the first /24 of a /16", "10.244.0.0/16", 24, 0, "10.244.0.0/24"},
		{"the last /24 of a /16", "10.244.0.0/16", 24, 255, "10.244.255.0/24"},
		{"over an octet", "10.0.0.0/8", 24, 256, "10.1.0.0/24"},
		{"the last block of all of IPv4", "128.0.0.0/1", 30, 1<<29 - 1, "255.255.255.252/30"},
		{"a block as long as its CIDR", "192.0.2.0/24", 24, 0, "192.0.2.0/24"},
		{"blocks within an octet", "192.0.2.0/24", 26, 3, "192.0.2.192/26"},
		{"the first /64 of a /48", "fd00:10:244::/48", 64, 0, "fd00:10:244::/64"},
		{"the last /64 of a /48", "fd00:10:244::/48", 64, 65535, "fd00:10:244:ffff::/64"},
		{"the upper half alone", "fd00::/32", 48, 1, "fd00:0:1::/48"},
		{"the lower half alone", "fd00::/112", 122, 1023, "fd00::ffc0/122"},
		{"over the middle of the address", "fd00::/56", 72, 256, "fd00:0:0:1::/72"},
		{"before the middle of the address", "fd00::/56", 72, 255, "fd00::ff00:0:0:0/72"},
		{"a number that reaches over the middle", "fd00::/60", 80, 0xabcde, "fd00:0:0:a:bcde::/80"},
		{"the highest block number", "fd00::/16", 48, 1<<32 - 1, "fd00:ffff:ffff::/48"},
		{"the longest length", "fd00::/120", 126, 63, "fd00::fc/126"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := blockAt(netip.MustParsePrefix(test.cidr), test.length, test.i); got.String() != test.want {
				t.Errorf("block %d of %s is %s, want %s", test.i, test.cidr, got, test.want)
			}
		})
	}
}

func TestBlockCount(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cidr   string
		length int
		want   uint64
	}{
		{"10.244.0.0/16", 24, 256},
		{"192.0.2.0/24", 24, 1},
		{"128.0.0.0/1", 30, 1 << 29},
		{"fd00:10:244::/48", 64, 65536},
		{"fd00::/32", 64, 1 << 32},
		{"fd00::/16", 64, 1 << 32}, // not 2^48: more than there can be nodes
		{"8000::/1", 126, 1 << 32},
	} {
		if got := blockCount(netip.MustParsePrefix(test.cidr), test.length); got != test.want {
			t.Errorf("%s has %d blocks of /%d, want %d", test.cidr, got, test.length, test.want)
		}
	}
}

func TestLast(t *testing.T) {
	t.Parallel()
	for prefix, want := range map[string]string{
		"10.244.3.0/24":           "10.244.3.255",
		"10.244.3.4/30":           "10.244.3.7",
		"192.0.2.1/32":            "192.0.2.1",
		"128.0.0.0/1":             "255.255.255.255",
		"fd00::/64":               "fd00::ffff:ffff:ffff:ffff",
		"fd00::/63":               "fd00::1:ffff:ffff:ffff:ffff",
		"fd00:10:244::/48":        "fd00:10:244:ffff:ffff:ffff:ffff:ffff",
		"fd00::fc/126":            "fd00::ff",
		"fd00::1/128":             "fd00::1",
		"::ffff:192.0.2.0/120":    "::ffff:192.0.2.255",
		"2001:db8:0:ff00::/56":    "2001:db8:0:ffff:ffff:ffff:ffff:ffff",
		"2001:db8::8000:0:0:0/65": "2001:db8::ffff:ffff:ffff:ffff",
	} {
		if got := Last(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("the last address of %s is %s, want %s", prefix, got, want)
		}
	}
}

// cidr draws a CIDR with a block length that fits.
func cidr(t *rapid.T) (netip.Prefix, int) {
	size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
	raw := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "address")
	a, _ := netip.AddrFromSlice(raw)
	bits := rapid.IntRange(1, a.BitLen()-2).Draw(t, "bits")
	p := netip.PrefixFrom(a, bits).Masked()
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(netip.MustParseAddr("fd00::"), bits).Masked()
	}
	return p, rapid.IntRange(bits, a.BitLen()-2).Draw(t, "length")
}

// TestBlocksAreDisjoint: no two blocks of a CIDR share an address, and none has
// one outside of it. It is what makes a claim of a block a claim of addresses.
func TestBlocksAreDisjoint(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, length := cidr(t)
		count := blockCount(p, length)
		i := rapid.Uint64Range(0, count-1).Draw(t, "i")
		j := rapid.Uint64Range(0, count-1).Draw(t, "j")
		a, b := blockAt(p, length, i), blockAt(p, length, j)
		if a != a.Masked() || a.Bits() != length || FamilyOf(a.Addr()) != FamilyOf(p.Addr()) {
			t.Fatalf("block %d of %s is %s", i, p, a)
		}
		if !p.Contains(a.Addr()) || !p.Contains(Last(a)) {
			t.Fatalf("block %d, %s, is not within %s", i, a, p)
		}
		if a.Overlaps(b) != (i == j) {
			t.Fatalf("blocks %d and %d of %s are %s and %s", i, j, p, a, b)
		}
		if i+1 < count && Last(a).Next() != blockAt(p, length, i+1).Addr() {
			t.Fatalf("there is a gap after block %d of %s, %s", i, p, a)
		}
	})
}

func TestLastEndsThePrefix(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, _ := cidr(t)
		last := Last(p)
		if next := last.Next(); !p.Contains(last) || (next.IsValid() && p.Contains(next)) {
			t.Fatalf("the last address of %s is %s", p, last)
		}
	})
}

func heldBy(node string, blocks ...netip.Prefix) []stored {
	leases := make([]stored, len(blocks))
	for i, b := range blocks {
		leases[i].Lease = Lease{Network: "pods", Node: node, Block: b}
	}
	return leases
}

func TestFreeBlock(t *testing.T) {
	t.Parallel()
	blocks := func(all ...string) []netip.Prefix {
		parsed := make([]netip.Prefix, len(all))
		for i, s := range all {
			parsed[i] = netip.MustParsePrefix(s)
		}
		return parsed
	}
	for _, test := range []struct {
		name  string
		cidrs []netip.Prefix
		taken []netip.Prefix
		want  string // "": none
	}{
		{"the only block", blocks("10.0.0.0/24"), nil, "10.0.0.0/24"},
		{"the only block, taken", blocks("10.0.0.0/24"), blocks("10.0.0.0/24"), ""},
		{"the one left", blocks("10.0.0.0/22"), blocks("10.0.0.0/24", "10.0.1.0/24", "10.0.3.0/24"), "10.0.2.0/24"},
		{"the second CIDR when the first is full", blocks("10.0.0.0/24", "10.9.0.0/24"), blocks("10.0.0.0/24"), "10.9.0.0/24"},
		{"one block of a shorter length covers two", blocks("10.0.0.0/22"), blocks("10.0.0.0/23", "10.0.3.0/24"), "10.0.2.0/24"},
		{"blocks of a longer length spoil one each", blocks("10.0.0.0/23"), blocks("10.0.0.64/26", "10.0.0.128/26"), "10.0.1.0/24"},
		{"a block that covers all", blocks("10.0.0.0/22"), blocks("10.0.0.0/16"), ""},
		{"leases elsewhere don't count", blocks("10.0.0.0/24"), blocks("10.7.0.0/24", "fd00::/64"), "10.0.0.0/24"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := Network{Name: "pods", CIDRs: test.cidrs, BlockLength: BlockLength{IPv4: 24}}
			for _, node := range []string{"a", "b", "node-17"} {
				got, ok := freeBlock(&Claim{Network: n, Node: node}, IPv4, heldBy("other", test.taken...))
				if ok != (test.want != "") || ok && got.String() != test.want {
					t.Errorf("node %s: got %s, %t, want %q", node, got, ok, test.want)
				}
			}
		})
	}
}

// TestFreeBlockOfALargeNetwork: a full network is found to be so in time that
// grows with it, not with its square.
func TestFreeBlockOfALargeNetwork(t *testing.T) {
	t.Parallel()
	n := Network{Name: "pods", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, BlockLength: BlockLength{IPv4: 24}}
	var all []netip.Prefix
	for i := range blockCount(n.CIDRs[0], 24) {
		all = append(all, blockAt(n.CIDRs[0], 24, i))
	}
	if got, ok := freeBlock(&Claim{Network: n, Node: "late"}, IPv4, heldBy("other", all...)); ok {
		t.Errorf("found %s in a full network", got)
	}
	if got, ok := freeBlock(&Claim{Network: n, Node: "late"}, IPv4, heldBy("other", append(all[:4711:4711], all[4712:]...)...)); !ok || got != all[4711] {
		t.Errorf("got %s, want the one that is left, %s", got, all[4711])
	}
	// 2^58 blocks, and a lease that covers them all.
	wide := Network{Name: "pods", CIDRs: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}, BlockLength: BlockLength{IPv6: 122}}
	if got, ok := freeBlock(&Claim{Network: wide, Node: "late"}, IPv6, heldBy("other", netip.MustParsePrefix("fd00::/48"))); ok {
		t.Errorf("found %s in a network that is covered", got)
	}
}
