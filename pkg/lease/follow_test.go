package lease

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// TestRenewalsDontMatter: a change of a lease is told unless it is a renewal of
// one that was in force.
func TestRenewalsDontMatter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	encoded := func(l Lease) []byte {
		value, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	lease := Lease{
		Network: "pods", Block: netip.MustParsePrefix("10.244.1.0/24"), Node: "b", Instance: "1", Expires: now.Add(time.Hour),
		VTEP: VTEP{Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, MAC: ether.Addr{2, 0, 0, 0, 0, 2}},
	}
	renewed := func(l Lease) Lease {
		l.Expires = now.Add(24 * time.Hour)
		return l
	}
	with := func(change func(l *Lease)) Lease {
		l := lease
		change(&l)
		return l
	}
	for name, test := range map[string]struct {
		before, after Lease
		want          bool
	}{
		"renewed":                          {lease, renewed(lease), false},
		"renewed, though it had expired":   {with(func(l *Lease) { l.Expires = now.Add(-time.Minute) }), renewed(lease), false},
		"renewed when it was not in force": {with(func(l *Lease) { l.Expires = now.Add(-2 * DefaultFence) }), renewed(lease), true},
		"another node's":                   {lease, renewed(with(func(l *Lease) { l.Node = "c" })), true},
		"another machine's":                {lease, renewed(with(func(l *Lease) { l.Instance = "2" })), true},
		"another place":                    {lease, renewed(with(func(l *Lease) { l.VTEP.Underlay = []netip.Addr{netip.MustParseAddr("192.0.2.3")} })), true},
		"another Ethernet address":         {lease, renewed(with(func(l *Lease) { l.VTEP.MAC[5] = 3 })), true},
		"another order":                    {lease, renewed(with(func(l *Lease) { l.Index = 1 })), true},
		"notice":                           {lease, with(func(l *Lease) { l.Notice = &Notice{Node: "c"} }), true},
		"notice withdrawn":                 {with(func(l *Lease) { l.Notice = &Notice{Node: "c"} }), renewed(lease), true},
		"one that wasn't listed":           {with(func(l *Lease) { l.Block = netip.MustParsePrefix("10.244.0.0/24") }), renewed(lease), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &Registry{Now: func() time.Time { return now }}
			if _, err := r.decode("pods", []store.Entry{{Key: test.before.Key(), Value: encoded(test.before), Revision: 1}}); err != nil {
				t.Fatal(err)
			}
			event := store.Event{Entry: store.Entry{Key: test.after.Key(), Value: encoded(test.after), Revision: 2}}
			if got := r.matters("pods", event); got != test.want {
				t.Errorf("it matters: %t", got)
			}
			event.Deleted, event.Value = true, nil
			if !r.matters("pods", event) {
				t.Error("its end doesn't matter")
			}
			event.Deleted, event.Value = false, []byte("{")
			if !r.matters("pods", event) {
				t.Error("what can't be read doesn't matter")
			}
		})
	}
}

// TestDecodeOnlyWhatChanged: leases that have the revision that they had aren't
// read again; what is handed out is the caller's.
func TestDecodeOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	r := &Registry{}
	entry := func(block, node string, revision store.Revision) store.Entry {
		l := Lease{Network: "pods", Block: netip.MustParsePrefix(block), Node: node, VTEP: VTEP{
			Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, MAC: ether.Addr{2, 0, 0, 0, 0, 2},
		}}
		value, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		return store.Entry{Key: l.Key(), Value: value, Revision: revision}
	}
	unread := func(e store.Entry) store.Entry {
		e.Value = []byte("not read")
		return e
	}
	a, b, c := entry("10.244.1.0/24", "a", 1), entry("10.244.2.0/24", "b", 2), entry("10.244.3.0/24", "c", 3)
	for i, step := range []struct {
		entries []store.Entry
		want    string
	}{
		{[]store.Entry{a, c}, "ac"},
		{[]store.Entry{unread(a), b, unread(c)}, "abc"},
		{[]store.Entry{unread(a), unread(b), unread(c)}, "abc"},
		{[]store.Entry{unread(b), entry("10.244.3.0/24", "d", 4)}, "bd"},
		{nil, ""},
		{[]store.Entry{b}, "b"},
	} {
		leases, err := r.decode("pods", step.entries)
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		got := ""
		for k := range leases {
			got += leases[k].Node
			leases[k].Node = "changed by the caller"
		}
		if got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}
