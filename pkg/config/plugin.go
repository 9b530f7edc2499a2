package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// IPAMType is the IPAM plugin that runs within ours.
const IPAMType = "overlay-ipam"

// Plugin is a network configuration of overlay-vxlan, as a runtime passes it.
type Plugin struct {
	CNIVersion string
	// Name is that of the CNI network, Network that of the overlay network:
	// the same, unless the configuration says otherwise.
	Name    string
	Network string
	// Spec is the network's specification where no daemon is used.
	Spec *lease.Network
	Node Node
	// IPAM is the type of the IPAM plugin; IPAMType runs in the process.
	IPAM string
	// MAC and Addresses are what the runtime asks for.
	MAC       ether.Addr
	Addresses []netip.Addr
	// Cooldown is how long a freed address isn't given again while there is
	// another.
	Cooldown time.Duration
	// Routes that the pod gets over this interface; nil: all.
	Routes []netip.Prefix
	DNS    types.DNS
	// Raw parts for the CNI library.
	PrevResult       map[string]any
	ValidAttachments []types.GCAttachment
	// Warnings are for the log.
	Warnings []string
}

// Node is where a node keeps what it knows, and how it reaches the others.
type Node struct {
	Name string
	// RunDir holds what a reboot may forget, DataDir what it may not.
	RunDir, DataDir string
	Underlay        string // the interface; "": that of the default route
	Firewall        firewall.Backend
	// Labels are what pools select nodes by.
	Labels map[string]string
}

// Default directories.
const (
	DefaultRunDir  = "/run/overlay-cni"
	DefaultDataDir = "/var/lib/overlay-cni"
)

// StoreDir is where the embedded store is.
func (n *Node) StoreDir() string { return filepath.Join(n.DataDir, "store") }

// LedgerPath is where a network's IPAM ledger is.
func (n *Node) LedgerPath(network string) string {
	return filepath.Join(n.DataDir, "ipam", network+".ledger")
}

// standard lists the fields of a network configuration that aren't for us to
// read: the CNI specification's own, and those that other readers know.
func standard() []string {
	return []string{"type", "capabilities", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "plugins"}
}

// ParsePlugin reads a network configuration, with what the runtime added to it
// and CNI_ARGS.
func ParsePlugin(stdin []byte, args string) (*Plugin, error) {
	c := &Plugin{}
	d := decode(stdin, &c.Warnings)
	field(d, "cniVersion", "a string", &c.CNIVersion)
	if !field(d, "name", "a string", &c.Name) {
		d.fail("name", nil, "is missing")
	}
	field(d, "dns", "a DNS object (nameservers, domain, search, options)", &c.DNS)
	field(d, "prevResult", "an object", &c.PrevResult)
	c.ValidAttachments = attachments(d)
	c.parseNetwork(d)
	c.parseNode(d)
	c.parseIPAM(d)
	c.parseRequest(d)
	if err := d.finish(standard()...); err != nil {
		return nil, err
	}
	return c, c.parseArgs(args)
}

// attachments reads what GC must keep. Before libcni 1.2.1 the field had another
// name, which newer ones still pass as well.
func attachments(d *decoder) []types.GCAttachment {
	var list []types.GCAttachment
	if !field(d, "cni.dev/valid-attachments", "a list of attachments", &list) {
		field(d, "cni.dev/attachments", "a list of attachments", &list)
	}
	return list
}

// parseNetwork reads "network", a name or a specification, and "daemon".
func (c *Plugin) parseNetwork(d *decoder) {
	c.Network = c.Name
	raw := d.fields["network"]
	inline := strings.HasPrefix(string(raw), "{")
	daemon := !inline
	field(d, "daemon", "true or false", &daemon)
	switch {
	case inline && daemon:
		d.fail("network", raw, `must be the name of a network when "daemon" is true: the daemon knows its specification`)
	case !inline && !daemon:
		d.fail("network", raw, `must be the network's specification when "daemon" is false, such as {"cidrs": ["10.244.0.0/16"]}`)
	case inline:
		sub, ok := d.object("network")
		if !ok {
			return
		}
		d.join(lease.ValidateName("name", c.Name)) // which is the network's too
		n, err := network(sub, c.Name)
		d.join(err)
		c.Spec = &n
	default:
		field(d, "network", "a name or an object", &c.Network)
	}
	if d.err != nil {
		return
	}
	if c.Network != c.Name {
		// GC would take one CNI network's attachments for stale ones of the
		// other.
		d.fail("network", []byte(c.Network), "must be the CNI network's name, %s", c.Name)
	}
	d.join(lease.ValidateName("name", c.Name))
}

func (c *Plugin) parseNode(d *decoder) {
	c.Node = Node{RunDir: DefaultRunDir, DataDir: DefaultDataDir}
	parseNode(d, &c.Node)
}

// parseNode reads the fields that the plugin and the daemon have in common.
func parseNode(d *decoder, n *Node) {
	n.Name = nodeName(d)
	n.Labels = d.texts("labels")
	absolutePath(d, "runDir", &n.RunDir)
	absolutePath(d, "dataDir", &n.DataDir)
	if u, ok := d.object("underlay"); ok {
		field(u, "interface", "the name of an interface", &n.Underlay)
		d.join(u.finish())
	}
	var backend string
	field(d, "firewall", "a string", &backend)
	b, err := firewall.ParseBackend(d.path+"firewall", backend)
	n.Firewall = b
	if err != nil {
		d.join(err)
	}
}

