package lab

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func TestTopologyDefaults(t *testing.T) {
	t.Parallel()
	got, err := Topology{}.complete()
	if err != nil {
		t.Fatal(err)
	}
	want := []Segment{
		{Name: "a", IPv4: netip.MustParsePrefix("172.30.1.0/24"), IPv6: netip.MustParsePrefix("fd00:30:1::/64"), MTU: 1500},
		{Name: "b", IPv4: netip.MustParsePrefix("172.30.2.0/24"), IPv6: netip.MustParsePrefix("fd00:30:2::/64"), MTU: 1500},
	}
	if !slices.Equal(got.Segments, want) {
		t.Errorf("got %+v, want %+v", got.Segments, want)
	}
	v4, v6 := want[1].router()
	if v4.String() != "172.30.2.1/24" || v6.String() != "fd00:30:2::1/64" {
		t.Errorf("router has %s and %s", v4, v6)
	}
	v4, v6, err = want[1].host(1)
	if v4.String() != "172.30.2.11/24" || v6.String() != "fd00:30:2::b/64" || err != nil {
		t.Errorf("second host has %s and %s: %v", v4, v6, err)
	}
	if _, _, err := want[0].host(245); err == nil {
		t.Error("the broadcast address was given to a host")
	}
}

func TestTopologyErrors(t *testing.T) {
	t.Parallel()
	for what, topology := range map[string]Topology{
		"small MTU":      {MTU: 1279},
		"large MTU":      {MTU: 65536},
		"no name":        {Segments: []Segment{{}}},
		"two of a name":  {Segments: []Segment{{Name: "a"}, {Name: "a"}}},
		"IPv4 too long":  {Segments: []Segment{{Name: "a", IPv4: netip.MustParsePrefix("10.0.0.0/25")}}},
		"IPv6 too long":  {Segments: []Segment{{Name: "a", IPv6: netip.MustParsePrefix("fd00::/120")}}},
		"wrong families": {Segments: []Segment{{Name: "a", IPv4: netip.MustParsePrefix("fd00::/64")}}},
		"too many":       {Segments: make([]Segment, 251)},
	} {
		if _, err := topology.complete(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	_, err := Topology{Segments: []Segment{{Name: "a"}, {Name: "a"}}}.complete()
	if !errors.Is(err, ErrExists) {
		t.Errorf("two of a name: %v, want %v", err, ErrExists)
	}
}

func TestMACIsStable(t *testing.T) {
	t.Parallel()
	mac := macFor("n1")
	if mac.String() != macFor("n1").String() || mac.String() == macFor("n2").String() {
		t.Error("the address doesn't follow from the name")
	}
	if mac[0]&1 != 0 || mac[0]&2 == 0 {
		t.Errorf("%s is not a locally administered unicast address", mac)
	}
}

func TestUDPPayload(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]int{"192.0.2.1": 1472, "2001:db8::1": 1452, "::ffff:192.0.2.1": 1472} {
		if got := UDPPayload(1500, netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %d, want %d", addr, got, want)
		}
	}
}

func TestSnapshotDiff(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct{ before, after, want Snapshot }{
		"equal":      {Snapshot{"a", "b"}, Snapshot{"b", "a"}, nil},
		"new":        {Snapshot{"a"}, Snapshot{"a", "b"}, Snapshot{"+ b"}},
		"gone":       {Snapshot{"a", "b"}, Snapshot{"b"}, Snapshot{"- a"}},
		"changed":    {Snapshot{"a", "c"}, Snapshot{"b", "c"}, Snapshot{"- a", "+ b"}},
		"twice":      {Snapshot{"a"}, Snapshot{"a", "a"}, Snapshot{"+ a"}},
		"from empty": {nil, Snapshot{"a"}, Snapshot{"+ a"}},
	} {
		if got := c.before.Diff(c.after); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}
