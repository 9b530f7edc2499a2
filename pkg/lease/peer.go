package lease

import (
	"fmt"
	"net/netip"
	"slices"
)

// ExternalPeer is a VM or an appliance that speaks VXLAN and is no node of ours:
// it has a VTEP in a network, and addresses behind it that pods reach, and that
// reach pods.
type ExternalPeer struct {
	Name    string `json:"name"`
	Network string `json:"network"`
	VTEP    VTEP   `json:"vtep"`
	// CIDRs are the addresses behind the VTEP. They are outside of the CIDRs
	// of all networks, for these are leased by nodes.
	CIDRs []netip.Prefix `json:"cidrs"`
}

// Equal says whether two external peers are alike.
func (p *ExternalPeer) Equal(other *ExternalPeer) bool {
	return p.Name == other.Name && p.Network == other.Network && p.VTEP.Equal(&other.VTEP) && slices.Equal(p.CIDRs, other.CIDRs)
}

// Validate checks the peer by itself. The error is a *FieldError.
func (p *ExternalPeer) Validate() error {
	if err := ValidateName("name", p.Name); err != nil {
		return err
	}
	if err := ValidateName("network", p.Network); err != nil {
		return err
	}
	if err := p.validateVTEP(); err != nil {
		return err
	}
	if len(p.CIDRs) == 0 {
		return Invalid("cidrs", "", "at least one CIDR is needed")
	}
	for i := range p.CIDRs {
		if err := p.validateCIDR(i); err != nil {
			return err
		}
	}
	return nil
}

func (p *ExternalPeer) validateVTEP() error {
	if len(p.VTEP.Underlay) == 0 {
		return Invalid("vtep.underlay", "", "at least one address is needed")
	}
	for i, a := range p.VTEP.Underlay {
		field := fmt.Sprintf("vtep.underlay[%d]", i)
		switch {
		case !a.IsValid() || a.Is4In6() || a.Zone() != "":
			return Invalid(field, a, "is not an IP address")
		case isReserved(netip.PrefixFrom(a, a.BitLen())).IsValid():
			return Invalid(field, a, "is not the address of a machine that others reach")
		case p.VTEP.UnderlayOf(FamilyOf(a)) != a || slices.Contains(p.VTEP.Underlay[:i], a):
			return Invalid(field, a, "is a second address of %s", FamilyOf(a))
		}
	}
	if !p.VTEP.MAC.IsValid() {
		return Invalid("vtep.mac", p.VTEP.MAC, "is not the Ethernet address of an interface")
	}
	return nil
}

func (p *ExternalPeer) validateCIDR(i int) error {
	c, field := p.CIDRs[i], cidrField(i)
	if err := ValidateCIDR(field, c); err != nil {
		return err
	}
	if u := isReserved(c); u.IsValid() {
		return Invalid(field, c, "no machine can have the addresses of %s", u)
	}
	for j, other := range p.CIDRs[:i] {
		if c.Overlaps(other) {
			return Invalid(field, c, "overlaps %s, %s", cidrField(j), other)
		}
	}
	for j, a := range p.VTEP.Underlay {
		if c.Contains(a) {
			return Invalid(field, c, "contains vtep.underlay[%d], %s: the way there would lead through itself", j, a)
		}
	}
	return nil
}

func cidrField(i int) string { return fmt.Sprintf("cidrs[%d]", i) }

// isReserved returns what of the unusable prefixes a prefix overlaps, or the zero
// Prefix.
func isReserved(p netip.Prefix) netip.Prefix {
	for _, u := range unusable() {
		if p.Overlaps(u) {
			return u
		}
	}
	return netip.Prefix{}
}

// conflictsWithNetwork says why the peer can't be had beside a network, its own
// or another, as a *FieldError, or nil.
func (p *ExternalPeer) conflictsWithNetwork(n *Network) error {
	for i, c := range p.CIDRs {
		for j, d := range n.CIDRs {
			if c.Overlaps(d) {
				return Invalid(cidrField(i), c, "external peer %s overlaps %s %s of network %s", p.Name, n.CIDRField(j), d, n.Name)
			}
		}
		if f := FamilyOf(c.Addr()); n.Name == p.Network && !slices.Contains(n.Families(), f) {
			return Invalid(cidrField(i), c, "external peer %s has %s, which network %s hasn't", p.Name, f, n.Name)
		}
	}
	for i, a := range p.VTEP.Underlay {
		for j, d := range n.CIDRs {
			if d.Contains(a) {
				return Invalid(fmt.Sprintf("vtep.underlay[%d]", i), a, "external peer %s has its VTEP within %s %s of network %s",
					p.Name, n.CIDRField(j), d, n.Name)
			}
		}
	}
	return nil
}

// conflictsWithLease says why the peer can't be had beside a node of its network.
func (p *ExternalPeer) conflictsWithLease(l *Lease) error {
	owner := "node " + l.Node
	if err := p.captures(&l.VTEP, owner); err != nil {
		return err
	}
	return p.sharesVTEP(&l.VTEP, owner)
}

// conflictsWithPeer says why the peer can't be had beside another, of its own
// network or not.
func (p *ExternalPeer) conflictsWithPeer(o *ExternalPeer) error {
	owner := "external peer " + o.Name
	for i, c := range p.CIDRs {
		for j, d := range o.CIDRs {
			if c.Overlaps(d) {
				return Invalid(cidrField(i), c, "external peer %s overlaps %s %s of %s", p.Name, cidrField(j), d, owner)
			}
		}
	}
	if err := p.captures(&o.VTEP, owner); err != nil {
		return err
	}
	for i, a := range p.VTEP.Underlay {
		if j := slices.IndexFunc(o.CIDRs, func(d netip.Prefix) bool { return d.Contains(a) }); j >= 0 {
			return Invalid(fmt.Sprintf("vtep.underlay[%d]", i), a, "external peer %s has its VTEP within %s %s of %s",
				p.Name, cidrField(j), o.CIDRs[j], owner)
		}
	}
	if p.Network != o.Network { // which have different VNIs
		return nil
	}
	return p.sharesVTEP(&o.VTEP, owner)
}

// captures says whether the nodes would send to the peer what is for somebody
// else's VTEP.
func (p *ExternalPeer) captures(v *VTEP, owner string) error {
	for i, c := range p.CIDRs {
		for _, a := range v.Underlay {
			if c.Contains(a) {
				return Invalid(cidrField(i), c, "external peer %s would get the packets for %s, which is the VTEP of %s", p.Name, a, owner)
			}
		}
	}
	return nil
}

// sharesVTEP says whether somebody else of the network has the peer's VTEP.
func (p *ExternalPeer) sharesVTEP(v *VTEP, owner string) error {
	for i, a := range p.VTEP.Underlay {
		if slices.Contains(v.Underlay, a) {
			return Invalid(fmt.Sprintf("vtep.underlay[%d]", i), a, "is the VTEP of external peer %s and of %s in network %s", p.Name, owner, p.Network)
		}
	}
	if p.VTEP.MAC == v.MAC {
		return Invalid("vtep.mac", p.VTEP.MAC, "is that of external peer %s and of %s in network %s", p.Name, owner, p.Network)
	}
	return nil
}
