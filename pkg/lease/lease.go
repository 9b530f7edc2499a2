package lease

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
)

// VTEP is where a node ends the VXLAN: the addresses by which the other nodes
// reach it, and the Ethernet address of its VXLAN device.
type VTEP struct {
	// Underlay holds at most one address of a family.
	Underlay []netip.Addr `json:"underlay"`
	MAC      ether.Addr   `json:"mac"`
}

// UnderlayOf returns the underlay address of a family, or the zero Addr.
func (v *VTEP) UnderlayOf(f Family) netip.Addr {
	for _, a := range v.Underlay {
		if FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// isComplete says whether other nodes can reach the VTEP.
func (v *VTEP) isComplete() bool {
	unusable := func(a netip.Addr) bool { return !a.IsValid() || a.Is4In6() }
	return v.MAC.IsValid() && len(v.Underlay) > 0 && !slices.ContainsFunc(v.Underlay, unusable)
}

// Equal says whether two VTEPs are alike.
func (v *VTEP) Equal(other *VTEP) bool {
	return v.MAC == other.MAC && slices.Equal(v.Underlay, other.Underlay)
}

// Lease is a node's claim on one block of a network.
type Lease struct {
	Network string       `json:"network"`
	Block   netip.Prefix `json:"block"`
	Node    string       `json:"node"`
	// Instance tells machines apart that have one node name.
	Instance string `json:"instance,omitempty"`
	VTEP     VTEP   `json:"vtep"`
	// Index counts the node's claims. Its first block of a family, which has
	// the VTEP's own address, is the one with the lowest.
	Index int `json:"index,omitempty"`
	// Expires is when the claim ends unless it is renewed; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Notice says that somebody is about to take the block, as its owner
	// seems to be gone. To renew the lease withdraws it.
	Notice *Notice `json:"notice,omitempty"`
}

// Notice is who wants a block whose lease has expired, and since when.
type Notice struct {
	Node     string    `json:"node"`
	Instance string    `json:"instance,omitempty"`
	At       time.Time `json:"at"`
}

// Expired says whether the lease has ended at the given time.
func (l *Lease) Expired(now time.Time) bool {
	return !l.Expires.IsZero() && !now.Before(l.Expires)
}

// belonging is whose a lease is, as a claimant sees it.
type belonging int

const (
	others belonging = iota
	ours
	// lapsed: of another machine of our name, whose lease has expired for
	// good. It is ours when that machine doesn't object.
	lapsed
)

// of says whose the lease is. A machine is known by its instance, also under a
// new name; one that lost its instance, by its name and an underlay address;
// fenced is the time before which leases have expired for good. The error says
// that a name is used twice.
func (l *Lease) of(c *Claim, fenced time.Time) (belonging, error) {
	switch {
	case c.Instance != "" && l.Instance == c.Instance:
		return ours, nil
	case l.Node != c.Node:
		return others, nil
	case c.Instance == "" || l.Instance == "":
		return ours, nil
	}
	for _, a := range c.VTEP.Underlay {
		if slices.Contains(l.VTEP.Underlay, a) {
			return ours, nil
		}
	}
	if l.Expired(fenced) {
		return lapsed, nil
	}
	return others, fmt.Errorf("%w: node name %s is used by another machine, at %v, whose lease of %s hasn't expired",
		ErrConflict, l.Node, l.VTEP.Underlay, l.Block)
}

// Family of the lease's block.
func (l *Lease) Family() Family { return FamilyOf(l.Block.Addr()) }

// Key returns the lease's key in a store. It follows from the block, which is
// what makes a second claim of the block impossible.
func (l *Lease) Key() string {
	return leasePrefix(l.Network) + strings.Replace(l.Block.String(), "/", "-", 1)
}

func leasePrefix(network string) string { return "leases/" + network + "/" }

// decodeLease reads a lease as it is stored, and checks that it stands under
// its own key: a lease copied by hand to another key would lend a block twice.
func decodeLease(key string, value []byte) (Lease, error) {
	var l Lease
	if err := json.Unmarshal(value, &l); err != nil {
		return Lease{}, fmt.Errorf("decode lease %s: %w", key, err)
	}
	if !l.Block.IsValid() || l.Key() != key {
		return Lease{}, fmt.Errorf("decode lease %s: it is about block %s of network %q", key, l.Block, l.Network)
	}
	if err := ValidateCIDR("block", l.Block); err != nil {
		return Lease{}, fmt.Errorf("decode lease %s: %w", key, err)
	}
	if l.Node == "" {
		return Lease{}, fmt.Errorf("decode lease %s: it has no node", key)
	}
	if !l.VTEP.isComplete() {
		return Lease{}, fmt.Errorf("decode lease %s: VTEP %s at %v is incomplete", key, l.VTEP.MAC, l.VTEP.Underlay)
	}
	return l, nil
}
