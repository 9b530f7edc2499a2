package lease

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

const (
	goodKey   = "leases/pods/10.244.3.0-24"
	goodLease = `{"network":"pods","block":"10.244.3.0/24","node":"a","vtep":{"underlay":["192.0.2.1"],"mac":"0e:00:00:00:00:01"}}`
)

func TestDecodeLease(t *testing.T) {
	t.Parallel()
	edit := strings.NewReplacer
	for _, test := range []struct {
		name string
		key  string
		edit *strings.Replacer
		want string // of the error; "": none
	}{
		{"as it is written", goodKey, edit(), ""},
		{"with fields of a later version", goodKey, edit(`{"network"`, `{"zone":"b","network"`), ""},
		{"copied to another block's key", "leases/pods/10.244.4.0-24", edit(), "about block 10.244.3.0/24"},
		{"copied to another network's key", "leases/other/10.244.3.0-24", edit(), `network "pods"`},
		{"cut off", goodKey, edit(`"}}`, ``), "unexpected end"},
		{"empty", goodKey, edit(goodLease, ``), "unexpected end"},
		{"null", goodKey, edit(goodLease, `null`), "invalid Prefix"},
		{"another type", goodKey, edit(`"10.244.3.0/24"`, `7`), "cannot unmarshal"},
		{"no block", goodKey, edit(`"10.244.3.0/24"`, `""`), "invalid Prefix"},
		{"a block that isn't one", "leases/pods/10.244.3.7-24", edit(`3.0/24`, `3.7/24`), "did you mean 10.244.3.0/24"},
		{"an IPv4-mapped block", "leases/pods/::ffff:10.244.3.0-120", edit(`10.244.3.0/24`, `::ffff:10.244.3.0/120`), "is not a CIDR"},
		{"no node", goodKey, edit(`"node":"a"`, `"node":""`), "no node"},
		{"no MAC", goodKey, edit(`0e:00:00:00:00:01`, ``), "incomplete"},
		{"a multicast MAC", goodKey, edit(`0e:`, `01:`), "incomplete"},
		{"no underlay address", goodKey, edit(`"192.0.2.1"`, ``), "incomplete"},
		{"an empty underlay address", goodKey, edit(`192.0.2.1`, ``), "incomplete"},
		{"a wrong underlay address", goodKey, edit(`192.0.2.1`, `192.0.2`), "IPv4 address too short"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l, err := decodeLease(test.key, []byte(test.edit.Replace(goodLease)))
			switch {
			case test.want == "" && (err != nil || l.Node != "a"):
				t.Errorf("got %+v, %v", l, err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.key)):
				t.Errorf("got error %v, want one with %q and %q", err, test.want, test.key)
			}
		})
	}
}

func TestLeaseKey(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]string{
		"10.244.3.0/24":       "leases/pods/10.244.3.0-24",
		"fd00:10:244:7::/64":  "leases/pods/fd00:10:244:7::-64",
		"fd00::/122":          "leases/pods/fd00::-122",
		"2001:db8:1:2:3::/80": "leases/pods/2001:db8:1:2:3::-80",
	} {
		l := Lease{Network: "pods", Block: netip.MustParsePrefix(block)}
		if l.Key() != want {
			t.Errorf("the key of %s is %s, want %s", block, l.Key(), want)
		}
		if err := store.ValidateKey(l.Key()); err != nil {
			t.Error(err)
		}
	}
}

func TestLeaseExpired(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	for _, test := range []struct {
		name    string
		expires time.Time
		want    bool
	}{
		{"one that never expires", time.Time{}, false},
		{"a nanosecond before", at.Add(1), false},
		{"at its end", at, true},
		{"after", at.Add(-1), true},
	} {
		if l := (Lease{Expires: test.expires}); l.Expired(at) != test.want {
			t.Errorf("%s: expired should be %t", test.name, test.want)
		}
	}
}

func TestVTEP(t *testing.T) {
	t.Parallel()
	v := VTEP{Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, MAC: ether.Addr{0x0e}}
	if v.UnderlayOf(IPv4) != v.Underlay[0] || v.UnderlayOf(IPv6) != v.Underlay[1] {
		t.Error("the address of a family is another's")
	}
	single := VTEP{Underlay: v.Underlay[:1], MAC: v.MAC}
	if single.UnderlayOf(IPv6).IsValid() {
		t.Error("an IPv4 VTEP has an IPv6 address")
	}
	other := VTEP{Underlay: v.Underlay, MAC: ether.Addr{0x0e, 1}}
	if !v.Equal(&v) || v.Equal(&single) || v.Equal(&other) {
		t.Error("Equal is wrong")
	}
}