// nodeName reads "node", by default the host's name.
func nodeName(d *decoder) string {
	var name string
	if !field(d, "node", "a string", &name) {
		host, err := os.Hostname()
		if err != nil {
			d.join(fmt.Errorf("%snode: not given, and the host's name is unknown: %w", d.path, err))
		}
		name = strings.ToLower(host)
	}
	if d.err == nil {
		d.join(lease.ValidateName(d.path+"node", name))
	}
	return name
}

func absolutePath(d *decoder, name string, into *string) {
	if field(d, name, "a path", into) && !filepath.IsAbs(*into) {
		d.fail(name, []byte(*into), "must be an absolute path")
	}
}

func (c *Plugin) parseIPAM(d *decoder) {
	c.IPAM, c.Cooldown = IPAMType, DefaultCooldown
	sub, ok := d.object("ipam")
	if !ok {
		return
	}
	if !field(sub, "type", "a string", &c.IPAM) || c.IPAM == "" {
		d.join(sub.err)
		d.fail("ipam.type", nil, "is missing")
		return
	}
	if c.IPAM != IPAMType {
		return // the rest is the other plugin's
	}
	c.Routes = routes(sub)
	duration(sub, "cooldown", 0, &c.Cooldown)
	d.join(sub.finish())
}

// DefaultCooldown keeps an address from a new pod while others may still talk
// to the old one.
const DefaultCooldown = 30 * time.Second

// duration reads a field such as "30s".
func duration(d *decoder, name string, least time.Duration, into *time.Duration) {
	var text string
	if !field(d, name, "a duration", &text) {
		return
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < least {
		d.fail(name, []byte(text), "must be a duration such as 30s or 24h, at least %s", least)
	}
	*into = v
}

// routes reads a list of CNI routes; only their destinations matter to us, for
// all go over the same gateway.
func routes(d *decoder) []netip.Prefix {
	var list []struct {
		Dst string `json:"dst"`
	}
	if !field(d, "routes", "a list of routes", &list) {
		return nil
	}
	found := make([]netip.Prefix, 0, len(list))
	for i, r := range list {
		path := fmt.Sprintf("%sroutes[%d].dst", d.path, i)
		p, err := netip.ParsePrefix(r.Dst)
		if err != nil {
			d.join(lease.Invalid(path, r.Dst, "is not a CIDR"))
			return nil
		}
		if err := lease.ValidateCIDR(path, p); err != nil {
			d.join(err)
			return nil
		}
		found = append(found, p)
	}
	return found
}

// parseRequest reads what the runtime asks for: runtimeConfig's ips and mac,
// and args.cni.ips.
func (c *Plugin) parseRequest(d *decoder) {
	if r, ok := d.object("runtimeConfig"); ok {
		var mac string
		if field(r, "mac", "a MAC address", &mac) {
			c.setMAC(r.path+"mac", mac, d)
		}
		c.takeAddresses(r)
		d.join(r.err)
	}
	if a, ok := d.object("args"); ok {
		if cni, ok := a.object("cni"); ok {
			c.takeAddresses(cni)
			d.join(cni.err)
		}
		d.join(a.err)
	}
}

func (c *Plugin) setMAC(path, text string, d *decoder) {
	mac, err := ether.Parse(text)
	if err != nil || !mac.IsValid() {
		d.join(lease.Invalid(path, text, "is not a unicast MAC address"))
		return
	}
	c.MAC = mac
}

func (c *Plugin) takeAddresses(d *decoder) {
	var texts []string
	field(d, "ips", "a list of IP addresses", &texts)
	for i, text := range texts {
		a, err := parseAddress(fmt.Sprintf("%sips[%d]", d.path, i), text)
		if err != nil {
			d.join(err)
			return
		}
		c.Addresses = append(c.Addresses, a)
	}
}

// parseArgs reads CNI_ARGS: "IP=...;MAC=...". Others' keys are theirs.
func (c *Plugin) parseArgs(args string) error {
	if args == "" {
		return nil
	}
	for pair := range strings.SplitSeq(args, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return &ArgsError{lease.Invalid("CNI_ARGS", args, "%q is not KEY=VALUE", pair)}
		}
		switch key {
		case "IP":
			for text := range strings.SplitSeq(value, ",") {
				a, err := parseAddress("CNI_ARGS IP", text)
				if err != nil {
					return &ArgsError{err}
				}
				c.Addresses = append(c.Addresses, a)
			}
		case "MAC":
			d := &decoder{}
			c.setMAC("CNI_ARGS MAC", value, d)
			if d.err != nil {
				return &ArgsError{d.err}
			}
		}
	}
	return nil
}

// ArgsError says that the mistake is in CNI_ARGS, not in the network
// configuration.
type ArgsError struct{ Err error }

// Error implements error.
func (e *ArgsError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *ArgsError) Unwrap() error { return e.Err }
