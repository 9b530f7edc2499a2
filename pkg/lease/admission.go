package lease

import (
	"cmp"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// registeredPeer is an external peer as it stands in the store.
type registeredPeer struct {
	ExternalPeer
	value     []byte
	revision  store.Revision // of its last change
	seniority seniority
	// problem is why nobody can use it, wherever one looks from: it can't be
	// read, and then has nothing but a name; it is invalid; or it is in the
	// way of a network.
	problem error
}

// neighbors is what an external peer must get on with.
type neighbors struct {
	networks []Network
	leases   []Lease // of the peer's network
	peers    []registeredPeer
}

// judge finds the peers that nobody can use.
func (n *neighbors) judge() {
	for i := range n.peers {
		if p := &n.peers[i]; p.problem == nil {
			p.problem = n.impossible(&p.ExternalPeer)
		}
	}
}

func (n *neighbors) impossible(p *ExternalPeer) error {
	if err := p.Validate(); err != nil {
		return err
	}
	for i := range n.networks {
		if err := p.conflictsWithNetwork(&n.networks[i]); err != nil {
			return err
		}
	}
	return nil
}

// conflict says why a possible peer isn't used, or nil. Of two peers that exclude
// each other the senior one stays, so all nodes decide alike: own is the seniority
// of this one, and its juniors don't count. Nodes stay in any case.
//
// A peer that is in the way counts even if it isn't used itself because of a
// third. So it can't happen that the nodes of two networks each use another one.
func (n *neighbors) conflict(p *ExternalPeer, own seniority) error {
	for i := range n.leases {
		if err := p.conflictsWithLease(&n.leases[i]); err != nil {
			return err
		}
	}
	for i := range n.peers {
		o := &n.peers[i]
		if o.Name == p.Name || own.before(o.seniority) || o.problem != nil {
			continue
		}
		if err := p.conflictsWithPeer(&o.ExternalPeer); err != nil {
			return err
		}
	}
	return nil
}

// PeerError says why an external peer that stands in the store isn't used.
type PeerError struct {
	Peer string
	Err  error
}

// Error implements error.
func (e *PeerError) Error() string { return "external peer " + e.Peer + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *PeerError) Unwrap() error { return e.Err }

// admit tells the peers of a network that its nodes use from those that they
// don't, both by name. One whose network isn't known is told by all networks.
func (n *neighbors) admit(network string) (usable []ExternalPeer, refused []*PeerError) {
	n.judge()
	for i := range n.peers {
		p := &n.peers[i]
		if p.Network != network && p.Network != "" {
			continue
		}
		err := p.problem
		if err == nil {
			err = n.conflict(&p.ExternalPeer, p.seniority)
		}
		if err != nil {
			refused = append(refused, &PeerError{p.Name, err})
			continue
		}
		usable = append(usable, p.ExternalPeer)
	}
	slices.SortFunc(usable, func(a, b ExternalPeer) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(refused, func(a, b *PeerError) int { return cmp.Compare(a.Peer, b.Peer) })
	return usable, refused
}
