package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Join registers a network, so that all nodes use it alike, and returns it as it
// then is: with the pools that other nodes have registered besides. Pools that
// it brings are added to those registered. Where it differs otherwise, or
// overlaps another network, the error wraps ErrConflict and names both.
//
// Nodes may register networks that exclude each other at the same time. Each
// sees the other after its own is written: the one written first stays.
func (r *Registry) Join(ctx context.Context, n *Network) (Network, error) {
	if err := n.Validate(); err != nil {
		return Network{}, err
	}
	var own *written
	for range attempts {
		registered, err := r.networks(ctx)
		if err != nil {
			return Network{}, err
		}
		joined, have, err := admit(n, registered)
		if err != nil {
			return Network{}, errors.Join(err, r.undo(ctx, own))
		}
		if have != nil && have.covers(n) {
			return joined, nil
		}
		wrote, err := r.register(ctx, n, have)
		switch {
		case errors.Is(err, ErrConflict):
			return Network{}, errors.Join(err, r.undo(ctx, own))
		case err == nil:
			own = wrote
		case !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound):
			return Network{}, fmt.Errorf("register network %s: %w", n.Name, err)
		} // else somebody else was faster
	}
	return Network{}, fmt.Errorf("register network %s: lost %d races", n.Name, attempts)
}

// written is what a call of Join wrote, and over what.
type written struct {
	key      string
	revision store.Revision
	before   *Network
}

// register writes a registration: a new one, or one with more pools.
func (r *Registry) register(ctx context.Context, n *Network, have *registration) (*written, error) {
	w := &written{key: networkPrefix + n.Name}
	if have == nil {
		value, err := json.Marshal(n)
		if err == nil {
			w.revision, err = r.Store.Create(ctx, w.key, value)
		}
		return w, err
	}
	extended, _ := have.extended(n)
	if err := extended.Validate(); err != nil { // as those see it who have registered it
		return nil, fmt.Errorf("%w: network %s is registered, and can't have the pools: %w", ErrConflict, n.Name, err)
	}
	value, err := json.Marshal(extended)
	if err == nil {
		w.before = &have.Network
		w.revision, err = r.Store.Update(ctx, w.key, value, have.revision)
	}
	return w, err
}

// undo takes back what Join wrote, unless others have changed it since.
func (r *Registry) undo(ctx context.Context, w *written) error {
	if w == nil {
		return nil
	}
	if w.before == nil {
		return r.Store.Delete(ctx, w.key, w.revision)
	}
	value, err := json.Marshal(w.before)
	if err == nil {
		_, err = r.Store.Update(ctx, w.key, value, w.revision)
	}
	return err
}

// admit returns a network as it is together with its registration, which is nil
// where there is none. The error says why it can't be used: because of the
// registration, or of a network that was registered before.
func admit(n *Network, registered []registration) (joined Network, have *registration, err error) {
	joined = *n
	for i := range registered {
		if registered[i].Name != n.Name {
			continue
		}
		have = &registered[i]
		difference := n.difference(&have.Network)
		if difference == "" {
			joined, difference = n.extended(&have.Network)
		}
		if difference != "" {
			return joined, have, fmt.Errorf("%w: network %s is registered with %s; all nodes must leave it before it changes",
				ErrConflict, n.Name, difference)
		}
	}
	for i := range registered {
		other := &registered[i]
		if other.Name == n.Name || have != nil && have.covers(n) && have.revision < other.revision {
			continue
		}
		if err := n.ConflictsWith(&other.Network); err != nil {
			return joined, have, fmt.Errorf("%w: %w", ErrConflict, err)
		}
	}
	return joined, have, nil
}

const networkPrefix = "networks/"

// difference says in which of the fields that all nodes must have alike a
// registered network differs; "" where it doesn't. MTU and masquerading are
// each node's own; pools may be added.
func (n *Network) difference(registered *Network) string {
	type value struct {
		name       string
		there, own any
	}
	values := []value{{"vni", registered.VNI, n.VNI}, {"port", registered.Port, n.Port}, {"windows", registered.Windows, n.Windows}}
	if !n.Pooled() && !registered.Pooled() {
		values = append(values, value{"cidrs", registered.CIDRs, n.CIDRs}, value{"blockLength", registered.BlockLength, n.BlockLength})
	}
	for _, v := range values {
		if there, own := fmt.Sprint(v.there), fmt.Sprint(v.own); there != own {
			return fmt.Sprintf("%s %s, not %s", v.name, there, own)
		}
	}
	return ""
}

// forget removes the registration of a network that nobody has leases of. A
// node that joins at the same time registers it again at its next sync.
func (r *Registry) forget(ctx context.Context, network string) error {
	leases, _, err := r.list(ctx, network)
	if err != nil || len(leases) > 0 {
		return err
	}
	e, err := r.Store.Get(ctx, networkPrefix+network)
	if err == nil {
		err = r.Store.Delete(ctx, e.Key, e.Revision)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("forget network %s: %w", network, err)
	}
	return nil
}

// Networks lists the registered networks, sorted by name.
func (r *Registry) Networks(ctx context.Context) ([]Network, error) {
	registered, err := r.networks(ctx)
	if err != nil {
		return nil, err
	}
	networks := make([]Network, len(registered))
	for i := range registered {
		networks[i] = registered[i].Network
	}
	return networks, nil
}

// registration is a network with the revision since which it is registered.
type registration struct {
	Network
	revision store.Revision
}

func (r *Registry) networks(ctx context.Context) ([]registration, error) {
	entries, _, err := r.Store.List(ctx, networkPrefix)
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	networks := make([]registration, 0, len(entries))
	for _, e := range entries {
		var n Network
		if err := json.Unmarshal(e.Value, &n); err != nil {
			return nil, fmt.Errorf("decode %s: %w: %w", e.Key, store.ErrCorrupt, err)
		}
		if networkPrefix+n.Name != e.Key {
			return nil, fmt.Errorf("decode %s: %w: it is about network %q", e.Key, store.ErrCorrupt, n.Name)
		}
		networks = append(networks, registration{n, e.Revision})
	}
	return networks, nil
}
