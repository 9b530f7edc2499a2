package firewall_test

// The iptables backend, by nftables and by the old kernel interface.

import (
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// kinds are the two iptables that a node may have, by the end of their names.
func kinds() []string { return []string{"nft", "legacy"} }

// withForeign makes a host whose iptables are in use, with rules of others.
func withForeign(t testing.TB, kind string) *lab.Host {
	t.Helper()
	h := newHost(t)
	for _, tool := range []string{"iptables-" + kind, "ip6tables-" + kind} {
		command(t, h, strings.ReplaceAll(`
			X -w -t raw -A PREROUTING -p udp --dport 53 -j ACCEPT
			X -w -t raw -A OUTPUT -p udp --dport 53 -j ACCEPT
			X -w -t nat -N KUBE-POSTROUTING
			X -w -t nat -A POSTROUTING -j KUBE-POSTROUTING
			X -w -t nat -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
			X -w -P FORWARD DROP
			X -w -A FORWARD -i docker0 -j ACCEPT`, "X", tool))
	}
	return h
}

// save is all that iptables holds, without what changes by itself.
func save(t testing.TB, h *lab.Host, kind string) string {
	t.Helper()
	return command(t, h, "for t in raw nat filter; do iptables-"+kind+"-save -t $t; ip6tables-"+kind+"-save -t $t; done | sed '/^#/d; s/\\[[0-9:]*\\]//'")
}

func TestIPTables(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds() {
		for name, r := range variants() {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				h := withForeign(t, kind)
				before := save(t, h, kind)
				made := apply(t, h, firewall.Iptables, r)
				after := save(t, h, kind)
				golden(t, "iptables-"+name, strings.Join(lines(after, "OVERLAY"), "\n")+"\n")
				if foreign := strings.Join(slices.DeleteFunc(strings.Split(after, "\n"), func(l string) bool {
					return strings.Contains(l, "OVERLAY")
				}), "\n"); foreign != before {
					t.Errorf("before:\n%s\nothers' rules now:\n%s", before, foreign)
				}
				if rest := command(t, h, "nft list tables | grep overlay || true"); rest != "" {
					t.Errorf("nftables has %s", rest)
				}
				if len(made) == 0 {
					t.Error("no changes")
				}
				remove(t, h, firewall.Iptables, r)
				remove(t, h, firewall.Iptables, r)
				if rest := save(t, h, kind); rest != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, rest)
				}
			})
		}
	}
}

func TestIPTablesIsRestored(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"jump deleted":         "IPT -t raw -D OUTPUT -j OVERLAY-RAW-pods",
		"chain emptied":        "IPT -F OVERLAY-FWD-pods",
		"chain deleted":        "IPT -t nat -D POSTROUTING -j OVERLAY-MSQ-pods; IPT -t nat -F OVERLAY-MSQ-pods; IPT -t nat -X OVERLAY-MSQ-pods",
		"table flushed":        "IPT -t raw -F; IPT -t raw -X",
		"rule deleted":         "IPT -t nat -D OVERLAY-MSQ-pods 2",
		"rule added":           "IPT -A OVERLAY-FWD-pods -j DROP",
		"rule inserted":        "IPT -I OVERLAY-FWD-pods -j DROP",
		"rule changed":         "IPT -t raw -R OVERLAY-RAW-pods 1 -p udp --dport 4790 -j CT --notrack",
		"rules in other order": "IPT -t nat -D OVERLAY-MSQ-pods 1; IPT -t nat -A OVERLAY-MSQ-pods -d 10.244.0.0/16 -j RETURN",
	}
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := withForeign(t, kind)
			r := dualStack()
			apply(t, h, firewall.Iptables, r)
			want := lines(save(t, h, kind), "OVERLAY")
			slices.Sort(want)
			for name, line := range tests {
				command(t, h, strings.ReplaceAll(line, "IPT", "iptables-"+kind+" -w"))
				if made := apply(t, h, firewall.Iptables, r); len(made) == 0 {
					t.Errorf("%s: nothing noticed", name)
				}
				got := lines(save(t, h, kind), "OVERLAY")
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("%s: now\n%s", name, strings.Join(got, "\n"))
				}
			}
		})
	}
}

