package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// IPAM is a network configuration as overlay-ipam reads it: that of the plugin
// which delegates to it, with an "ipam" section that says where addresses come
// from: ranges of this node's in the format of host-local, an address space that
// all nodes share, or the node's blocks of an overlay network.
type IPAM struct {
	CNIVersion string
	Name       string
	// Ledger is the file of the network's ledger, HostLocal the directory in
	// which upstream's host-local keeps a file for each address.
	Ledger, HostLocal string
	// Shared is set where the ranges are shared by all nodes.
	Shared *Shared
	// Overlay is set where the addresses are those of the overlay network of
	// this CNI network's name: the node's directories.
	Overlay *Node
	// Cooldown is how long a freed address of the overlay network isn't given
	// again while there is another.
	Cooldown time.Duration
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

// Shared is how a node claims addresses of a space that all nodes share.
type Shared struct {
	Node Node
	// StoreDir is where the embedded store is, in which the nodes claim.
	StoreDir string
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
	field(d, "resolvConf", "a path", &c.ResolvConf)
	field(d, "routes", "a list of routes", &c.Routes)
	for i, r := range c.Routes {
		if r == nil || r.Dst.IP == nil {
			d.fail(fmt.Sprintf("routes[%d].dst", i), nil, "is missing")
		}
	}
	raw := d.fields["network"]
	var network string
	switch sub, ok := d.object("shared"); {
	case ok && raw != nil:
		d.fail("network", raw, `must not stand beside "shared": addresses come from the one or the other`)
	case ok:
		c.parseShared(d, sub)
	case field(d, "network", "a name", &network):
		c.parseOverlay(d, network)
	default:
		c.parseHostLocal(d)
	}
}

// parseHostLocal reads what host-local has.
func (c *IPAM) parseHostLocal(d *decoder) {
	dataDir := ""
	absolutePath(d, "dataDir", &dataDir)
	c.Ledger = filepath.Join(DefaultDataDir, "ipam", c.Name+".ledger")
	c.HostLocal = filepath.Join(hostLocalDir, c.Name)
	if dataDir != "" {
		c.Ledger = filepath.Join(dataDir, c.Name, "ledger")
		c.HostLocal = filepath.Join(dataDir, c.Name)
	}
	c.parseRanges(d)
}

// parseShared reads "shared", and the fields beside it.
func (c *IPAM) parseShared(d, shared *decoder) {
	noRanges(d, "shared")
	s := &Shared{Node: Node{DataDir: DefaultDataDir}}
	absolutePath(d, "dataDir", &s.Node.DataDir)
	s.Node.Name = nodeName(d)
	s.StoreDir = s.Node.StoreDir()
	localStore(shared, &s.StoreDir)
	c.parseRanges(shared)
	d.join(shared.finish())
	c.Ledger = filepath.Join(s.Node.DataDir, "shared", c.Name+".ledger")
	c.Shared = s
}

// parseOverlay reads the fields beside "network".
func (c *IPAM) parseOverlay(d *decoder, network string) {
	noRanges(d, "network")
	n := &Node{RunDir: DefaultRunDir, DataDir: DefaultDataDir}
	absolutePath(d, "runDir", &n.RunDir)
	absolutePath(d, "dataDir", &n.DataDir)
	c.Cooldown = DefaultCooldown
	duration(d, "cooldown", 0, &c.Cooldown)
	d.join(lease.ValidateName(d.path+"network", network))
	if network != c.Name {
		// GC would take the attachments of the network's other CNI networks for
		// stale ones of this.
		d.fail("network", []byte(network), "must be the CNI network's name, %s", c.Name)
	}
	c.Ledger = n.LedgerPath(network)
	c.Overlay = n
}

// noRanges refuses the fields of host-local where addresses come from elsewhere.
func noRanges(d *decoder, instead string) {
	for _, name := range []string{"ranges", "subnet", "rangeStart", "rangeEnd", "gateway", "exclude"} {
		if raw, ok := d.take(name); ok {
			d.fail(name, raw, "must not stand beside %q", instead)
		}
	}
}
