package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// IPAM is a network configuration as overlay-ipam reads it: that of the plugin
// which delegates to it, with an "ipam" section in the format of host-local.
type IPAM struct {
	CNIVersion string
	Name       string
	// Ledger is the file of the network's ledger.
	Ledger string
	// Sets are what an attachment gets one address each from; Subnets says
	// for each range of them what the result says besides the address.
	Sets    []ipam.RangeSet
	Subnets []Subnet
	Routes  []*types.Route
	// ResolvConf is a file to take the result's DNS from.
	ResolvConf       string
	Addresses        []netip.Addr
	PrevResult       map[string]any
	ValidAttachments []types.GCAttachment
	Warnings         []string
}

// Subnet is what a range is part of.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
}

// SubnetOf returns the subnet of an address.
func (c *IPAM) SubnetOf(a netip.Addr) (Subnet, bool) {
	for _, s := range c.Subnets {
		if s.Prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}

// ParseIPAM reads a network configuration and CNI_ARGS.
func ParseIPAM(stdin []byte, args string) (*IPAM, error) {
	c := &IPAM{}
	request := &Plugin{}
	d := decode(stdin, &c.Warnings)
	field(d, "cniVersion", "a string", &c.CNIVersion)
	if !field(d, "name", "a string", &c.Name) {
		d.fail("name", nil, "is missing")
	}
	if d.err == nil {
		d.join(lease.ValidateName("name", c.Name))
	}
	field(d, "prevResult", "an object", &c.PrevResult)
	c.ValidAttachments = attachments(d)
	request.parseRequest(d)
	if section, ok := d.object("ipam"); ok {
		c.parseSection(section)
		d.join(section.finish("type"))
	} else {
		d.fail("ipam", nil, "is missing")
	}
	if d.err != nil { // other fields are the delegating plugin's
		return nil, d.err
	}
	err := request.parseArgs(args)
	c.Addresses = request.Addresses
	return c, err
}

func (c *IPAM) parseSection(d *decoder) {
	dataDir := ""
	if field(d, "dataDir", "a path", &dataDir) && !filepath.IsAbs(dataDir) {
		d.fail("dataDir", []byte(dataDir), "must be an absolute path")
	}
	c.Ledger = filepath.Join(DefaultDataDir, "ipam", c.Name+".ledger")
	if dataDir != "" {
		c.Ledger = filepath.Join(dataDir, c.Name, "ledger")
	}
	field(d, "resolvConf", "a path", &c.ResolvConf)
	field(d, "routes", "a list of routes", &c.Routes)
	c.parseRanges(d)
}

// rawRange is a range as host-local's configuration has it.
type rawRange struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

// parseRanges reads "ranges", and the single range of older configurations
// whose fields stand in the section itself.
func (c *IPAM) parseRanges(d *decoder) {
	var single rawRange
	var sets [][]rawRange
	field(d, "subnet", "a CIDR", &single.Subnet)
	field(d, "rangeStart", "an IP address", &single.RangeStart)
	field(d, "rangeEnd", "an IP address", &single.RangeEnd)
	field(d, "gateway", "an IP address", &single.Gateway)
	field(d, "ranges", "a list of lists of ranges", &sets)
	if single.Subnet != "" {
		c.addSet(d, d.path, []rawRange{single})
	}
	for i, set := range sets {
		c.addSet(d, fmt.Sprintf("%sranges[%d]", d.path, i), set)
	}
	if len(c.Sets) == 0 {
		d.fail("ranges", nil, "at least one range, or a subnet, is needed")
	}
}

func (c *IPAM) addSet(d *decoder, path string, raws []rawRange) {
	var set ipam.RangeSet
	for i, raw := range raws {
		at := path
		if !strings.HasSuffix(at, ".") {
			at = fmt.Sprintf("%s[%d].", path, i)
		}
		r, s, err := parseRange(at, raw)
		if err != nil {
			d.join(err)
			return
		}
		set = append(set, r)
		c.Subnets = append(c.Subnets, s)
	}
	if len(set) == 0 {
		d.join(lease.Invalid(path, "[]", "has no range"))
	}
	c.Sets = append(c.Sets, set)
}

// parseRange completes a range as host-local does: from the second address to
// the last but the broadcast address, without the gateway, which is the first.
func parseRange(path string, raw rawRange) (ipam.Range, Subnet, error) {
	p, err := netip.ParsePrefix(raw.Subnet)
	if err != nil {
		return ipam.Range{}, Subnet{}, lease.Invalid(path+"subnet", raw.Subnet, "is not a CIDR such as 10.1.0.0/24")
	}
	f := lease.FamilyOf(p.Addr())
	if p != p.Masked() || p.Bits() > f.Bits()-2 {
		return ipam.Range{}, Subnet{}, lease.Invalid(path+"subnet", raw.Subnet,
			"must be a network with at least four addresses; did you mean %s?", netip.PrefixFrom(p.Addr(), min(p.Bits(), f.Bits()-2)).Masked())
	}
	s := Subnet{Prefix: p, Gateway: p.Addr().Next()}
	r := ipam.Range{First: p.Addr().Next(), Last: lease.Last(p)}
	if f == lease.IPv4 {
		r.Last = r.Last.Prev()
	}
	for _, at := range []struct {
		name, text string
		into       *netip.Addr
	}{{"gateway", raw.Gateway, &s.Gateway}, {"rangeStart", raw.RangeStart, &r.First}, {"rangeEnd", raw.RangeEnd, &r.Last}} {
		if at.text == "" {
			continue
		}
		a, err := netip.ParseAddr(at.text)
		if err != nil || !p.Contains(a) {
			return ipam.Range{}, Subnet{}, lease.Invalid(path+at.name, at.text, "is not an address of subnet %s", p)
		}
		*at.into = a
	}
	if r.Last.Less(r.First) {
		return ipam.Range{}, Subnet{}, lease.Invalid(path+"rangeEnd", raw.RangeEnd, "is before rangeStart %s", r.First)
	}
	r.Exclude = []netip.Prefix{netip.PrefixFrom(s.Gateway, s.Gateway.BitLen())}
	return r, s, nil
}
