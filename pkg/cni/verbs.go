package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

func isDrift(err error) bool { return reconcile.IsDrift(err) }

func isConflict(err error) bool { return errors.Is(err, lease.ErrConflict) || isKernelConflict(err) }

// add makes an attachment. The order matters: what exists is refused before an
// address is taken, and what was done is undone when the rest fails.
func (p *Plugin) add(c *call) (err error) {
	a := c.attachment()
	previous, err := previousResult(c.config.PrevResult, c.config.CNIVersion)
	if err != nil {
		return err
	}
	state, err := p.usable(c)
	if err != nil {
		return err
	}
	attacher, err := p.Dataplane.Prepare(c.ctx, a, c.args.Netns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, attacher.Close()) }()
	given, err := p.allocate(c, state)
	if err != nil {
		return err
	}
	pod := podIntent(c, &given, state)
	if err := attacher.Attach(c.ctx, pod); err != nil {
		return errors.Join(err, p.undo(c))
	}
	return p.finish(c, pod, &given, previous)
}

// allocate gets the attachment its addresses.
func (p *Plugin) allocate(c *call, state *nodestate.State) (given allocation, err error) {
	read := func() (*nodestate.State, error) { return p.usable(c) }
	err = withBlocks(c.ctx, state, read, func(s *nodestate.State) (err error) {
		given, err = c.ipam.add(c, s)
		return err
	})
	return given, err
}

// undoTime is what undoing an ADD may take, also when its own time is over.
const undoTime = 20 * time.Second

// undo takes back what ADD has done. An address whose interface can't be
// removed stays taken.
func (p *Plugin) undo(c *call) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), undoTime)
	defer cancel()
	again := *c
	again.ctx = ctx
	return p.del(&again)
}

// finish prints the result; a runtime that doesn't get it knows of nothing.
func (p *Plugin) finish(c *call, pod *intent.Pod, given *allocation, previous *result) error {
	r := buildResult(pod, c.args.Netns, given, c.config.DNS)
	versioned, err := merge(previous, r).GetAsVersion(c.config.CNIVersion)
	if err == nil {
		err = printResult(p.Stdout, versioned)
	}
	if err != nil {
		return errors.Join(err, p.undo(c))
	}
	return nil
}

// podIntent puts together what the attachment should be.
func podIntent(c *call, given *allocation, state *nodestate.State) *intent.Pod {
	pod := &intent.Pod{Attachment: c.attachment(), Addresses: given.addresses, MTU: state.VTEP.MTU, MAC: c.mac(), Routes: given.routes}
	if pod.Routes == nil {
		pod.Routes = everything(given.addresses)
		if pod.Interface != firstInterface { // whose default route wins
			pod.Routes = append(pod.Routes, reached(state.Network.CIDRs, given.addresses)...)
		}
	}
	return pod
}

// reached are those of the CIDRs for which a pod has an address of their family.
func reached(cidrs []netip.Prefix, addresses []netip.Addr) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(cidrs), func(p netip.Prefix) bool {
		return !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return lease.FamilyOf(a) == lease.FamilyOf(p.Addr()) })
	})
}

// firstInterface is what runtimes call the interface that a pod has in any case.
const firstInterface = "eth0"

// mac is the Ethernet address that ADD gives the pod's end.
func (c *call) mac() ether.Addr {
	if c.config.MAC != (ether.Addr{}) {
		return c.config.MAC
	}
	return c.attachment().PodMAC()
}

// everything is the default routes of the families that a pod has.
func everything(addresses []netip.Addr) []netip.Prefix {
	var routes []netip.Prefix
	for _, f := range lease.Families() {
		for _, a := range addresses {
			if lease.FamilyOf(a) != f {
				continue
			}
			unspecified := netip.IPv4Unspecified()
			if f == lease.IPv6 {
				unspecified = netip.IPv6Unspecified()
			}
			routes = append(routes, netip.PrefixFrom(unspecified, 0))
			break
		}
	}
	return routes
}

// del removes an attachment, in any state. The interface goes first: an
// address is free when nobody can use it any more.
func (p *Plugin) del(c *call) error {
	if err := p.Dataplane.Detach(c.ctx, c.attachment()); err != nil {
		return err
	}
	return c.ipam.del(c)
}

// check compares an attachment with what ADD's result says it should be.
func (p *Plugin) check(c *call) error {
	previous, err := previousResult(c.config.PrevResult, c.config.CNIVersion)
	if err != nil {
		return err
	}
	if previous == nil {
		return fmt.Errorf("%w: CHECK needs it", ErrPrevResult)
	}
	pod, err := previous.pod(c.attachment())
	if err != nil {
		return err
	}
	pod.Readdressed = pod.MAC != c.mac()
	if pod.MTU == 0 { // cniVersion below 1.1.0: the result doesn't say
		state, err := p.state(c)
		if err != nil {
			return err
		}
		pod.MTU = state.VTEP.MTU
	}
	return errors.Join(p.Dataplane.Check(c.ctx, pod, c.args.Netns), c.ipam.check(c, pod.Addresses))
}

// status says whether an ADD would be served, and whether running pods have
// their network.
func (p *Plugin) status(c *call) error {
	state, err := p.usable(c)
	if err != nil {
		return unavailable(err)
	}
	err = p.Dataplane.Status(c.ctx, state)
	if isDrift(err) && c.config.Spec != nil {
		// Without a daemon nobody else would mend it.
		if err = nodestate.Remove(c.config.Node.RunDir, c.config.Network); err == nil {
			if state, err = p.state(c); err == nil {
				err = p.Dataplane.Status(c.ctx, state)
			}
		}
	}
	switch {
	case isDrift(err):
		return coded(fmt.Errorf("network %s: %w", c.config.Network, err), types.ErrLimitedConnectivity)
	case err != nil:
		return err
	}
	return unavailable(exhausted(c.ipam.status(c, state), state))
}

// unavailable gives an error the code for "ADD would fail", unless it has the
// code that a delegated plugin gave it.
func unavailable(err error) error {
	if as[*types.Error](err) {
		return err
	}
	return coded(err, types.ErrPluginNotAvailable)
}

// gc removes every attachment of the network that the runtime doesn't know.
func (p *Plugin) gc(c *call) error {
	keep := make([]intent.Attachment, len(c.config.ValidAttachments))
	for i, v := range c.config.ValidAttachments {
		keep[i] = intent.Attachment{Network: c.config.Network, Container: v.ContainerID, Interface: v.IfName}
	}
	// What can't be removed is left, and the rest goes on; the addresses of
	// interfaces that are left stay taken.
	err := p.Dataplane.Collect(c.ctx, c.config.Network, keep)
	return errors.Join(err, c.ipam.gc(c))
}