// From any rules to any others, of either backend.
func TestIPTablesFollowsTheRules(t *testing.T) {
	t.Parallel()
	h := withForeign(t, "nft")
	with, without := dualStack(), dualStack()
	without.Masquerade = false
	apply(t, h, firewall.Iptables, with)
	apply(t, h, firewall.Iptables, without)
	if left := lines(save(t, h, "nft"), "MSQ"); len(left) > 0 {
		t.Errorf("still masqueraded: %q", left)
	}
	apply(t, h, firewall.Iptables, with)
	if found := lines(save(t, h, "nft"), "MSQ"); len(found) == 0 {
		t.Error("not masqueraded")
	}
}

// The node's iptables come into use after the network was there.
func TestAutoChangesToLegacy(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := dualStack()
	apply(t, h, firewall.Auto, r)
	if list(t, h) == "" {
		t.Error("no table")
	}
	command(t, h, "iptables-legacy -w -t nat -S")
	apply(t, h, firewall.Auto, r)
	if tables := command(t, h, "nft list tables"); strings.Contains(tables, "overlay-cni") {
		t.Errorf("the rules are there twice: %s", tables)
	}
	if found := lines(save(t, h, "legacy"), "OVERLAY"); len(found) == 0 {
		t.Error("not in iptables-legacy")
	}
	remove(t, h, firewall.Auto, r)
	if left := lines(save(t, h, "legacy"), "OVERLAY"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// With nftables, iptables is written only where it is what drops.
func TestForwardOnlyWhereItMatters(t *testing.T) {
	t.Parallel()
	for _, backend := range []firewall.Backend{firewall.Auto, firewall.Nftables} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			r := dualStack()
			apply(t, h, backend, r)
			if found := lines(command(t, h, "nft list tables"), "table"); len(found) != 1 {
				t.Errorf("tables: %q", found)
			}
			command(t, h, "iptables-nft -P FORWARD DROP")
			before := save(t, h, "nft")
			apply(t, h, backend, r)
			want := []string{":OVERLAY-FWD-pods -", "-A FORWARD -j OVERLAY-FWD-pods", "-A OVERLAY-FWD-pods -s 10.244.0.0/16 -j ACCEPT", "-A OVERLAY-FWD-pods -d 10.244.0.0/16 -j ACCEPT"}
			if found := lines(save(t, h, "nft"), "OVERLAY"); !slices.Equal(found, want) {
				t.Errorf("%q, want %q", found, want)
			}
			remove(t, h, backend, r)
			if after := save(t, h, "nft"); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestDetect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		configured firewall.Backend
		tables     string
		want       firewall.Backend
	}{
		{firewall.Auto, "", firewall.Nftables},
		{firewall.Auto, "\n", firewall.Nftables},
		{firewall.Auto, "nat\n", firewall.Iptables},
		{firewall.Auto, "filter\nraw\n", firewall.Iptables},
		{firewall.Nftables, "filter\n", firewall.Nftables},
		{firewall.Iptables, "", firewall.Iptables},
	} {
		if got := firewall.Detect(tt.configured, tt.tables); got != tt.want {
			t.Errorf("%s with tables %q: %s, want %s", tt.configured, tt.tables, got, tt.want)
		}
	}
	h := newHost(t)
	tables := func() (found string) {
		err := h.Do(func() error {
			found = firewall.LegacyTables(lease.IPv4) + "," + firewall.LegacyTables(lease.IPv6)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if got := tables(); got != "," {
		t.Errorf("a fresh host has legacy tables %q", got)
	}
	command(t, h, "ip6tables-legacy -w -t nat -S")
	if got := tables(); got != ",nat\n" {
		t.Errorf("legacy tables %q, want IPv6's nat", got)
	}
}

func TestParseBackend(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]firewall.Backend{
		"": firewall.Auto, "auto": firewall.Auto, "nftables": firewall.Nftables, "iptables": firewall.Iptables,
	} {
		if got, err := firewall.ParseBackend("firewall", text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	if _, err := firewall.ParseBackend("firewall", "ipvs"); err == nil || !strings.Contains(err.Error(), "auto, nftables or iptables") {
		t.Errorf("%v", err)
	}
}
