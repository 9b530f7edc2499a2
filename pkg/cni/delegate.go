package cni

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// delegate is any other IPAM plugin, called as the specification says: with
// our own configuration on its standard input, and our environment.
type delegate struct {
	plugin string
	stdin  []byte
	stderr io.Writer
}

func (d *delegate) add(c *call, _ *nodestate.State) (allocation, error) {
	var a allocation
	output, err := d.run(c, "ADD")
	if err == nil {
		a, err = fromOutput(output)
		err = d.failed("ADD", err)
	}
	if err != nil {
		// Specification 1.1.0, section 4: the upper plugin calls DEL. What
		// that says matters only where ADD's error isn't the plugin's own.
		return allocation{}, errors.Join(err, d.del(c))
	}
	return a, nil
}

func fromOutput(output []byte) (a allocation, err error) {
	raw, err := create.CreateFromBytes(output)
	if err != nil {
		return a, fmt.Errorf("read result: %w", err)
	}
	r, err := types100.NewResultFromResult(raw)
	if err != nil {
		return a, fmt.Errorf("read result: %w", err)
	}
	a.dns = r.DNS
	for _, ip := range r.IPs {
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return a, fmt.Errorf("result has an invalid address %v", ip.Address)
		}
		a.addresses = append(a.addresses, address.Unmap())
	}
	if len(a.addresses) == 0 {
		return a, errors.New("result has no address")
	}
	for _, route := range r.Routes {
		dst, ok := prefix(&route.Dst)
		if !ok {
			return a, fmt.Errorf("result has an invalid route to %v", route.Dst)
		}
		a.routes = append(a.routes, dst)
	}
	return a, nil
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones).Masked(), ok
}

func (d *delegate) del(c *call) error {
	_, err := d.run(c, "DEL")
	return err
}

func (d *delegate) check(c *call, _ []netip.Addr) error {
	_, err := d.run(c, "CHECK")
	return err
}

func (d *delegate) status(c *call, _ *nodestate.State) error {
	_, err := d.run(c, "STATUS")
	return err
}

func (d *delegate) gc(c *call) error {
	_, err := d.run(c, "GC")
	return err
}

func (d *delegate) run(c *call, verb string) ([]byte, error) {
	output, err := execPlugin(c.ctx, d.plugin, verb, d.stdin, d.stderr)
	return output, d.failed(verb, err)
}

// failed names the plugin, and keeps the code of its error.
func (d *delegate) failed(verb string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("IPAM plugin %s: %s: %w", d.plugin, verb, err)
}
