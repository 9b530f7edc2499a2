package lab

// The shape of an underlay: segments, their prefixes and addresses. Pure.

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

const (
	defaultMTU = 1500
	minimumMTU = 1280 // what IPv6 asks of a link

	firstHost = 10 // the router is the first address, hosts start here
)

// A Topology is the underlay of a lab: segments joined by one router. The zero
// value stands for two segments, a and b, with IPv4, IPv6 and an MTU of 1500.
type Topology struct {
	// Segments of the underlay. Empty means the default ones.
	Segments []Segment
	// MTU of the segments which don't set their own. Zero means 1500.
	MTU int
}

// A Segment is one link-layer network of the underlay. Its first addresses are
// the router's.
type Segment struct {
	// Name which hosts are added by.
	Name string
	// IPv4 and IPv6 are the prefixes of the segment. A prefix which isn't set
	// follows from the segment's place k, counted from one: 172.30.k.0/24 and
	// fd00:30:k::/64.
	IPv4, IPv6 netip.Prefix
	// MTU of the segment's links. Zero means the topology's.
	MTU int
}

// complete returns the topology with its defaults filled in, or what is wrong
// with it.
func (t Topology) complete() (Topology, error) {
	if t.MTU == 0 {
		t.MTU = defaultMTU
	}
	segments := t.Segments
	if len(segments) == 0 {
		segments = []Segment{{Name: "a"}, {Name: "b"}}
	}
	if len(segments) > 250 {
		return Topology{}, fmt.Errorf("topology has %d segments, at most 250 are possible", len(segments))
	}
	t.Segments = make([]Segment, len(segments))
	seen := make(map[string]bool, len(segments))
	for i, s := range segments {
		if seen[s.Name] {
			return Topology{}, fmt.Errorf("segment %q: %w", s.Name, ErrExists)
		}
		seen[s.Name] = true
		var err error
		if t.Segments[i], err = s.complete(i+1, t.MTU); err != nil {
			return Topology{}, err
		}
	}
	return t, nil
}

func (s Segment) complete(place, mtu int) (Segment, error) {
	if err := checkName(s.Name); err != nil {
		return Segment{}, fmt.Errorf("segment: %w", err)
	}
	if s.MTU == 0 {
		s.MTU = mtu
	}
	if s.MTU < minimumMTU || s.MTU > 65535 {
		return Segment{}, fmt.Errorf("segment %s: MTU %d is not in %d-65535", s.Name, s.MTU, minimumMTU)
	}
	if !s.IPv4.IsValid() {
		s.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(place), 0}), 24)
	}
	if !s.IPv6.IsValid() {
		s.IPv6 = netip.MustParsePrefix(fmt.Sprintf("fd00:30:%d::/64", place))
	}
	if !s.IPv4.Addr().Is4() || s.IPv4.Bits() > 24 {
		return Segment{}, fmt.Errorf("segment %s: %s is not an IPv4 prefix of at most 24 bits", s.Name, s.IPv4)
	}
	if !s.IPv6.Addr().Is6() || s.IPv6.Addr().Is4In6() || s.IPv6.Bits() > 112 {
		return Segment{}, fmt.Errorf("segment %s: %s is not an IPv6 prefix of at most 112 bits", s.Name, s.IPv6)
	}
	return s, nil
}

// router returns the router's addresses in the segment.
func (s Segment) router() (v4, v6 netip.Prefix) {
	return addressAt(s.IPv4, 1), addressAt(s.IPv6, 1)
}

// host returns the addresses of the segment's nth host, counted from zero.
func (s Segment) host(n int) (v4, v6 netip.Prefix, err error) {
	v4, v6 = addressAt(s.IPv4, firstHost+n), addressAt(s.IPv6, firstHost+n)
	if n > 255-1-firstHost {
		return v4, v6, fmt.Errorf("segment %s is full", s.Name)
	}
	return v4, v6, nil
}

// addressAt returns the nth address of a prefix, for n below 256.
func addressAt(p netip.Prefix, n int) netip.Prefix {
	raw := p.Masked().Addr().AsSlice()
	raw[len(raw)-1] += byte(n)
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, p.Bits())
}

// macFor derives a stable, locally administered unicast address from a name.
func macFor(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// checkName accepts what may stand in a file's name and reads well.
func checkName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789-."
	if name == "" || len(name) > 63 || strings.Trim(name, allowed) != "" || strings.Trim(name, "-.") != name {
		return fmt.Errorf("name %q is not 1 to 63 of the characters a-z, 0-9, dot and dash", name)
	}
	for _, r := range name {
		if !strings.ContainsRune(allowed, r) {
			return fmt.Errorf("name %q has the character %q", name, r)
		}
	}
	return nil
}

// UDPPayload returns the most bytes a UDP datagram to dst carries in one
// unfragmented packet of the given MTU.
func UDPPayload(mtu int, dst netip.Addr) int {
	const udpHeader = 8
	if dst.Unmap().Is4() {
		return mtu - 20 - udpHeader
	}
	return mtu - 40 - udpHeader
}
