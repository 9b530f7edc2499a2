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
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
	"github.com/overlay-cni/overlay-cni/pkg/store/mirror"
)

// ErrRunning says that another overlayd runs on this node.
var ErrRunning = errors.New("another overlayd is running")

// Run runs the daemon until ctx ends. Running pods keep their network then:
// nothing is taken down.
func Run(ctx context.Context, c *config.Daemon, log *slog.Logger) error {
	return with(c, log, func(n *networks) error {
		log.Info("overlayd starts", "node", c.Node.Name, "store", &c.Store)
		a := &agent.Agent{Networks: n, Health: agent.NewHealth(c.Health, log), LeaseTTL: c.LeaseTTL, Log: log}
		if n.member != nil {
			a.Announce = n.member.announce
		}
		if err := a.Run(ctx); err != nil {
			return err
		}
		log.Info("overlayd stops; running pods keep their network")
		return nil
	})
}

// Leave takes the node out of all networks for good: what the node has of them,
// and its leases, which others may then have at once. Its pods must be gone.
func Leave(ctx context.Context, c *config.Daemon, log *slog.Logger) error {
	return with(c, log, func(n *networks) error { return n.leave(ctx) })
}

// with does something about the node's networks, as the only one on the node.
func with(c *config.Daemon, log *slog.Logger, do func(*networks) error) (err error) {
	for _, w := range c.Warnings {
		log.Warn(w)
	}
	unlock, err := alone(c.Node.RunDir)
	if err != nil {
		return err
	}
	defer unlock()
	opened, err := OpenStore(&c.Store)
	if err != nil {
		return err
	}
	s := mirror.New(opened, mirror.Options{})
	defer func() { err = errors.Join(err, s.Close()) }()
	n := &networks{config: c, registry: &lease.Registry{Store: s, TTL: c.LeaseTTL}, log: log, served: map[string]*node.Network{}}
	if n.instance, err = node.Instance(c.Node.DataDir); err != nil {
		return err
	}
	if k, ok := opened.(*kube.Store); ok {
		n.member = &member{store: k, name: c.Node.Name, log: log}
	}
	return do(n)
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
