package config

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// Daemon is the configuration of overlayd.
type Daemon struct {
	Node  Node
	Store Store
	// Health is where /healthz and /readyz are served.
	Health netip.AddrPort
	// LeaseTTL is how long a lease lasts without being renewed.
	LeaseTTL time.Duration
	// LeaseGrace is how long a block of a pool stays after its last pod.
	LeaseGrace time.Duration
	// Networks that the node serves; none: those of the store.
	Networks []lease.Network
	Warnings []string
}

// DefaultHealth is where health is served unless said otherwise.
const DefaultHealth = "127.0.0.1:9480"

// MinLeaseTTL leaves room for renewals that fail.
const MinLeaseTTL = 10 * time.Second

// ParseDaemon reads the daemon's configuration, as JSON.
func ParseDaemon(data []byte) (*Daemon, error) {
	c := &Daemon{
		Node:     Node{RunDir: DefaultRunDir, DataDir: DefaultDataDir},
		Health:   netip.MustParseAddrPort(DefaultHealth),
		LeaseTTL: lease.DefaultTTL, LeaseGrace: lease.DefaultGrace,
	}
	d := decode(data, &c.Warnings)
	parseNode(d, &c.Node)
	c.Store = Store{Dir: c.Node.StoreDir()}
	c.Store.parse(d)
	c.parseHealth(d)
	c.parseLease(d)
	c.parseNetworks(d)
	return c, d.finish()
}

func (c *Daemon) parseHealth(d *decoder) {
	var text string
	if !field(d, "health", "an address and port", &text) {
		return
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		d.fail("health", []byte(text), "is not an address and port such as %s", DefaultHealth)
	}
	c.Health = a
}

func (c *Daemon) parseLease(d *decoder) {
	l, ok := d.object("lease")
	if !ok {
		return
	}
	duration(l, "ttl", MinLeaseTTL, &c.LeaseTTL)
	duration(l, "grace", 0, &c.LeaseGrace)
	d.join(l.finish())
}

func (c *Daemon) parseNetworks(d *decoder) {
	var raws []json.RawMessage
	if !field(d, "networks", "a list of networks", &raws) {
		return
	}
	if len(raws) == 0 {
		d.fail("networks", []byte("[]"), "names no network; leave it out to serve those of the store")
	}
	for i, raw := range raws {
		sub := &decoder{path: fmt.Sprintf("networks[%d].", i), warnings: d.warnings}
		if err := json.Unmarshal(raw, &sub.fields); err != nil {
			d.fail(fmt.Sprintf("networks[%d]", i), raw, "is not an object")
			return
		}
		n, err := network(sub, "")
		if err == nil {
			err = c.conflict(i, &n)
		}
		if err != nil {
			d.join(err)
			return
		}
		c.Networks = append(c.Networks, n)
	}
}

// conflict says why network i can't be had beside the ones before it.
func (c *Daemon) conflict(i int, n *lease.Network) error {
	path := fmt.Sprintf("networks[%d].", i)
	for j := range c.Networks {
		if c.Networks[j].Name == n.Name {
			return lease.Invalid(path+"name", n.Name, "is also the name of networks[%d]", j)
		}
		if err := n.ConflictsWith(&c.Networks[j]); err != nil {
			return within(path, err)
		}
	}
	return nil
}
