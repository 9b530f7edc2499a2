package vtep

import (
	"context"
	"errors"
	"fmt"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Reconcile makes the kernel agree with the spec and the peers, and returns
// the changes that it took: none, when all was there. What else is found on
// the device is removed, so that peers that left are forgotten.
func Reconcile(ctx context.Context, conn *kernel.Conn, s *Spec, peers []Peer) ([]reconcile.Change, error) {
	changes, err := reconcile.Settle(ctx, target(conn, s), Objects(s, peers), reconcile.Owned)
	if err != nil {
		return changes, fmt.Errorf("reconcile VTEP %s: %w", s.Device, err)
	}
	return changes, nil
}

// Check returns the changes that Reconcile would make.
func Check(ctx context.Context, conn *kernel.Conn, s *Spec, peers []Peer) ([]reconcile.Change, error) {
	return reconcile.Check(ctx, target(conn, s), Objects(s, peers), reconcile.Owned)
}

// Remove deletes the device and the blackhole routes: all that Reconcile made.
func Remove(ctx context.Context, conn *kernel.Conn, s *Spec) error {
	_, err := reconcile.Run(ctx, target(conn, s), nil, reconcile.Owned)
	if err != nil && !errors.Is(err, kernel.ErrLinkExists) {
		return fmt.Errorf("remove VTEP %s: %w", s.Device, err)
	}
	return nil
}

func target(conn *kernel.Conn, s *Spec) *kernel.Target {
	return &kernel.Target{Conn: conn, Links: []string{s.Device}, Blackholes: s.Within}
}
