package firewall_test

// The nftables backend: what it writes, and that it writes it again when
// somebody else changed it, and only then.

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

const table = "inet overlay-cni-pods"

func variants() map[string]*firewall.Rules {
	v4, v6, off := dualStack(), dualStack(), dualStack()
	v4.CIDRs, v4.VTEPs = prefixes("10.244.0.0/16", "10.99.0.0/20"), v4.VTEPs[:1]
	v6.CIDRs, v6.VTEPs = prefixes("fd00:10:244::/48"), v6.VTEPs[1:]
	off.Masquerade, off.Port = false, 8472
	everywhere := dualStack()
	everywhere.Exclude = prefixes("0.0.0.0/0", "::/0", "192.168.0.0/16")
	external := dualStack()
	external.External, external.Exclude = prefixes("10.50.0.0/24", "10.50.1.7/32", "fd00:50::/64"), nil
	isolated := dualStack()
	isolated.CIDRs, isolated.Others = append(isolated.CIDRs, prefixes("10.99.0.0/20")...), prefixes("10.8.0.0/16", "fd00:8::/48", "10.9.0.0/16")
	outer6 := dualStack()
	outer6.Underlay, outer6.Peers, outer6.VNI = netip.MustParseAddr("fd00:30:1::10"), addresses("fd00:30:1::11", "fd00:30:2::10"), 0xabcdef
	return map[string]*firewall.Rules{
		"external": external, "isolated": isolated, "outer-ipv6": outer6,
		"dual-stack": dualStack(), "ipv4": v4, "ipv6": v6, "no-masquerade": off, "exclude-all": everywhere,
	}
}

// list returns the table as nft prints it, its parts sorted: their order is
// that of their making.
func list(t testing.TB, h *lab.Host) string {
	t.Helper()
	text := strings.TrimSuffix(strings.TrimPrefix(command(t, h, "nft list table "+table), "table "+table+" {\n"), "}\n")
	parts := strings.Split(strings.TrimSuffix(text, "\n"), "\n\n")
	slices.Sort(parts)
	return "table " + table + " {\n" + strings.Join(parts, "\n\n") + "\n}\n"
}

// tables counts the changes that are about a whole table.
func tables(changes []reconcile.Change) (count int) {
	for _, c := range changes {
		if _, ok := c.Subject().(firewall.Table); ok {
			count++
		}
	}
	return count
}

func TestNFTablesGolden(t *testing.T) {
	t.Parallel()
	for name, r := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if made := apply(t, h, firewall.Nftables, r); tables(made) != 1 || len(made) != 1+len(r.Peers) {
				t.Errorf("changes: %v", made)
			}
			golden(t, name, command(t, h, "nft list table "+table))
		})
	}
}

func TestNFTablesIsRestored(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"table deleted":             "nft delete table " + table,
		"table flushed":             "nft flush table " + table,
		"table switched off":        "nft add table " + table + " '{ flags dormant; }'",
		"chain flushed":             "nft flush chain " + table + " prerouting",
		"rule deleted":              "nft delete rule " + table + " output handle $(nft -a list chain " + table + " output | sed -n 's/.*notrack.*handle //p' | head -1)",
		"rule added":                "nft add rule " + table + " postrouting counter drop",
		"rule inserted":             "nft insert rule " + table + " masquerade4 return",
		"rule changed":              "nft replace rule " + table + " output handle $(nft -a list chain " + table + " output | sed -n 's/.*notrack.*handle //p' | head -1) udp dport 4790 notrack accept",
		"chain added":               "nft add chain " + table + " mine '{ type filter hook forward priority 0; policy drop; }'",
		"chain used":                "nft add chain " + table + " mine; nft add rule " + table + " output jump mine",
		"chain deleted":             "nft flush chain " + table + " translated; nft delete chain " + table + " translated",
		"policy changed":            "nft add chain " + table + " output '{ policy drop; }'",
		"chain at another hook":     "nft flush chain " + table + " translated; nft delete chain " + table + " translated; nft add chain " + table + " translated '{ type filter hook input priority 0; }'",
		"chain at another priority": "nft flush chain " + table + " output; nft delete chain " + table + " output; nft add chain " + table + " output '{ type filter hook output priority 7; }'",
		"chain without a hook":      "nft flush chain " + table + " output; nft delete chain " + table + " output; nft add chain " + table + " output",
		"set added":                 "nft add set " + table + " mine '{ type ipv4_addr; }'",
		"set deleted":               "nft flush table " + table + "; nft delete set " + table + " translated4",
		"set of another type":       "nft flush table " + table + "; nft delete set " + table + " translated4; nft add set " + table + " translated4 '{ type ipv4_addr; }'",
		"set without a timeout":     "nft flush table " + table + "; nft delete set " + table + " translated4; nft add set " + table + " translated4 '{ type ipv4_addr . ipv4_addr; size 10; flags dynamic; }'",
		"peers deleted":             "nft flush table " + table + "; nft delete set " + table + " peers4",
		"peers of another type":     "nft flush table " + table + "; nft delete set " + table + " peers4; nft add set " + table + " peers4 '{ type ipv6_addr; }'",
		"strangers without a bound": "nft flush table " + table + "; nft delete set " + table + " strangers4; nft add set " + table + " strangers4 '{ type ipv4_addr; flags dynamic,timeout; timeout 1h; }'",
		"map added":                 "nft add map " + table + " mine '{ type ipv4_addr : verdict; }'",
	}
	h := newHost(t) // one for all: what a change leaves behind is seen by the next
	r := dualStack()
	apply(t, h, firewall.Nftables, r)
	want := list(t, h)
	for name, line := range tests {
		command(t, h, line)
		if made := apply(t, h, firewall.Nftables, r); tables(made) != 1 {
			t.Errorf("%s: changes: %v", name, made)
		}
		if got := list(t, h); got != want {
			t.Errorf("%s: the table is now\n%s", name, got)
		}
	}
}

