package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/agent"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/firewall/xtables"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// networks are those that the node serves: the configured ones or, where none
// are, all that the store has.
type networks struct {
	config   *config.Daemon
	instance string
	registry *lease.Registry // for what is about no network in particular
	member   *member         // of a Kubernetes cluster; nil: of none
	log      *slog.Logger

	served map[string]*node.Network
	kept   map[string]bool // networks with pods that are no longer served
}

// stored says that the networks are the store's.
func (n *networks) stored() bool { return len(n.config.Networks) == 0 }

// List implements agent.Source.
func (n *networks) List(ctx context.Context) ([]agent.Network, error) {
	labels, given := n.config.Node.Labels, []netip.Prefix(nil)
	if n.member != nil {
		known, err := n.member.meet(ctx)
		if err != nil {
			return nil, err
		}
		labels, given = maps.Clone(known.Labels), known.PodCIDRs
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, n.config.Node.Labels)
	}
	specs, err := n.specs(ctx)
	if err != nil {
		return nil, err
	}
	listed, served := make([]agent.Network, len(specs)), make(map[string]*node.Network, len(specs))
	for i := range specs {
		name := specs[i].Name
		served[name] = n.served[name]
		if old := served[name]; old == nil || old.Spec.Pooled() != specs[i].Pooled() || !maps.Equal(old.Labels, labels) || !slices.Equal(old.Given, given) {
			served[name] = n.network(&specs[i])
			served[name].Labels, served[name].Given = labels, given
		}
		listed[i] = served[name]
	}
	n.served = served
	return listed, nil
}

// specs are the networks to serve, as they are configured or registered.
func (n *networks) specs(ctx context.Context) ([]lease.Network, error) {
	if n.stored() {
		return n.registry.Registered(ctx)
	}
	return n.config.Networks, nil
}

// network is one network on this node.
func (n *networks) network(spec *lease.Network) *node.Network {
	c := n.config
	return &node.Network{
		Spec: *spec, Stored: n.stored(), Node: c.Node.Name, Instance: n.instance, Underlay: c.Node.Underlay,
		RunDir: c.Node.RunDir, Ledger: c.Node.LedgerPath(spec.Name), Grace: c.LeaseGrace, AuditGrace: node.DefaultAuditGrace,
		Firewall: firewall.Firewall{Backend: c.Node.Firewall, Chains: xtables.Open}, Log: n.log,
		Registry: &lease.Registry{Store: n.registry.Store, TTL: c.LeaseTTL},
	}
}

// Watch implements agent.Source.
func (n *networks) Watch(ctx context.Context, changed func()) error {
	watches, ctx := errgroup.WithContext(ctx)
	watches.Go(func() error { <-ctx.Done(); return ctx.Err() })
	if n.stored() {
		watches.Go(func() error { return n.registry.WatchNetworks(ctx, changed) })
	}
	if n.member != nil {
		watches.Go(func() error { return n.member.watch(ctx, changed) })
	}
	return watches.Wait()
}

// Retire implements agent.Source. A network that still has pods stays as it is
// until they are gone.
func (n *networks) Retire(ctx context.Context) error {
	states, err := nodestate.List(n.config.Node.RunDir)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, s := range states {
		if n.served[s.Network.Name] != nil {
			continue
		}
		old := n.network(&s.Network)
		old.Node, old.Firewall.Backend = s.Node, s.Firewall
		pods, err := old.Pods()
		if err != nil {
			return err
		}
		if pods > 0 {
			if kept[s.Network.Name] = true; !n.kept[s.Network.Name] {
				n.log.Warn("network is no longer served, and still has pods", "network", s.Network.Name, "pods", pods)
			}
			continue
		}
		if err := old.Retire(ctx, &s.VTEP); err != nil {
			return fmt.Errorf("retire network %s: %w", s.Network.Name, err)
		}
		n.log.Info("network is retired", "network", s.Network.Name)
	}
	n.kept = kept
	return nil
}

// leave retires all networks, or none of them while there are pods, and releases
// what the store has of the node besides.
func (n *networks) leave(ctx context.Context) error {
	states, err := nodestate.List(n.config.Node.RunDir)
	if err != nil {
		return err
	}
	for _, s := range states {
		pods, err := n.network(&s.Network).Pods()
		if err == nil && pods > 0 {
			err = fmt.Errorf("%w: %d in network %s", ErrPods, pods, s.Network.Name)
		}
		if err != nil {
			return err
		}
	}
	if err := n.Retire(ctx); err != nil {
		return err
	}
	specs, err := n.specs(ctx)
	if err != nil {
		return err
	}
	for i := range specs { // of before a reboot, which leaves no state
		if err := n.network(&specs[i]).Leave(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ErrPods says that the node still has pods.
var ErrPods = errors.New("the node still has pods")
