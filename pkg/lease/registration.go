package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Join registers a network, so that all nodes use it alike. It is no error
// when the network is registered already and the same; where it differs, or
// overlaps another one, the error wraps ErrConflict and names both.
//
// Nodes may register networks that exclude each other at the same time. Each
// sees the other after its own is written: the one written first stays.
func (r *Registry) Join(ctx context.Context, n *Network) error {
	if err := n.Validate(); err != nil {
		return err
	}
	value, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode network %s: %w", n.Name, err)
	}
	var created store.Revision
	for range attempts {
		registered, err := r.admit(ctx, n)
		if created != 0 && errors.Is(err, ErrConflict) {
			return errors.Join(err, r.Store.Delete(ctx, networkPrefix+n.Name, created))
		}
		if registered || err != nil {
			return err
		}
		created, err = r.Store.Create(ctx, networkPrefix+n.Name, value)
		if err != nil && !errors.Is(err, store.ErrExists) { // or somebody else was faster
			return fmt.Errorf("register network %s: %w", n.Name, err)
		}
	}
	return fmt.Errorf("register network %s: lost %d races", n.Name, attempts)
}

// admit says whether a network is registered already. The error says why it
// can't be used beside those that were registered before it.
func (r *Registry) admit(ctx context.Context, n *Network) (bool, error) {
	registered, err := r.networks(ctx)
	if err != nil {
		return false, err
	}
	var own store.Revision
	for i := range registered {
		other := &registered[i]
		if other.Name != n.Name {
			continue
		}
		own = other.revision
		if difference := n.difference(&other.Network); difference != "" {
			return true, fmt.Errorf("%w: network %s is registered with %s; all nodes must leave it before it changes",
				ErrConflict, n.Name, difference)
		}
	}
	for i := range registered {
		other := &registered[i]
		if other.Name == n.Name || own != 0 && own < other.revision {
			continue
		}
		if err := n.ConflictsWith(&other.Network); err != nil {
			return own != 0, fmt.Errorf("%w: %w", ErrConflict, err)
		}
	}
	return own != 0, nil
}

const networkPrefix = "networks/"

// difference says in which of the fields that all nodes must have alike a
// registered network differs; "" where it doesn't. MTU and masquerading are
// each node's own.
func (n *Network) difference(registered *Network) string {
	for _, f := range []struct {
		name       string
		there, own any
	}{
		{"cidrs", registered.CIDRs, n.CIDRs},
		{"blockLength", registered.BlockLength, n.BlockLength},
		{"vni", registered.VNI, n.VNI},
		{"port", registered.Port, n.Port},
	} {
		if there, own := fmt.Sprint(f.there), fmt.Sprint(f.own); there != own {
			return fmt.Sprintf("%s %s, not %s", f.name, there, own)
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
