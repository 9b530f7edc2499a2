package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/filelock"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// Ensure returns the node's state in a network where there is no daemon. It
// syncs the node unless it was synced in this boot with the same specification
// and leases, which costs one file read and one question to the kernel.
func Ensure(ctx context.Context, c *config.Node, spec *lease.Network, log *slog.Logger) (state *nodestate.State, err error) {
	s, err := local.Open(c.StoreDir(), local.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	instance, err := Instance(c.DataDir)
	if err != nil {
		return nil, err
	}
	n := &Network{
		Spec: *spec, Node: c.Name, Instance: instance, Labels: c.Labels, Registry: &lease.Registry{Store: s},
		RunDir: c.RunDir, Ledger: c.LedgerPath(spec.Name), Grace: lease.DefaultGrace,
		Underlay: c.Underlay, Firewall: firewall.Firewall{Backend: c.Firewall}, Log: log,
	}
	if state, err := n.current(ctx, s); state != nil || err != nil {
		return state, err
	}
	unlock, err := n.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := noDaemon(c.RunDir); err != nil {
		return nil, err
	}
	if state, err := n.current(ctx, s); state != nil || err != nil {
		return state, err // another process has synced it meanwhile
	}
	return n.Sync(ctx)
}

// current returns the state if it is still true; nil if the node needs a sync.
func (n *Network) current(ctx context.Context, s *local.Store) (*nodestate.State, error) {
	state, err := nodestate.Read(n.RunDir, n.Spec.Name)
	if errors.Is(err, nodestate.ErrNotReady) {
		return nil, nil //nolint:nilnil // no state is an answer here
	}
	if err != nil {
		return nil, err
	}
	revision, err := s.Revision(ctx)
	if err != nil {
		return nil, fmt.Errorf("read revision of the store: %w", err)
	}
	if revision != state.Revision || !n.Spec.Within(&state.Network) || state.Node != n.Node ||
		state.Underlay != n.Underlay || state.Firewall != n.Firewall.Backend || !n.present(state) {
		return nil, nil //nolint:nilnil // no state is an answer here
	}
	if n.Spec.Pooled() {
		if d, err := n.blocks().Look(ctx, state.Blocks()); !d.None() || err != nil {
			return nil, err
		}
	}
	return state, nil
}

// present says whether the device is as it should be and the packet filter's
// table is there: a quick look, for every ADD. What can't be seen isn't there.
func (n *Network) present(s *nodestate.State) bool {
	found, err := hasDevice(s)
	rules := intent.Rules(&s.Network, &s.VTEP)
	return found && err == nil && n.Firewall.Exists(&rules)
}

// noDaemon refuses to sync a node that a daemon has: the two would undo each
// other's work, each with its own store.
func noDaemon(runDir string) error {
	f, err := os.Open(filepath.Join(runDir, DaemonLock))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a daemon: %w", err)
	}
	defer func() { _ = f.Close() }()
	free, err := filelock.Try(f, filelock.Shared)
	if err == nil && !free {
		err = lease.Invalid("daemon", false, "overlayd is running with run directory %s; leave the node to it", runDir)
	}
	return err
}

// DaemonLock is the file in the run directory that a running daemon has locked.
const DaemonLock = "overlayd.lock"

// lock keeps processes from syncing the node at the same time.
func (n *Network) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(n.RunDir, 0o755); err != nil {
		return nil, fmt.Errorf("lock node: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(n.RunDir, n.Spec.Name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock node: %w", err)
	}
	if err := filelock.Wait(ctx, f, filelock.Exclusive); err != nil {
		return nil, fmt.Errorf("lock node: %w", errors.Join(err, f.Close()))
	}
	return func() { _ = f.Close() }, nil // closing is what unlocks
}
