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

	"github.com/overlay-cni/overlay-cni/pkg/agent"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/filelock"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/firewall/xtables"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
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
	s, err := local.Open(c.StoreDir, local.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var networks []agent.Network
	for _, spec := range c.Networks {
		networks = append(networks, &node.Network{
			Spec: spec, Node: c.Node.Name, RunDir: c.Node.RunDir, Underlay: c.Node.Underlay,
			Firewall: firewall.Firewall{Backend: c.Node.Firewall, Chains: xtables.Open}, Log: log,
			Registry: &lease.Registry{Store: s, TTL: c.LeaseTTL},
		})
	}
	log.Info("overlayd starts", "node", c.Node.Name, "networks", len(networks), "store", c.StoreDir)
	a := &agent.Agent{
		Networks: networks, Health: agent.NewHealth(c.Health, networks, log), LeaseTTL: c.LeaseTTL, Log: log,
	}
	if err := a.Run(ctx); err != nil {
		return err
	}
	log.Info("overlayd stops; running pods keep their network")
	return nil
}

// alone makes sure that one daemon runs with a run directory.
func alone(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "overlayd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
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
