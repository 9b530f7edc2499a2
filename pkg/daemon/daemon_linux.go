// Package daemon puts overlayd together: which store, which networks, which
// tasks.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/agent"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/filelock"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/firewall/xtables"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// ErrRunning says that another overlayd runs on this node.
var ErrRunning = errors.New("another overlayd is running")

// Run runs the daemon until ctx ends. Running pods keep their network then:
// nothing is taken down.
func Run(ctx context.Context, c *config.Daemon, log *slog.Logger) (err error) {
	for _, w := range c.Warnings {
		log.Warn(w)
	}
	unlock, err := alone(c.Node.RunDir)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := openStore(&c.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	instance, err := node.Instance(c.Node.DataDir)
	if err != nil {
		return err
	}
	var networks []agent.Network
	for _, spec := range c.Networks {
		networks = append(networks, &node.Network{
			Spec: spec, Node: c.Node.Name, Instance: instance, Labels: c.Node.Labels, Underlay: c.Node.Underlay,
			RunDir: c.Node.RunDir, Ledger: c.Node.LedgerPath(spec.Name), Grace: c.LeaseGrace, AuditGrace: node.DefaultAuditGrace,
			Firewall: firewall.Firewall{Backend: c.Node.Firewall, Chains: xtables.Open}, Log: log,
			Registry: &lease.Registry{Store: s, TTL: c.LeaseTTL},
		})
	}
	if err := retire(ctx, c, networks, log); err != nil {
		return err
	}
	log.Info("overlayd starts", "node", c.Node.Name, "networks", len(networks), "store", &c.Store)
	a := &agent.Agent{
		Networks: networks, Health: agent.NewHealth(c.Health, networks, log), LeaseTTL: c.LeaseTTL, Log: log,
	}
	if err := a.Run(ctx); err != nil {
		return err
	}
	log.Info("overlayd stops; running pods keep their network")
	return nil
}

// retire takes networks from the node that it has state of and that are no
// longer configured. One that still has pods stays as it is until the next
// start.
func retire(ctx context.Context, c *config.Daemon, networks []agent.Network, log *slog.Logger) error {
	states, err := nodestate.List(c.Node.RunDir)
	if err != nil {
		return err
	}
	for _, s := range states {
		if slices.ContainsFunc(networks, func(n agent.Network) bool { return n.Name() == s.Network.Name }) {
			continue
		}
		old := &node.Network{
			Spec: s.Network, Node: s.Node, RunDir: c.Node.RunDir, Log: log,
			Firewall: firewall.Firewall{Backend: s.Firewall, Chains: xtables.Open},
			Registry: networks[0].(*node.Network).Registry,
		}
		pods, err := old.Pods()
		if err != nil {
			return err
		}
		if pods > 0 {
			log.Warn("network is no longer configured, and still has pods", "network", s.Network.Name, "pods", pods)
			continue
		}
		if err := old.Retire(ctx, &s.VTEP); err != nil {
			return fmt.Errorf("retire network %s: %w", s.Network.Name, err)
		}
		log.Info("network is retired", "network", s.Network.Name)
	}
	return nil
}

// alone makes sure that one daemon runs with a run directory.
func alone(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, node.DaemonLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock run directory: %w", err)
	}
	locked, err := filelock.Try(f, filelock.Exclusive)
	if err == nil && !locked {
		err = fmt.Errorf("%w with run directory %s", ErrRunning, dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing is what unlocks
}
