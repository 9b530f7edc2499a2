package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
)

// The audit: what the ledger says, which interfaces there are, and which blocks
// the store says are the node's.

// DefaultAuditGrace is how long an address must have been leaked before it is
// freed.
const DefaultAuditGrace = 5 * time.Minute

// auditor is what is remembered from one audit to the next.
type auditor struct {
	collector ipam.Collector
	reported  string
}

// Audit compares the network's ledger with the node's interfaces and blocks. An
// address that nobody has is freed when it was so for the grace and in two looks
// at least; one that a pod has and the ledger doesn't know is written into it;
// what else differs is for people to decide, and told when it changes.
func (n *Network) Audit(ctx context.Context) (err error) {
	own := n.blocks().Own()
	if len(own) == 0 {
		return nil // not synced yet
	}
	l, err := n.openLedger()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	held, err := l.All(ctx)
	if err != nil {
		return err
	}
	live, err := Live(ctx, n.Spec.Name)
	if err != nil {
		return err
	}
	report := ipam.Audit(held, live, own)
	n.tell(&report)
	n.audit.collector.Grace = n.AuditGrace
	var errs []error
	for _, leaked := range n.audit.collector.Observe(time.Now(), report) {
		errs = append(errs, n.free(ctx, l, leaked))
	}
	for _, orphaned := range report.Orphaned {
		errs = append(errs, n.hold(ctx, l, orphaned, live, own))
	}
	return errors.Join(errs...)
}

// tell logs what differs, when that has changed.
func (n *Network) tell(r *ipam.Report) {
	lasting := *r
	lasting.Leaked = nil // as every ADD's address is for a moment
	text := lasting.String()
	if text == n.audit.reported {
		return
	}
	n.audit.reported = text
	if lasting.Clean() {
		n.Log.Info("the ledger agrees with the node's interfaces and blocks again", "network", n.Spec.Name)
		return
	}
	n.Log.Warn("the ledger, the node's interfaces and its blocks differ", "network", n.Spec.Name, "audit", text)
}

// free frees an address that was leaked for long enough, unless an ADD or DEL of
// its attachment is running, or has made it live since. One whose name the ledger
// had to cut can't be looked for among what lives, and stays: GC knows it whole.
func (n *Network) free(ctx context.Context, l *ipam.Ledger, leaked ipam.Allocation) error {
	if leaked.Truncated {
		return nil
	}
	a := intent.Attachment{Network: n.Spec.Name, Container: leaked.ContainerID, Interface: leaked.Interface}
	at, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	err := Exclusively(at, n.RunDir, a, func() error {
		live, err := Live(ctx, n.Spec.Name)
		if err != nil || slices.ContainsFunc(live, func(o ipam.Allocation) bool { return o.Attachment == leaked.Attachment }) {
			return err
		}
		freed, err := l.ReleaseIf(ctx, leaked)
		if freed {
			n.Log.Info("leaked address is freed", "network", n.Spec.Name, "address", leaked.Address,
				"container", leaked.ContainerID, "interface", leaked.Interface, "since", leaked.Since)
		}
		return err
	})
	if errors.Is(err, ErrBusy) {
		return nil // the next audit looks again
	}
	return err
}

// auditPatience bounds the wait for an attachment that is busy.
const auditPatience = 100 * time.Millisecond

// hold writes a live attachment's addresses into the ledger that doesn't know
// them. It is no error when somebody else holds one: that is told as it is.
func (n *Network) hold(ctx context.Context, l *ipam.Ledger, orphaned ipam.Allocation, live []ipam.Allocation, own []netip.Prefix) error {
	var addresses []netip.Addr
	var sets []ipam.RangeSet
	for _, o := range live {
		at := slices.IndexFunc(own, func(p netip.Prefix) bool { return p.Contains(o.Address) })
		if o.Attachment == orphaned.Attachment && at >= 0 {
			addresses = append(addresses, o.Address)
			sets = append(sets, ipam.RangeSet{blocks.PodRange(own[at])})
		}
	}
	if len(addresses) == 0 {
		return nil // of a block that isn't ours any more
	}
	a := intent.Attachment{Network: n.Spec.Name, Container: orphaned.ContainerID, Interface: orphaned.Interface}
	at, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	err := Exclusively(at, n.RunDir, a, func() error {
		still, err := Live(ctx, n.Spec.Name)
		if err != nil || !slices.Contains(still, orphaned) {
			return err
		}
		_, err = l.Allocate(ctx, ipam.Request{Attachment: orphaned.Attachment, Sets: sets, Addresses: addresses})
		if err == nil {
			n.Log.Warn("address of a running pod is written into the ledger again", "network", n.Spec.Name, "addresses", addresses,
				"container", orphaned.ContainerID, "interface", orphaned.Interface)
		}
		return err
	})
	if errors.Is(err, ErrBusy) || errors.Is(err, ipam.ErrTaken) || errors.Is(err, ipam.ErrHeld) || errors.Is(err, ipam.ErrInvalid) {
		return nil
	}
	return err
}
