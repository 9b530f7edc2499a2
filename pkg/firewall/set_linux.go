package firewall

import (
	"context"
	"errors"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// part is a target with what it should hold.
type part struct {
	target reconcile.Target
	want   []reconcile.Object
}

// parts returns the targets that the backend needs for the rules.
func parts(b Backend, r *Rules) ([]part, error) {
	if Detect(b, LegacyTables(lease.IPv4)+LegacyTables(lease.IPv6)) == Iptables {
		t, err := NewIPTables(r)
		if err != nil {
			return nil, err
		}
		return []part{{t, t.Objects()}}, nil
	}
	n := NewNFTables(r)
	want, err := n.Objects()
	if err != nil {
		return nil, err
	}
	all := []part{{n, want}}
	f, err := NewForward(r)
	if err == nil && len(f.want) > 0 {
		all = append(all, part{f, f.Objects()})
	}
	return all, err
}

// Reconcile makes the node's packet filter agree with the rules.
func Reconcile(ctx context.Context, b Backend, r *Rules) ([]reconcile.Change, error) {
	return each(b, r, func(p part) ([]reconcile.Change, error) {
		return reconcile.Run(ctx, p.target, p.want, reconcile.Owned)
	})
}

// Check returns the changes that Reconcile would make.
func Check(ctx context.Context, b Backend, r *Rules) ([]reconcile.Change, error) {
	return each(b, r, func(p part) ([]reconcile.Change, error) {
		return reconcile.Check(ctx, p.target, p.want, reconcile.Owned)
	})
}

// Remove takes the rules away.
func Remove(ctx context.Context, b Backend, r *Rules) error {
	_, err := each(b, r, func(p part) ([]reconcile.Change, error) {
		return reconcile.Run(ctx, p.target, nil, reconcile.Owned)
	})
	return err
}

func each(b Backend, r *Rules, fn func(part) ([]reconcile.Change, error)) ([]reconcile.Change, error) {
	all, err := parts(b, r)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	errs := []error{err}
	var changes []reconcile.Change
	for _, p := range all {
		c, err := fn(p)
		changes = append(changes, c...)
		errs = append(errs, err)
	}
	return changes, errors.Join(errs...)
}
