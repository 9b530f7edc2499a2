package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/netlinkplan"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// Network is one network on this node.
type Network struct {
	Spec lease.Network
	// Stored says that the network is specified in the store, and Spec is what
	// it was when this was made.
	Stored   bool
	Node     string
	Instance string // the machine's own, whatever its name
	Labels   map[string]string
	// Given are the blocks that the cluster has allocated to the node.
	Given    []netip.Prefix
	Registry *lease.Registry
	RunDir   string
	Ledger   string // the file of the network's ledger
	// Grace is how long a block of a pooled network stays after its last pod.
	Grace time.Duration
	// AuditGrace is how long an address must have been leaked before Audit
	// frees it.
	AuditGrace time.Duration
	Underlay   string // the interface; "": that of the default route
	Firewall   firewall.Firewall
	Log        *slog.Logger

	had         []netip.Prefix    // the node's blocks at the last sync
	shown       map[string]string // what we think of what people wrote into the store
	unreachable []string          // as last warned of
	refused     string            // external peers that aren't used, as last told
	strangers   []netip.Addr      // as last seen
	once        sync.Once
	keeper      *blocks.Keeper
	audit       auditor
}

// Sync brings the node to what it should be, and returns the state written for
// the plugin. Nothing is changed before the store's leases are known.
func (n *Network) Sync(ctx context.Context) (*nodestate.State, error) {
	previous, fresh, err := n.previous(ctx)
	if err != nil {
		return nil, err
	}
	n.had = nil
	if previous != nil {
		n.had = previous.Blocks()
	}
	started, err := now()
	if err != nil {
		return nil, err
	}
	facts, own, err := n.acquire(ctx)
	lacking := !fresh && len(own) > 0 && errors.Is(err, lease.ErrNoBlock)
	if err != nil && !lacking {
		return nil, err
	}
	own, problem := n.blocks().Balance(ctx, n.claim(facts), own)
	if lacking { // a family that the network has only got: the rest must go on
		problem = err.Error()
	}
	view, err := n.Registry.View(ctx, n.Spec.Name)
	if err != nil {
		return nil, err
	}
	facts.Leases = view.Leases
	if facts.External, err = n.external(ctx, view.Leases); err != nil {
		return nil, err
	}
	if facts.Others, err = n.Registry.Networks(ctx); err != nil {
		return nil, err
	}
	want, err := intent.ForNode(facts)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	n.warn(want.Unreachable, want.VTEP.Local)
	if err := n.apply(ctx, &want); err != nil {
		if fresh {
			err = errors.Join(err, n.Retire(context.WithoutCancel(ctx), &want.VTEP))
		}
		return nil, err
	}
	n.warnOfStrangers(&want.Firewall)
	state := &nodestate.State{
		Network: facts.Network, Node: n.Node, Underlay: n.Underlay, Firewall: n.Firewall.Backend,
		VTEP: want.VTEP, External: want.Firewall.External, Others: want.Firewall.Others, Expires: earliest(own), Revision: view.Revision, Problem: problem,
	}
	state.Deadline = started.deadline(state.Expires, previous)
	return state, nodestate.Write(n.RunDir, state)
}

