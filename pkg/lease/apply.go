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

// What operators write, and not nodes: networks and external peers as they should
// be, each only if nothing that was there before is in the way.

// present is what stands under a key.
type present struct {
	value     []byte
	revision  store.Revision
	seniority seniority
	same      bool // it is what is to stand there
}

// apply writes a value until it stands under its key. Each time look says what
// does, and what is in the way. It is asked once more after the value is written,
// and what was in the way first stays: then the value is taken back.
func (r *Registry) apply(ctx context.Context, what, key string, want any, look func() (*present, error)) error {
	value, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("encode %s: %w", what, err)
	}
	var own *written
	for range attempts {
		have, err := look()
		if errors.Is(err, ErrConflict) {
			return errors.Join(err, r.undo(ctx, own))
		}
		if err != nil {
			return err
		}
		if have != nil && have.same {
			return nil
		}
		wrote, err := r.write(ctx, key, value, have)
		if err == nil {
			own = wrote
		} else if !isRace(err) {
			return fmt.Errorf("write %s: %w", what, err)
		}
	}
	return fmt.Errorf("write %s: lost %d races", what, attempts)
}

// isRace says whether somebody else was faster.
func isRace(err error) bool {
	return errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
}

// write writes a value over what stands under its key, which may be nothing.
func (r *Registry) write(ctx context.Context, key string, value []byte, have *present) (w *written, err error) {
	w = &written{key: key}
	if have == nil {
		w.revision, err = r.Store.Create(ctx, key, value)
		return w, err
	}
	w.before = have.value
	w.revision, err = r.Store.Update(ctx, key, value, have.revision)
	return w, err
}

// remove removes a key, whatever stands there.
func (r *Registry) remove(ctx context.Context, what, key string) error {
	for range attempts {
		e, err := r.Store.Get(ctx, key)
		if err == nil {
			err = r.Store.Delete(ctx, key, e.Revision)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("remove %s: %w", what, err)
		}
	}
	return fmt.Errorf("remove %s: lost %d races", what, attempts)
}

// ApplyNetwork registers a network, or changes its registration. Where nodes have
// leases, pools may be added, and what is each node's own may change (MTU and
// masquerading); else everything. The error wraps ErrConflict, and names both,
// where a node, another network or an external peer is in the way.
func (r *Registry) ApplyNetwork(ctx context.Context, n *Network) error {
	if err := n.Validate(); err != nil {
		return err
	}
	return r.apply(ctx, "network "+n.Name, networkPrefix+n.Name, n, func() (*present, error) {
		have, err := r.applicable(ctx, n)
		if have == nil || err != nil {
			return nil, err
		}
		value, err := json.Marshal(have.Network)
		return &present{value, have.revision, have.seniority, have.is(n)}, err
	})
}

// applicable returns the network's registration, or nil. The error says what is
// in the way of another: once the registration is as it should be, only what was
// there before it.
func (r *Registry) applicable(ctx context.Context, n *Network) (have *registration, err error) {
	registered, err := r.networks(ctx)
	if err != nil {
		return nil, err
	}
	own := newcomer()
	for i := range registered {
		if registered[i].Name == n.Name {
			have = &registered[i]
		}
	}
	if have.is(n) {
		own = have.seniority
	}
	for i := range registered {
		if o := &registered[i]; o.Name != n.Name && o.problem == nil && o.seniority.before(own) {
			if err := n.ConflictsWith(&o.Network); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrConflict, err)
			}
		}
	}
	if have != nil && have.problem == nil { // else it is to be mended
		if err := r.mayBecome(ctx, &have.Network, n); err != nil {
			return nil, err
		}
	}
	return have, r.displaces(ctx, have, n, own)
}

// is says whether a registration, or nil, is as it should be.
func (r *registration) is(n *Network) bool { return r != nil && r.problem == nil && r.Equal(n) }

