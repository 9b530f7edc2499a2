package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// rawRange is a range as host-local's configuration has it.
type rawRange struct {
	path                                  string
	subnet, rangeStart, rangeEnd, gateway string
	// exclude is our own addition: CIDRs, or addresses, never given out.
	exclude []string
}

// isEmpty says whether no field was given.
func (r *rawRange) isEmpty() bool {
	return r.subnet == "" && r.rangeStart == "" && r.rangeEnd == "" && r.gateway == "" && r.exclude == nil
}

func readRange(d *decoder) rawRange {
	r := rawRange{path: d.path}
	field(d, "subnet", "a CIDR", &r.subnet)
	field(d, "rangeStart", "an IP address", &r.rangeStart)
	field(d, "rangeEnd", "an IP address", &r.rangeEnd)
	field(d, "gateway", "an IP address", &r.gateway)
	field(d, "exclude", "a list of CIDRs or IP addresses", &r.exclude)
	return r
}

// parseRanges reads "ranges", and the single range of older configurations
// whose fields stand in the section itself.
func (c *IPAM) parseRanges(d *decoder) {
	var sets [][]json.RawMessage
	if single := readRange(d); !single.isEmpty() {
		c.addSet(d, []rawRange{single})
	}
	field(d, "ranges", "a list of lists of ranges", &sets)
	for i, set := range sets {
		path := fmt.Sprintf("%sranges[%d]", d.path, i)
		if len(set) == 0 {
			d.join(lease.Invalid(path, "[]", "has no range"))
		}
		c.addSet(d, readSet(d, path, set))
	}
	if len(c.Sets) == 0 {
		d.fail("ranges", nil, "at least one range, or a subnet, is needed")
	}
}

func readSet(d *decoder, path string, raws []json.RawMessage) []rawRange {
	ranges := make([]rawRange, 0, len(raws))
	for i, raw := range raws {
		at := fmt.Sprintf("%s[%d]", path, i)
		sub := &decoder{path: at + ".", warnings: d.warnings}
		if err := json.Unmarshal(raw, &sub.fields); err != nil {
			d.join(lease.Invalid(at, strings.Trim(string(raw), `"`), "is not an object"))
			return nil
		}
		ranges = append(ranges, readRange(sub))
		d.join(sub.finish())
	}
	return ranges
}

func (c *IPAM) addSet(d *decoder, raws []rawRange) {
	if d.err != nil {
		return
	}
	set := make(ipam.RangeSet, 0, len(raws))
	for _, raw := range raws {
		r, s, err := parseRange(&raw)
		if err == nil {
			err = c.collision(&raw, r, set)
		}
		if err != nil {
			d.join(err)
			return
		}
		set = append(set, r)
		c.Subnets = append(c.Subnets, s)
	}
	c.Sets = append(c.Sets, set)
}

// collision says why a range can't be had beside the ones before it: one
// address would be given twice, or a set would be of two families.
func (c *IPAM) collision(raw *rawRange, r ipam.Range, set ipam.RangeSet) error {
	if len(set) > 0 && set[0].First.Is4() != r.First.Is4() {
		return lease.Invalid(raw.path+"subnet", raw.subnet, "is not of the family of the set's first range, %s", set[0])
	}
	for _, before := range append(c.Sets[:len(c.Sets):len(c.Sets)], set) {
		for _, other := range before {
			if r.First.Compare(other.Last) <= 0 && other.First.Compare(r.Last) <= 0 {
				return lease.Invalid(raw.path+"subnet", raw.subnet, "its range %s overlaps range %s", r, other)
			}
		}
	}
	return nil
}

// parseRange completes a range as host-local does: from the second address to
// the last but the broadcast address, without the gateway, which is the first.
func parseRange(raw *rawRange) (ipam.Range, Subnet, error) {
	p, err := parseSubnet(raw)
	if err != nil {
		return ipam.Range{}, Subnet{}, err
	}
	s := Subnet{Prefix: p, Gateway: p.Addr().Next()}
	r := ipam.Range{First: p.Addr().Next(), Last: lease.Last(p)}
	if p.Addr().Is4() {
		r.Last = r.Last.Prev()
	}
	for _, at := range []struct {
		name, text string
		into       *netip.Addr
	}{{"gateway", raw.gateway, &s.Gateway}, {"rangeStart", raw.rangeStart, &r.First}, {"rangeEnd", raw.rangeEnd, &r.Last}} {
		if at.text == "" {
			continue
		}
		a, err := netip.ParseAddr(at.text)
		if err != nil || !p.Contains(a) {
			return ipam.Range{}, Subnet{}, lease.Invalid(raw.path+at.name, at.text, "is not an address of subnet %s", p)
		}
		*at.into = a
	}
	if r.Last.Less(r.First) && raw.rangeEnd == "" {
		return ipam.Range{}, Subnet{}, lease.Invalid(raw.path+"rangeStart", raw.rangeStart, "is after the range's end %s", r.Last)
	}
	if r.Last.Less(r.First) {
		return ipam.Range{}, Subnet{}, lease.Invalid(raw.path+"rangeEnd", raw.rangeEnd, "is before rangeStart %s", r.First)
	}
	r.Exclude, err = parseExclude(raw, p)
	r.Exclude = append(r.Exclude, netip.PrefixFrom(s.Gateway, s.Gateway.BitLen()))
	return r, s, err
}

func parseExclude(raw *rawRange, subnet netip.Prefix) ([]netip.Prefix, error) {
	excluded := make([]netip.Prefix, 0, len(raw.exclude)+1)
	for i, text := range raw.exclude {
		p, err := netip.ParsePrefix(text)
		if a, addrErr := netip.ParseAddr(text); addrErr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p != p.Masked() || !p.Overlaps(subnet) {
			return nil, lease.Invalid(fmt.Sprintf("%sexclude[%d]", raw.path, i), text, "is not an address or CIDR of subnet %s", subnet)
		}
		excluded = append(excluded, p)
	}
	return excluded, nil
}

func parseSubnet(raw *rawRange) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(raw.subnet)
	mapped := netip.PrefixFrom(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}), 96)
	if err != nil || p.Overlaps(mapped) {
		return p, lease.Invalid(raw.path+"subnet", raw.subnet, "is not a CIDR such as 10.1.0.0/24")
	}
	f := lease.FamilyOf(p.Addr())
	if p != p.Masked() || p.Bits() > f.Bits()-2 {
		return p, lease.Invalid(raw.path+"subnet", raw.subnet,
			"must be a network with at least four addresses; did you mean %s?", netip.PrefixFrom(p.Addr(), min(p.Bits(), f.Bits()-2)).Masked())
	}
	return p, nil
}
