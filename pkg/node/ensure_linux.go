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
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
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
	n := &Network{
		Spec: *spec, Node: c.Name, Registry: &lease.Registry{Store: s}, RunDir: c.RunDir,
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
	if revision != state.Revision || !state.Network.Equal(&n.Spec) || state.Node != n.Node || !kernel.Exists(state.VTEP.Device) {
		return nil, nil //nolint:nilnil // no state is an answer here
	}
	return state, nil
}

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