// acquire registers the network, which may have more pools than we know, and
// makes sure of the node's leases.
func (n *Network) acquire(ctx context.Context) (*intent.Facts, []lease.Lease, error) {
	u, err := underlay.Find(n.Underlay)
	if err != nil {
		return nil, nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	spec := n.Spec
	if n.Stored {
		if spec, err = n.specified(ctx); err != nil {
			return nil, nil, err
		}
	}
	facts := &intent.Facts{Network: spec, Node: n.Node, Instance: n.Instance, Underlay: u}
	if err := facts.Validate(); err != nil { // before a lease is claimed for nothing
		return nil, nil, fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	if !n.Stored {
		if facts.Network, err = n.Registry.Join(ctx, &n.Spec); err != nil {
			return nil, nil, err
		}
	}
	own, err := n.Registry.Acquire(ctx, n.claim(facts))
	return facts, own, err
}

// specified returns the network as it stands in the store.
func (n *Network) specified(ctx context.Context) (lease.Network, error) {
	spec, err := n.Registry.Network(ctx, n.Spec.Name)
	if err != nil && !errors.Is(err, lease.ErrConflict) && !errors.Is(err, lease.ErrInvalid) {
		return spec, err
	}
	n.show(ctx, "network "+n.Spec.Name, fmt.Sprint(spec, err), func() error { return n.Registry.ReportNetwork(ctx, n.Spec.Name, err) })
	return spec, err
}

// show shows in the store what we think of something there, when that has
// changed. What couldn't be shown is by the next sync.
func (n *Network) show(ctx context.Context, what, opinion string, report func() error) {
	if n.shown[what] == opinion {
		return
	}
	if err := report(); err != nil {
		if ctx.Err() == nil {
			n.Log.Warn("a status isn't written", "of", what, "error", err)
		}
		return
	}
	if n.shown == nil {
		n.shown = map[string]string{}
	}
	n.shown[what] = opinion
}

// claim is what the node wants of the network.
func (n *Network) claim(f *intent.Facts) *lease.Claim {
	return &lease.Claim{
		Network: f.Network, Node: n.Node, Instance: n.Instance, Labels: n.labels(), Given: n.Given, Had: n.had,
		VTEP: lease.VTEP{Underlay: f.Underlay.Addresses, MAC: f.Network.MAC(n.Node)},
	}
}

// blocks keeps the node's blocks of the network.
func (n *Network) blocks() *blocks.Keeper {
	n.once.Do(func() {
		n.keeper = &blocks.Keeper{
			Registry: n.Registry, Open: n.openLedger, Live: n.live, Pooled: n.Spec.Pooled(), Grace: n.Grace, Log: n.Log.With("network", n.Spec.Name),
		}
	})
	return n.keeper
}

// openLedger opens the network's ledger; one that was lost is restored.
func (n *Network) openLedger() (*ipam.Ledger, error) {
	if err := os.MkdirAll(filepath.Dir(n.Ledger), 0o755); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return ipam.OpenLedger(n.Ledger, ipam.Options{
		Live: n.live,
	})
}

func (n *Network) live(ctx context.Context) ([]ipam.Allocation, error) { return Live(ctx, n.Spec.Name) }

// labels are the node's, and those that every node has.
func (n *Network) labels() map[string]string {
	labels := map[string]string{"kubernetes.io/hostname": n.Node, "kubernetes.io/os": runtime.GOOS, "kubernetes.io/arch": runtime.GOARCH}
	maps.Copy(labels, n.Labels)
	return labels
}

// previous returns the state that the node has, or nil. A node is fresh that has
// neither state nor lease: what a first sync that fails has made is then undone.
func (n *Network) previous(ctx context.Context) (state *nodestate.State, fresh bool, err error) {
	state, err = nodestate.Read(n.RunDir, n.Spec.Name)
	if err == nil || !errors.Is(err, nodestate.ErrNotReady) {
		return state, false, err
	}
	view, err := n.Registry.View(ctx, n.Spec.Name)
	if err != nil {
		return nil, false, err
	}
	return nil, !slices.ContainsFunc(view.Leases, func(l lease.Lease) bool {
		return l.Node == n.Node || n.Instance != "" && l.Instance == n.Instance
	}), nil
}

// Pods returns how many pods of the network the node has.
func (n *Network) Pods() (count int, err error) {
	conn, err := kernel.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	veths, err := conn.Veths(intent.Group(n.Spec.Name))
	return len(veths), err
}

// Retire takes the network from the node: device, rules, state and leases. Only
// a node without pods in the network may do that.
func (n *Network) Retire(ctx context.Context, v *vtep.Spec) error {
	conn, err := kernel.Open()
	if err != nil {
		return err
	}
	rules := intent.Rules(&n.Spec, v)
	return errors.Join(
		nodestate.Remove(n.RunDir, n.Spec.Name),
		vtep.Remove(ctx, conn, v), conn.Close(),
		n.Firewall.Remove(ctx, &rules),
		n.Leave(ctx),
	)
}

// Leave gives the node's leases back. The last node to leave a network that nodes
// brought takes its registration along.
func (n *Network) Leave(ctx context.Context) error {
	err := n.Registry.Release(ctx, n.Spec.Name, n.Node)
	if err == nil && !n.Stored {
		err = n.Registry.Forget(ctx, n.Spec.Name)
	}
	return err
}

// warn tells of peers that can't be reached, when that changed.
func (n *Network) warn(unreachable []string, local netip.Addr) {
	if slices.Equal(unreachable, n.unreachable) {
		return
	}
	n.unreachable = unreachable
	n.Log.Warn("peers can't be reached", "network", n.Spec.Name, "peers", unreachable,
		"reason", "no underlay address of the family of "+local.String())
}

// apply makes the packet filter and the kernel agree with the intent, in this
// order: what finds its way into the VXLAN must not be masqueraded any more.
func (n *Network) apply(ctx context.Context, want *intent.Node) error {
	changes, err := n.Firewall.Reconcile(ctx, &want.Firewall)
	n.report(changes)
	if err = errors.Join(err, n.program(ctx, want)); err != nil {
		return fmt.Errorf("network %s: %w", n.Spec.Name, err)
	}
	return nil
}

// program makes the kernel agree with the intent.
func (n *Network) program(ctx context.Context, want *intent.Node) error {
	conn, err := kernel.Open()
	if err != nil {
		return err
	}
	objects := netlinkplan.Node(want)
	target := kernel.NewTarget(conn, objects)
	target.Blackholes = want.VTEP.Within
	changes, err := reconcile.Settle(ctx, target, objects, reconcile.Owned)
	n.report(changes)
	err = kernel.Explain(err, kernel.VXLAN{Name: want.VTEP.Device, VNI: want.VTEP.VNI, Port: want.VTEP.Port})
	return errors.Join(err, conn.Close())
}

func (n *Network) report(changes []reconcile.Change) {
	for _, c := range changes {
		n.Log.Debug("changed", "network", n.Spec.Name, "change", c.String())
	}
}

// earliest returns the first expiry of the leases; zero when none expires.
func earliest(leases []lease.Lease) time.Time {
	var first time.Time
	for _, l := range leases {
		if !l.Expires.IsZero() && (first.IsZero() || l.Expires.Before(first)) {
			first = l.Expires
		}
	}
	return first
}

// Name returns the network's name.
func (n *Network) Name() string { return n.Spec.Name }

// Watch calls changed when the network has changed since the last sync, or the
// node needs another block.
func (n *Network) Watch(ctx context.Context, changed func()) error {
	watches, ctx := errgroup.WithContext(ctx)
	watches.Go(func() error { return n.Registry.Watch(ctx, n.Spec.Name, changed) })
	if n.Spec.Pooled() {
		watches.Go(func() error { return n.blocks().Watch(ctx, n.Ledger, changed) })
	}
	return watches.Wait()
}
