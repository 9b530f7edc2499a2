package config

import (
	"fmt"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// ParsePeer reads the specification of an external peer. Its name is in it, unless
// it is given.
func ParsePeer(name string, data []byte) (lease.ExternalPeer, []string, error) {
	var warnings []string
	d := decode(data, &warnings)
	p := lease.ExternalPeer{Name: name}
	if name == "" {
		field(d, "name", "a string", &p.Name)
	}
	field(d, "network", "the name of a network", &p.Network)
	if v, ok := d.objectOf("vtep", `an object such as {"underlay": ["192.0.2.50"], "mac": "0e:00:00:00:00:32"}`); ok {
		p.VTEP = vtep(v)
		d.join(v.finish())
	}
	p.CIDRs = d.prefixes("cidrs")
	if err := d.finish(); err != nil {
		return lease.ExternalPeer{}, warnings, err
	}
	return p, warnings, p.Validate()
}

func vtep(d *decoder) lease.VTEP {
	var v lease.VTEP
	var underlay []string
	field(d, "underlay", "a list of IP addresses", &underlay)
	for i, text := range underlay {
		name := fmt.Sprintf("underlay[%d]", i)
		a, err := netip.ParseAddr(text)
		if err != nil {
			d.fail(name, []byte(text), "is not an IP address")
		}
		v.Underlay = append(v.Underlay, a)
	}
	var mac string
	if !field(d, "mac", "a MAC address", &mac) {
		d.fail("mac", nil, "is missing")
	}
	var err error
	if v.MAC, err = ether.Parse(mac); err != nil {
		d.fail("mac", []byte(mac), "is not a MAC address such as 0e:00:00:00:00:32")
	}
	return v
}
