package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/netlinkplan"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Linux is the Dataplane of the Linux kernel.
type Linux struct{}

// isKernelConflict says whether a device can't be had because of another.
func isKernelConflict(err error) bool {
	return errors.Is(err, kernel.ErrVNIInUse) || errors.Is(err, kernel.ErrPortInUse) || errors.Is(err, kernel.ErrLinkExists)
}

// link is the attachment to be made: connections to both namespaces.
type link struct {
	host, pod *kernel.Conn
}

// openBoth connects to the node's and the container's namespace.
func openBoth(netns string) (*link, error) {
	pod, err := kernel.OpenNamespace(netns)
	if err != nil {
		return nil, namespaceError(err)
	}
	host, err := kernel.Open()
	if err != nil {
		return nil, errors.Join(err, pod.Close())
	}
	l := &link{host: host, pod: pod}
	if same, err := pod.IsOwn(); same || err != nil {
		return nil, errors.Join(fmt.Errorf("%w: CNI_NETNS %q is the plugin's own", ErrNamespace, netns), err, l.Close())
	}
	return l, nil
}

func namespaceError(err error) error {
	if errors.Is(err, kernel.ErrNamespace) && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: CNI_NETNS: %w", ErrNamespace, err)
	}
	return err
}

// Close ends the connections.
func (l *link) Close() error { return errors.Join(l.host.Close(), l.pod.Close()) }

// Prepare implements Dataplane.
func (Linux) Prepare(ctx context.Context, a intent.Attachment, netns string) (Attacher, error) {
	l, err := openBoth(netns)
	if err != nil {
		return nil, err
	}
	if err := l.clear(ctx, a); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// clear removes what a killed ADD left of the attachment, and refuses to touch
// one that is complete, or an interface that isn't ours.
func (l *link) clear(ctx context.Context, a intent.Attachment) error {
	pod := &intent.Pod{Attachment: a}
	host := netlinkplan.HostVeth(pod)
	have, err := (&kernel.Target{Conn: l.host, Links: []string{host.Name}}).Observe(ctx)
	if err != nil {
		return err
	}
	_, _, mark := netlinkplan.Pod(pod)
	if slices.Contains(have, mark) {
		return fmt.Errorf("%w: %s is attached to network %s as %s already", ErrInterfaceExists, a.Interface, a.Network, host.Name)
	}
	if len(have) > 0 {
		if err := l.remove(ctx, host); err != nil {
			return err
		}
	}
	have, err = (&kernel.Target{Conn: l.pod, Links: []string{a.Interface}}).Observe(ctx)
	if err != nil {
		return err
	}
	if len(have) > 0 {
		return fmt.Errorf("%w: the container has %s", ErrInterfaceExists, have[0])
	}
	return nil
}

func (l *link) remove(ctx context.Context, host kernel.Veth) error {
	return (&kernel.Target{Conn: l.host}).Apply(ctx, []reconcile.Change{{Have: host}})
}

// Attach implements Attacher. The pair appears with one end in the container;
// then both ends are configured; the mark comes last. An address that another
// interface has stays there, whatever IPAM says.
func (l *link) Attach(ctx context.Context, p *intent.Pod) error {
	host, pod, mark := netlinkplan.Pod(p)
	node := &kernel.Target{Conn: l.host, Peer: l.pod, Exclusive: true}
	pair := reconcile.Diff(host[:1], nil, reconcile.Shared)
	if err := node.Apply(ctx, pair); err != nil {
		return err
	}
	pod = append(pod, netlinkplan.Announcements(p)...)
	_, err := reconcile.Run(ctx, kernel.NewTarget(l.pod, pod), pod, reconcile.Shared)
	if err == nil {
		err = node.Apply(ctx, reconcile.Diff(append(host[1:], mark), nil, reconcile.Shared))
	}
	if errors.Is(err, kernel.ErrRouteExists) {
		err = coded(err, CodeAddressUnavailable)
	}
	if err != nil {
		return errors.Join(err, l.remove(context.WithoutCancel(ctx), netlinkplan.HostVeth(p)))
	}
	return nil
}

// Detach implements Dataplane. The container's end goes with the host's, and
// with them their addresses and routes; the container's namespace isn't
// needed, and may be gone.
func (Linux) Detach(ctx context.Context, a intent.Attachment) (err error) {
	conn, err := kernel.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return (&link{host: conn}).remove(ctx, netlinkplan.HostVeth(&intent.Pod{Attachment: a}))
}

// Check implements Dataplane.
func (Linux) Check(ctx context.Context, p *intent.Pod, netns string) (err error) {
	l, err := openBoth(netns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	host, pod, mark := netlinkplan.Pod(p)
	host = append(host, mark)
	onHost, err := reconcile.Check(ctx, kernel.NewTarget(l.host, host), host, reconcile.Shared)
	if err != nil {
		return err
	}
	inPod, err := reconcile.Check(ctx, kernel.NewTarget(l.pod, pod), pod, reconcile.Shared)
	if err != nil {
		return err
	}
	return reconcile.Drift(append(onHost, inPod...))
}

// Collect implements Dataplane. Which links are the network's follows from
// their group, which they have from the first; whose they are, from the name.
func (Linux) Collect(ctx context.Context, network string, keep []intent.Attachment) (err error) {
	conn, err := kernel.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	valid := make(map[string]bool, len(keep))
	for _, a := range keep {
		valid[a.HostInterface()] = true
	}
	links, err := conn.Veths(intent.Group(network))
	if err != nil {
		return err
	}
	var changes []reconcile.Change
	for _, v := range links {
		if !valid[v.Name] {
			changes = append(changes, reconcile.Change{Have: v})
		}
	}
	return (&kernel.Target{Conn: conn}).Apply(ctx, changes)
}

// Live implements Dataplane.
func (Linux) Live(ctx context.Context, network string) ([]ipam.Allocation, error) {
	return node.Live(ctx, network)
}

// Status implements Dataplane.
func (Linux) Status(ctx context.Context, s *nodestate.State) error {
	changes, err := node.Check(ctx, s)
	if err != nil {
		return err
	}
	return reconcile.Drift(changes)
}
