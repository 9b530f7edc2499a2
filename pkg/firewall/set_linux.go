package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// OpenChains opens the reconcile target of chains in iptables; xtables.Open is
// one.
type OpenChains func([]Chain) (reconcile.Target, error)

// ErrNoIPTables says that the node's rules are where only the iptables programs
// write, and that these aren't at hand.
var ErrNoIPTables = errors.New("the node's rules are in legacy iptables, which only overlayd writes")

// Firewall is the node's packet filter.
type Firewall struct {
	Backend Backend
	// Chains opens iptables; nil where that can't be had.
	Chains OpenChains
}

// part is a target with what it should hold.
type part struct {
	target reconcile.Target
	want   []reconcile.Object
	// within says that it is within another part: gone with that, and looked at
	// only by who knows what should be there.
	within bool
}

// parts returns the targets that the rules need.
func (w Firewall) parts(ctx context.Context, r *Rules) ([]part, error) {
	if w.usesIPTables() {
		return w.iptablesParts(ctx, r)
	}
	n := NewNFTables(r)
	want, err := n.Objects()
	if err != nil {
		return nil, err
	}
	var all []part
	if p := newPeers(n); p != nil {
		all = append(all, part{target: p, want: p.objects(), within: true})
	}
	all = append(all, part{target: n, want: want})
	for _, f := range lease.Families() {
		if !r.forwarded(f) {
			continue
		}
		more, err := w.forwardParts(r, f)
		if err != nil {
			return all, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// usesIPTables says whether all is done in iptables.
func (w Firewall) usesIPTables() bool {
	return Detect(w.Backend, LegacyTables(lease.IPv4)+LegacyTables(lease.IPv6)) == Iptables
}

// iptablesParts do all in iptables.
func (w Firewall) iptablesParts(ctx context.Context, r *Rules) ([]part, error) {
	t, err := w.open(append(r.iptables(lease.IPv4), r.iptables(lease.IPv6)...))
	if err != nil {
		return nil, err
	}
	all := []part{t}
	// What nftables was given before the node's rules turned out to be in
	// iptables goes. Where the kernel has no nftables, none was.
	n := NewNFTables(r)
	if have, err := n.Observe(ctx); err == nil && len(have) > 0 {
		all = append(all, part{target: n})
	}
	return all, nil
}

// forwardParts let the network's packets be forwarded where iptables has a
// FORWARD chain, in legacy or in nftables; where it has none, nothing in it
// drops them.
func (w Firewall) forwardParts(r *Rules, f lease.Family) ([]part, error) {
	var all []part
	if legacyFilter(f) {
		t, err := w.open([]Chain{r.forwardChain(f)})
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	t := newForward(r, f)
	if err := t.find(); err != nil {
		return all, err
	}
	if t.parent == nil {
		return all, nil
	}
	want, err := t.objects()
	return append(all, part{target: t, want: want}), err
}

// open opens chains in iptables; what is wanted are those that have rules.
func (w Firewall) open(chains []Chain) (part, error) {
	if w.Chains == nil {
		return part{}, ErrNoIPTables
	}
	t, err := w.Chains(chains)
	if err != nil {
		return part{}, fmt.Errorf("open iptables: %w", err)
	}
	var want []reconcile.Object
	for _, c := range chains {
		if c.Rules != "" {
			want = append(want, c)
		}
	}
	return part{target: t, want: want}, nil
}

// Exists says whether the rules are there at all: a quick look, of one request.
func (w Firewall) Exists(r *Rules) bool {
	if w.usesIPTables() {
		return true // to look takes programs
	}
	return NewNFTables(r).exists()
}

// Reconcile makes the node's packet filter agree with the rules.
func (w Firewall) Reconcile(ctx context.Context, r *Rules) ([]reconcile.Change, error) {
	return w.each(ctx, r, func(p part) ([]reconcile.Change, error) {
		return reconcile.Run(ctx, p.target, p.want, reconcile.Owned)
	})
}

// Check returns the changes that Reconcile would make, but for peers.
func (w Firewall) Check(ctx context.Context, r *Rules) ([]reconcile.Change, error) {
	return w.each(ctx, r, func(p part) ([]reconcile.Change, error) {
		if p.within {
			return nil, nil
		}
		return reconcile.Check(ctx, p.target, p.want, reconcile.Owned)
	})
}

// Remove takes the rules away.
func (w Firewall) Remove(ctx context.Context, r *Rules) error {
	_, err := w.each(ctx, r, func(p part) ([]reconcile.Change, error) {
		if p.within {
			return nil, nil
		}
		return reconcile.Run(ctx, p.target, nil, reconcile.Owned)
	})
	return err
}

func (w Firewall) each(ctx context.Context, r *Rules, fn func(part) ([]reconcile.Change, error)) ([]reconcile.Change, error) {
	all, err := w.parts(ctx, r)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	errs := []error{err}
	var changes []reconcile.Change
	for _, p := range all {
		c, err := fn(p)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c, err = fn(p) // an answer was lost: once more
		}
		changes = append(changes, c...)
		errs = append(errs, err)
	}
	return changes, errors.Join(errs...)
}
