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
	// Ledger is the file of the network's ledger, HostLocal the directory in
	// which upstream's host-local keeps a file for each address.
	Ledger, HostLocal string
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

// hostLocalDir is where host-local keeps its files unless told otherwise.
const hostLocalDir = "/var/lib/cni/networks"

// validateCNIName checks a name by the CNI specification's own rule, which
// leaves more room than that of our networks.
func validateCNIName(path, name string) error {
	alphanumeric := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	}
	odd := strings.ContainsFunc(name, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("_.-", r) })
	if name == "" || odd || !alphanumeric(rune(name[0])) {
		return lease.Invalid(path, name, "must begin with a letter or digit, and go on with these, '_', '.' and '-'")
	}
	return nil
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
		d.join(validateCNIName("name", c.Name))
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
	directory(d, "dataDir", &dataDir)
	c.Ledger = filepath.Join(DefaultDataDir, "ipam", c.Name+".ledger")
	c.HostLocal = filepath.Join(hostLocalDir, c.Name)
	if dataDir != "" {
		c.Ledger = filepath.Join(dataDir, c.Name, "ledger")
		c.HostLocal = filepath.Join(dataDir, c.Name)
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
