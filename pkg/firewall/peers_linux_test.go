package firewall_test

// The set of peers: written by the element, and left alone otherwise.

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// texts are changes as people see them, sorted.
func texts(changes []reconcile.Change) (found []string) {
	for _, c := range changes {
		found = append(found, c.String())
	}
	slices.Sort(found)
	return found
}

func TestPeersAreRestored(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := dualStack()
	apply(t, h, firewall.Nftables, r)
	want := list(t, h)
	const missing, unexpected = "missing: element " + table + " peers4 { ", "unexpected: element " + table + " peers4 { "
	for line, changes := range map[string][]string{
		"nft flush set " + table + " peers4":                                                                {missing + "172.30.1.11 }", missing + "172.30.2.10 }"},
		"nft delete element " + table + " peers4 '{ 172.30.1.11 }'":                                         {missing + "172.30.1.11 }"},
		"nft add element " + table + " peers4 '{ 172.30.9.9 }'":                                             {unexpected + "172.30.9.9 }"},
		"nft add element " + table + " strangers4 '{ 172.30.9.9 }'; nft flush set " + table + " strangers4": nil,
	} {
		command(t, h, line)
		if made := texts(apply(t, h, firewall.Nftables, r)); !slices.Equal(made, changes) {
			t.Errorf("%s: changes: %q", line, made)
		}
		if got := list(t, h); got != want {
			t.Errorf("%s: the table is now\n%s", line, got)
		}
	}
}

// TestPeersComeFirst: a table is never there without its peers.
func TestPeersComeFirst(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, before := range []string{"", "nft delete table " + table, "nft flush table " + table + "; nft delete set " + table + " peers4"} {
		command(t, h, before)
		made := apply(t, h, firewall.Nftables, dualStack())
		if _, ok := made[len(made)-1].Want.(firewall.Table); !ok || len(made) != 3 {
			t.Errorf("after %q: %v", before, made)
		}
	}
}

// Rules that change keep the peers, and what is changed of these leaves the rules.
func TestPeersOutliveRules(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := dualStack()
	apply(t, h, firewall.Nftables, r)
	r.Exclude = prefixes("192.0.2.0/24")
	if made := apply(t, h, firewall.Nftables, r); len(made) != 1 || tables(made) != 1 {
		t.Errorf("changes of rules: %v", made)
	}
	if got := list(t, h); !strings.Contains(got, "172.30.1.11, 172.30.2.10") {
		t.Errorf("peers are lost:\n%s", got)
	}
	r.Peers = addresses("172.30.1.11", "172.30.2.11", "172.30.2.11") // two leases may have one address
	made := texts(apply(t, h, firewall.Nftables, r))
	if !slices.Equal(made, []string{"missing: element " + table + " peers4 { 172.30.2.11 }", "unexpected: element " + table + " peers4 { 172.30.2.10 }"}) {
		t.Errorf("changes of peers: %q", made)
	}
	r.Peers = nil
	if left := len(apply(t, h, firewall.Nftables, r)); left != 2 {
		t.Errorf("%d changes for the last two", left)
	}
}

// TestManyPeers measures too.
func TestManyPeers(t *testing.T) {
	t.Parallel()
	const count = 10000
	for name, from := range map[string]netip.Addr{"IPv4": netip.MustParseAddr("10.1.0.0"), "IPv6": netip.MustParseAddr("fd00:1::")} {
		h := newHost(t)
		r := dualStack()
		r.Underlay, r.Peers = from, nil
		for a := from.Next(); len(r.Peers) < count; a = a.Next() {
			r.Peers = append(r.Peers, a)
		}
		once := func(what string, changes int) {
			t.Helper()
			var made []reconcile.Change
			began := time.Now()
			err := h.Do(func() (err error) {
				made, err = with(firewall.Nftables).Reconcile(t.Context(), r)
				return err
			})
			if err != nil || len(made) != changes {
				t.Errorf("%s: %d changes, want %d: %v", what, len(made), changes, err)
			}
			t.Logf("%s, %s: %s", name, what, time.Since(began).Round(100*time.Microsecond))
		}
		once("all from nothing", count+1)
		once("nothing changed", 0)
		last := r.Peers[count-1]
		r.Peers = r.Peers[:count-1]
		once("one has left", 1)
		r.Peers = append(r.Peers, last)
		once("one has joined", 1)
		r.Exclude = nil
		once("other rules", 1)
		began := time.Now()
		if err := h.Do(func() error { _, err := with(firewall.Nftables).Check(t.Context(), r); return err }); err != nil {
			t.Error(err)
		}
		t.Logf("%s, the table alone is checked: %s", name, time.Since(began).Round(100*time.Microsecond))
		r.Peers = nil
		once("all have left", count)
	}
}