// TestFresh: a lease is renewed when between two thirds and half of its life are
// left, and when it lasts longer than it should.
func TestFresh(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	const year = 365 * 24 * time.Hour
	for _, test := range []struct {
		name    string
		ttl     time.Duration
		expires time.Time
		want    bool
	}{
		{"just written", time.Hour, at.Add(time.Hour), true},
		{"just over two thirds left", time.Hour, at.Add(40*time.Minute + 1), true},
		{"less than half left", time.Hour, at.Add(30*time.Minute - 1), false},
		{"expired", time.Hour, at.Add(-1), false},
		{"longer than the TTL, which was shortened", time.Hour, at.Add(time.Hour + 1), false},
		{"without end, though there is a TTL now", time.Hour, time.Time{}, false},
		{"without end, as it should be", 0, time.Time{}, true},
		{"with an end, though there is no TTL any more", 0, at.Add(time.Hour), false},
		{"a TTL of 200 years, just written", 200 * year, at.Add(200 * year), true},
		{"a TTL of 200 years, nearly over", 200 * year, at.Add(year), false},
	} {
		r := Registry{TTL: test.ttl, Now: func() time.Time { return at }}
		if r.fresh("leases/pods/10.244.0.0-24", test.expires) != test.want {
			t.Errorf("%s: fresh should be %t", test.name, test.want)
		}
	}
}

// TestRenewalsAreSpread: of nodes that claimed their blocks at one time, no more
// than a few renew them at one time.
func TestRenewalsAreSpread(t *testing.T) {
	t.Parallel()
	const ttl, blocks, steps = 24 * time.Hour, 10_000, 100
	var now time.Time
	r := Registry{TTL: ttl, Now: func() time.Time { return now }}
	claimed := time.Unix(1_700_000_000, 0)
	renewed, all := map[int]bool{}, 0
	for step := range steps + 1 {
		now = claimed.Add(ttl/3 + ttl/renewalSpread/steps*time.Duration(step))
		due := 0
		for i := range blocks {
			block := blockAt(netip.MustParsePrefix("10.0.0.0/8"), 24, uint64(i))
			l := Lease{Network: "pods", Block: block}
			if !renewed[i] && !r.fresh(l.Key(), claimed.Add(ttl)) {
				renewed[i] = true
				due++
			}
		}
		if due > 3*blocks/steps {
			t.Errorf("%d of %d are renewed at step %d of %d", due, blocks, step, steps)
		}
		all += due
	}
	if all != blocks {
		t.Errorf("%d of %d are renewed by half of their life", all, blocks)
	}
}

// FuzzDecodeLease: what is decoded is a lease that peers can be programmed
// from, under its own key, and comes out the same when it is written again.
func FuzzDecodeLease(f *testing.F) {
	f.Add(goodKey, []byte(goodLease))
	f.Add("leases/pods/fd00::-64", []byte(`{"network":"pods","block":"fd00::/64","node":"b","vtep":{"underlay":["2001:db8::1","192.0.2.2"],"mac":"0e:00:00:00:00:02"},"expires":"2026-01-02T03:04:05Z"}`))
	f.Add("leases//0.0.0.0-0", []byte(`{"block":"0.0.0.0/0"}`))
	f.Add(goodKey, []byte(`null`))
	f.Add(goodKey, []byte(`{"block":{}}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		l, err := decodeLease(key, value)
		if err != nil {
			return
		}
		if l.Key() != key || l.Block != l.Block.Masked() || l.Node == "" || !l.VTEP.MAC.IsValid() || len(l.VTEP.Underlay) == 0 {
			t.Fatalf("accepted %+v", l)
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		same, err := decodeLease(key, again)
		if err != nil || same.Key() != key || !same.VTEP.Equal(&l.VTEP) || !same.Expires.Equal(l.Expires) {
			t.Fatalf("%+v is written as %s and read as %+v, %v", l, again, same, err)
		}
	})
}