// mayBecome says whether a registration may be replaced by another.
func (r *Registry) mayBecome(ctx context.Context, have, n *Network) error {
	difference := n.difference(have)
	if difference == "" && !n.covers(have) {
		difference = "pools that it would no longer have"
		if n.Pooled() != have.Pooled() {
			_, difference = n.extended(have)
		}
	}
	if difference == "" {
		return nil
	}
	nodes, err := r.nodes(ctx, n.Name)
	if err != nil || len(nodes) == 0 {
		return err
	}
	return fmt.Errorf("%w: network %s is registered with %s; these nodes must leave it before it changes: %s",
		ErrConflict, n.Name, difference, strings.Join(nodes, ", "))
}

// displaces says which external peer couldn't be used any more beside a network.
func (r *Registry) displaces(ctx context.Context, have *registration, n *Network, own seniority) error {
	peers, err := r.peers(ctx)
	if err != nil {
		return err
	}
	for i := range peers {
		p := &peers[i]
		if p.problem != nil || own.before(p.seniority) || have != nil && p.conflictsWithNetwork(&have.Network) != nil {
			continue
		}
		if err := p.conflictsWithNetwork(n); err != nil {
			return fmt.Errorf("%w: network %s: %w", ErrConflict, n.Name, err)
		}
	}
	return nil
}

// nodes names those that have leases of a network.
func (r *Registry) nodes(ctx context.Context, network string) ([]string, error) {
	leases, _, err := r.list(ctx, network)
	if err != nil {
		return nil, err
	}
	var nodes []string
	for i := range leases {
		nodes = append(nodes, leases[i].Node)
	}
	slices.Sort(nodes)
	return slices.Compact(nodes), nil
}

// RemoveNetwork removes a network's registration. The error wraps ErrConflict, and
// names them, where nodes have leases of it, unless it is forced, or external peers
// are in it, and store.ErrNotFound where it isn't registered. Nodes that serve the
// store's networks leave a removed one when they have no pods in it; a node whose
// configuration has it registers it again.
func (r *Registry) RemoveNetwork(ctx context.Context, name string, force bool) error {
	if err := ValidateName("name", name); err != nil {
		return err
	}
	nodes, err := r.nodes(ctx, name)
	if err != nil {
		return err
	}
	if len(nodes) > 0 && !force {
		return fmt.Errorf("%w: network %s has leases of nodes: %s", ErrConflict, name, strings.Join(nodes, ", "))
	}
	peers, err := r.peers(ctx)
	if err != nil {
		return err
	}
	for i := range peers {
		if peers[i].Network == name {
			return fmt.Errorf("%w: network %s has external peer %s", ErrConflict, name, peers[i].Name)
		}
	}
	return r.remove(ctx, "network "+name, networkPrefix+name)
}

// Leases lists what stands in the store of a network, also what expired long ago,
// which View leaves out.
func (r *Registry) Leases(ctx context.Context, network string) ([]Lease, error) {
	held, _, err := r.list(ctx, network)
	leases := make([]Lease, len(held))
	for i := range held {
		leases[i] = held[i].Lease
	}
	return leases, err
}

// ErrAlive says that a node's lease hasn't expired.
var ErrAlive = errors.New("lease hasn't expired")

// ReleaseExpired gives back the leases of a network that a dead node has, and
// returns them. One that hasn't expired makes it release none, with an error that
// wraps ErrAlive; to renew one meanwhile keeps it.
func (r *Registry) ReleaseExpired(ctx context.Context, network, node string) ([]Lease, error) {
	leases, _, err := r.list(ctx, network)
	if err != nil {
		return nil, err
	}
	dead := slices.DeleteFunc(leases, func(l stored) bool { return l.Node != node })
	for i := range dead {
		if l := &dead[i]; !l.Expired(r.now()) {
			return nil, fmt.Errorf("%w: that of block %s of node %s in network %s", ErrAlive, l.Block, node, network)
		}
	}
	var released []Lease
	for i := range dead {
		l := &dead[i]
		err := r.Store.Delete(ctx, l.Key(), l.revision)
		if errors.Is(err, store.ErrConflict) {
			return released, fmt.Errorf("%w: block %s of node %s was renewed", ErrAlive, l.Block, node)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return released, fmt.Errorf("release block %s: %w", l.Block, err)
		}
		released = append(released, l.Lease)
	}
	return released, nil
}
