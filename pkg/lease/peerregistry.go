package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

const peerPrefix = "peers/"

// Peers lists the external peers of a network, or of all where network is "",
// sorted by name: what stands in the store, whether or not it can be used. Those
// that can't be read are named by the error, which comes with the others.
func (r *Registry) Peers(ctx context.Context, network string) ([]ExternalPeer, error) {
	all, err := r.peers(ctx)
	if err != nil {
		return nil, err
	}
	var found []ExternalPeer
	var errs []error
	for i := range all {
		switch p := &all[i]; {
		case p.problem != nil:
			errs = append(errs, p.problem)
		case network == "" || p.Network == network:
			found = append(found, p.ExternalPeer)
		}
	}
	return found, errors.Join(errs...)
}

// UsablePeers tells the external peers that the nodes of a network use from those
// that they don't, and why. The leases are the network's. All nodes come to the
// same result, whatever somebody has written into the store by hand.
func (r *Registry) UsablePeers(ctx context.Context, network string, leases []Lease) (usable []ExternalPeer, refused []*PeerError, err error) {
	peers, err := r.peers(ctx)
	if err != nil || len(peers) == 0 {
		return nil, nil, err
	}
	networks, err := r.Networks(ctx)
	if err != nil {
		return nil, nil, err
	}
	usable, refused = (&neighbors{networks, leases, peers}).admit(network)
	return usable, refused, nil
}

// ApplyPeer creates an external peer, or replaces the one of its name. The error
// wraps ErrConflict, and names both, where a network, a node or another peer is
// in the way.
//
// Peers that exclude each other may be applied at the same time. Each sees the
// other after its own is written: the one written first stays.
func (r *Registry) ApplyPeer(ctx context.Context, p *ExternalPeer) error {
	if err := p.Validate(); err != nil {
		return err
	}
	return r.apply(ctx, "external peer "+p.Name, peerPrefix+p.Name, p, func() (*present, error) { return r.admissible(ctx, p) })
}

// admissible returns what stands in the store under the peer's name, or nil. The
// error says what is in the peer's way: of other peers those that were there
// before it, once it stands there as it should.
func (r *Registry) admissible(ctx context.Context, p *ExternalPeer) (*present, error) {
	n := &neighbors{}
	var err error
	if n.peers, err = r.peers(ctx); err != nil {
		return nil, err
	}
	if n.networks, err = r.Networks(ctx); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(n.networks, func(o Network) bool { return o.Name == p.Network }) {
		return nil, fmt.Errorf("%w: %w", ErrConflict,
			Invalid("network", p.Network, "of external peer %s isn't registered; there is %s", p.Name, names(n.networks)))
	}
	view, err := r.View(ctx, p.Network)
	if err != nil {
		return nil, err
	}
	n.leases = view.Leases
	have := n.present(p)
	own := newcomer()
	if have != nil && have.same {
		own = have.seniority
	}
	n.judge()
	if err = n.impossible(p); err == nil {
		err = n.conflict(p, own)
	}
	if err != nil {
		return have, fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return have, nil
}

// present is what stands under a peer's name, or nil.
func (n *neighbors) present(p *ExternalPeer) *present {
	for i := range n.peers {
		if o := &n.peers[i]; o.Name == p.Name {
			return &present{o.value, o.revision, o.seniority, o.problem == nil && o.Equal(p)}
		}
	}
	return nil
}

// names lists networks for people.
func names(networks []Network) string {
	if len(networks) == 0 {
		return "none"
	}
	all := make([]string, len(networks))
	for i := range networks {
		all[i] = networks[i].Name
	}
	return strings.Join(all, ", ")
}

// RemovePeer removes an external peer. The error wraps store.ErrNotFound where
// there is none.
func (r *Registry) RemovePeer(ctx context.Context, name string) error {
	if err := ValidateName("name", name); err != nil {
		return err
	}
	return r.remove(ctx, "external peer "+name, peerPrefix+name)
}

// peers lists all that stand in the store, sorted by name.
func (r *Registry) peers(ctx context.Context) ([]registeredPeer, error) {
	return decoded(ctx, r, peerPrefix, "external peers", decodePeer)
}

// decodePeer reads a peer as it is stored. People write them by hand, so that one
// without a name has its key's, and one that can't be read says so by itself.
func decodePeer(e store.Entry) registeredPeer {
	name := strings.TrimPrefix(e.Key, peerPrefix)
	p := registeredPeer{value: e.Value, revision: e.Revision, seniority: seniorityOf(&e)}
	err := json.Unmarshal(e.Value, &p.ExternalPeer)
	if err == nil && p.Name == "" {
		p.Name = name
	}
	if err == nil && p.Name != name {
		err = fmt.Errorf("it is about external peer %q", p.Name)
	}
	if err != nil {
		p.ExternalPeer = ExternalPeer{Name: name}
		p.problem = fmt.Errorf("decode %s: %w: %w", e.Key, store.ErrCorrupt, err)
	}
	return p
}
