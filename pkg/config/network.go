package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// ParseNetwork reads a network's specification, the object that stands in a
// network configuration's "network" or in the daemon's "networks".
func ParseNetwork(name string, data []byte) (lease.Network, []string, error) {
	var warnings []string
	d := decode(data, &warnings)
	n, err := network(d, name)
	return n, warnings, err
}

func network(d *decoder, name string) (lease.Network, error) {
	n := lease.Network{Name: name}
	if name == "" {
		field(d, "name", "a string", &n.Name)
	}
	n.CIDRs = d.prefixes("cidrs")
	n.Pools = pools(d)
	switch {
	case len(n.CIDRs) > 0 && n.Pooled():
		d.fail("pools", []byte(fmt.Sprint(n.Pools[0].CIDR)), "can't stand beside cidrs: each pool has its own")
	case len(n.CIDRs) == 0 && n.Pools != nil && !n.Pooled():
		d.fail("pools", []byte("[]"), "has no pool, and there are no cidrs")
	}
	field(d, "podCIDRs", "true or false", &n.PodCIDRs)
	field(d, "windows", "true or false", &n.Windows)
	field(d, "open", "true or false", &n.Open)
	if lengths, ok := d.objectOf("blockLength", `an object such as {"ipv4": 24, "ipv6": 64}`); ok {
		if v, ok := lengths.number("ipv4", 1, 30); ok {
			n.BlockLength.IPv4 = int(v)
		}
		if v, ok := lengths.number("ipv6", 1, 126); ok {
			n.BlockLength.IPv6 = int(v)
		}
		d.join(lengths.finish())
	}
	if v, ok := d.number("vni", 1, lease.MaxVNI); ok {
		n.VNI = uint32(v)
	}
	if v, ok := d.number("port", 1, math.MaxUint16); ok {
		n.Port = uint16(v)
	}
	n.MTU = mtu(d)
	if m, ok := d.object("masquerade"); ok {
		enabled := true
		field(m, "enabled", "true or false", &enabled)
		n.Masquerade.Disabled = !enabled
		n.Masquerade.Exclude = m.prefixes("exclude")
		d.join(m.finish())
	}
	if err := d.finish(); err != nil {
		return lease.Network{}, err
	}
	n = n.Complete()
	if err := n.Validate(); err != nil {
		return lease.Network{}, within(d.path, err)
	}
	return n, nil
}

// pools reads a list of pools; nil where there is none.
func pools(d *decoder) []lease.Pool {
	var raws []json.RawMessage
	if !field(d, "pools", "a list of pools", &raws) {
		return nil
	}
	found := make([]lease.Pool, 0, len(raws))
	for i, raw := range raws {
		at := fmt.Sprintf("%spools[%d]", d.path, i)
		sub := &decoder{path: at + ".", warnings: d.warnings}
		if err := json.Unmarshal(raw, &sub.fields); err != nil {
			d.join(lease.Invalid(at, strings.Trim(string(raw), `"`), "is not an object"))
			return nil
		}
		found = append(found, pool(sub))
		d.join(sub.finish())
	}
	return found
}

func pool(d *decoder) lease.Pool {
	var p lease.Pool
	var cidr string
	if field(d, "cidr", "a CIDR", &cidr) {
		p.CIDR = d.prefix("cidr", cidr)
	} else {
		d.fail("cidr", nil, "is missing")
	}
	least, most := blockLengths(p.CIDR)
	if v, ok := d.number("blockLength", least, most); ok {
		p.BlockLength = int(v)
	}
	p.NodeSelector = d.texts("nodeSelector")
	return p
}

// blockLengths returns the least and the greatest prefix length that blocks of a
// CIDR can have; of its family, where the CIDR is too small for any.
func blockLengths(cidr netip.Prefix) (least, most int64) {
	least, most = int64(cidr.Bits()), int64(lease.FamilyOf(cidr.Addr()).Bits()-2)
	if least > most {
		least = 1
	}
	return least, most
}

// mtu is a number or "auto".
func mtu(d *decoder) int {
	if string(d.fields["mtu"]) == `"auto"` {
		delete(d.fields, "mtu")
	}
	if raw, ok := d.fields["mtu"]; ok && bytes.HasPrefix(raw, []byte(`"`)) {
		d.fail("mtu", raw, "must be auto, or a number within %d..%d", lease.MinMTUIPv4, lease.MaxMTU)
	}
	v, _ := d.number("mtu", lease.MinMTUIPv4, lease.MaxMTU)
	return int(v)
}

// within puts the path of an object before the field that an error names.
func within(path string, err error) error {
	if f, ok := err.(*lease.FieldError); ok { //nolint:errorlint // Validate returns it unwrapped
		f.Field = path + f.Field
	}
	return err
}
