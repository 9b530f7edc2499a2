package config

import (
	"fmt"
	"net/netip"
	"path/filepath"

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
	for i, r := range c.Routes {
		if r == nil || r.Dst.IP == nil {
			d.fail(fmt.Sprintf("routes[%d].dst", i), nil, "is missing")
		}
	}
	c.parseRanges(d)
}