// What the sets have learnt outlives that rules change, for otherwise the
// connections that it is about would break.
func TestNFTablesKeepsWhatItLearnt(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := dualStack()
	apply(t, h, firewall.Nftables, r)
	command(t, h, "nft add element "+table+" translated4 '{ 10.244.1.5 . 10.244.2.6 timeout 1h }'")
	command(t, h, "nft add element "+table+" translated6 '{ fd00:10:244:1::5 . fd00:10:244:2::6 timeout 1h }'")
	learnt := func(when string) {
		t.Helper()
		got := list(t, h)
		for _, pair := range []string{"10.244.1.5 . 10.244.2.6", "fd00:10:244:1::5 . fd00:10:244:2::6"} {
			if !strings.Contains(got, pair) {
				t.Errorf("%s: forgot %s", when, pair)
			}
		}
	}
	learnt("before")
	command(t, h, "nft flush table "+table)
	apply(t, h, firewall.Nftables, r)
	learnt("flushed")
	for name, changed := range variants() {
		if name == "ipv4" || name == "ipv6" {
			continue // there the other family has no set any more
		}
		apply(t, h, firewall.Nftables, changed)
		learnt(name)
	}
}

// From any rules to any others, the table becomes what it would have been from
// nothing.
func TestNFTablesFollowsTheRules(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	fresh := map[string]string{}
	for name, r := range variants() {
		apply(t, h, firewall.Nftables, r)
		fresh[name] = list(t, h)
		remove(t, h, firewall.Nftables, r)
	}
	for from, before := range variants() {
		for to, after := range variants() {
			apply(t, h, firewall.Nftables, before)
			apply(t, h, firewall.Nftables, after)
			if got := list(t, h); got != fresh[to] {
				t.Errorf("from %s to %s:\n%s", from, to, got)
			}
		}
	}
}

func TestNFTablesLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	command(t, h, "nft add table inet overlay-cni-other; nft add chain inet overlay-cni-other prerouting '{ type filter hook prerouting priority raw; }'")
	command(t, h, "nft add table ip overlay-cni-pods; nft add chain ip overlay-cni-pods output; nft add rule ip overlay-cni-pods output counter")
	command(t, h, "nft add table ip nat; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 100; }'; nft add rule ip nat POSTROUTING oifname foo masquerade")
	before := command(t, h, "nft list ruleset")
	r := dualStack()
	remove(t, h, firewall.Nftables, r) // of what isn't there
	apply(t, h, firewall.Nftables, r)
	second := dualStack()
	second.Network, second.CIDRs = "second", prefixes("10.245.0.0/16")
	second.VTEPs = []netip.Addr{netip.MustParseAddr("10.245.1.0")}
	apply(t, h, firewall.Nftables, second)
	apply(t, h, firewall.Nftables, r)
	remove(t, h, firewall.Nftables, r)
	remove(t, h, firewall.Nftables, second)
	if after := command(t, h, "nft list ruleset"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// Names as long as they may be stay apart.
func TestNFTablesLongNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, end := range []string{"a", "b"} {
		r := dualStack()
		r.Network = strings.Repeat("x", 62) + end
		apply(t, h, firewall.Nftables, r)
		apply(t, h, firewall.Iptables, r)
	}
	if n := strings.Count(command(t, h, "iptables -t raw -S"), "-N OVERLAY-RAW-xxx"); n != 2 {
		t.Errorf("%d chains, want 2", n)
	}
}
