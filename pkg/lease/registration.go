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
		case !isRace(err):
			return Network{}, fmt.Errorf("register network %s: %w", n.Name, err)
		} // else somebody else was faster
	}
	return Network{}, fmt.Errorf("register network %s: lost %d races", n.Name, attempts)
}

// written is what a call of Join or ApplyPeer wrote, and over what: nil where there
// was nothing.
type written struct {
	key      string
	revision store.Revision
	before   []byte
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
		w.before, err = json.Marshal(have.Network)
	}
	if err == nil {
		w.revision, err = r.Store.Update(ctx, w.key, value, have.revision)
	}
	return w, err
}

// undo takes back what was written, unless others have changed it since.
func (r *Registry) undo(ctx context.Context, w *written) error {
	if w == nil {
		return nil
	}
	if w.before == nil {
		return r.Store.Delete(ctx, w.key, w.revision)
	}
	_, err := r.Store.Update(ctx, w.key, w.before, w.revision)
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
		if have.problem != nil {
			return joined, have, fmt.Errorf("%w: network %s is registered, and can't be used: %w", ErrConflict, n.Name, have.problem)
		}
		difference := n.difference(&have.Network)
		if difference == "" {
			joined, difference = n.extended(&have.Network)
		}
		if difference == "" && have.Open != n.Open { // which an operator may change, but not a node
			difference = fmt.Sprintf("open %t, not %t", have.Open, n.Open)
		}
		if difference != "" {
			return joined, have, fmt.Errorf("%w: network %s is registered with %s; all nodes must leave it before it changes",
				ErrConflict, n.Name, difference)
		}
	}
	for i := range registered {
		other := &registered[i]
		if other.Name == n.Name || other.problem != nil || have != nil && have.covers(n) && have.seniority.before(other.seniority) {
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
	values := []value{{"vni", registered.VNI, n.VNI}, {"port", registered.Port, n.Port}, {"windows", registered.Windows, n.Windows}, {"podCIDRs", registered.PodCIDRs, n.PodCIDRs}}
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

// Forget removes the registration of a network that nobody has leases of. A
// node that joins at the same time registers it again at its next sync.
func (r *Registry) Forget(ctx context.Context, network string) error {
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

// Networks lists the registered networks that can be used, as far as they
// themselves go, sorted by name. Registered has the others as well.
func (r *Registry) Networks(ctx context.Context) ([]Network, error) {
	registered, err := r.networks(ctx)
	if err != nil {
		return nil, err
	}
	networks := make([]Network, 0, len(registered))
	for i := range registered {
		if registered[i].problem == nil {
			networks = append(networks, registered[i].Network)
		}
	}
	return networks, nil
}

// Registered lists what is registered, as far as it can be read, sorted by name.
// Network says of one whether it can be used.
func (r *Registry) Registered(ctx context.Context) ([]Network, error) {
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

// WatchNetworks calls changed whenever networks may have come, gone or changed
// since the registry read them.
func (r *Registry) WatchNetworks(ctx context.Context, changed func()) error {
	after, err := r.since(ctx, networkPrefix)
	if err != nil {
		return err
	}
	return r.Store.Watch(ctx, networkPrefix, after, func(store.Event) error {
		changed()
		return nil
	})
}

// Network returns a registered network, with its defaults. The error wraps
// store.ErrNotFound where there is none, and ErrConflict where another one is in
// its way.
func (r *Registry) Network(ctx context.Context, name string) (Network, error) {
	registered, err := r.networks(ctx)
	if err != nil {
		return Network{}, err
	}
	at := slices.IndexFunc(registered, func(o registration) bool { return o.Name == name })
	if at < 0 {
		return Network{}, fmt.Errorf("network %s: %w", name, store.ErrNotFound)
	}
	n := &registered[at]
	if n.problem != nil {
		return Network{}, n.problem
	}
	for i := range registered {
		o := &registered[i]
		if i == at || o.problem != nil {
			continue
		}
		problem := n.ConflictsWith(&o.Network)
		if problem == nil {
			continue
		}
		first, err := r.first(ctx, n, o)
		if err != nil {
			return Network{}, err
		}
		if !first {
			return Network{}, fmt.Errorf("%w: %w", ErrConflict, problem)
		}
	}
	return n.Network, nil
}

// first says which of two networks that exclude each other stays: one that has
// leases before one that has none, else the senior one.
func (r *Registry) first(ctx context.Context, n, other *registration) (bool, error) {
	ours, _, err := r.list(ctx, n.Name)
	if err != nil {
		return false, err
	}
	theirs, _, err := r.list(ctx, other.Name)
	if err != nil {
		return false, err
	}
	if (len(ours) > 0) != (len(theirs) > 0) {
		return len(ours) > 0, nil
	}
	return n.seniority.before(other.seniority), nil
}

// registration is a network with the revision since which it is registered.
type registration struct {
	Network
	revision  store.Revision
	seniority seniority
	// problem is why nobody can use it: people write them by hand.
	problem error
}

func (r *Registry) networks(ctx context.Context) ([]registration, error) {
	return decoded(ctx, r, networkPrefix, "networks", decodeNetwork)
}

// decodeNetwork reads a network as it is stored. One without a name has its
// key's, and one that can't be used says so by itself.
func decodeNetwork(e store.Entry) registration {
	name := strings.TrimPrefix(e.Key, networkPrefix)
	var written *Network
	err := json.Unmarshal(e.Value, &written)
	if err == nil && written == nil {
		err = errors.New("it is empty")
	}
	if err == nil && written.Name != "" && written.Name != name {
		err = fmt.Errorf("it is about network %q", written.Name)
	}
	if err != nil {
		return registration{Network{Name: name}, e.Revision, seniorityOf(&e), fmt.Errorf("decode %s: %w: %w: %w", e.Key, ErrInvalid, store.ErrCorrupt, err)}
	}
	n := written.Complete()
	n.Name = name
	if err := n.Validate(); err != nil {
		return registration{n, e.Revision, seniorityOf(&e), fmt.Errorf("%w: network %s: %w", ErrInvalid, name, err)}
	}
	return registration{n, e.Revision, seniorityOf(&e), nil}
}
