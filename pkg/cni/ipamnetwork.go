package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// overlaySource gives addresses of the node's blocks of an overlay network, to
// attachments that another main plugin makes. It shares the ledger with
// overlay-vxlan.
type overlaySource struct {
	config *config.IPAM
	ledger *inProcess
}

func newOverlaySource(c *config.IPAM) *overlaySource {
	return &overlaySource{config: c, ledger: &inProcess{
		ledger: c.Ledger, cooldown: c.Cooldown,
		live: func(ctx context.Context) ([]ipam.Allocation, error) { return liveOverlay(ctx, c.Name) },
	}}
}

// state returns what the node has in the network, if addresses may be given out.
func (s *overlaySource) state() (*nodestate.State, error) {
	state, err := nodestate.Read(s.config.Overlay.RunDir, s.config.Name)
	if err != nil {
		return nil, fmt.Errorf("%w; is overlayd running, and has it network %s?", err, s.config.Name)
	}
	return state, usable(state)
}

func (s *overlaySource) add(ctx context.Context, a ipam.Attachment, deliver func(*result) error) error {
	state, err := s.state()
	if err != nil {
		return err
	}
	return withBlocks(ctx, state, s.state, func(state *nodestate.State) error {
		return s.ledger.with(ctx, func(ctx context.Context, l *ipam.Ledger) error {
			addresses, err := l.Allocate(ctx, ipam.Request{
				Attachment: a, Sets: blocks.PodRanges(state.Blocks()), Addresses: s.config.Addresses, Elsewhere: true,
			})
			if err != nil {
				return err
			}
			if err := deliver(inBlocks(state, addresses)); err != nil {
				_, undo := l.Release(ctx, a)
				return errors.Join(err, undo)
			}
			return nil
		})
	})
}

// inBlocks is what a result says of addresses of the node's blocks. The network
// itself is always reached.
func inBlocks(state *nodestate.State, addresses []netip.Addr) *result {
	r := &result{}
	for _, a := range addresses {
		for _, block := range state.Blocks() {
			if block.Contains(a) {
				r.IPs = append(r.IPs, &types100.IPConfig{
					Address: ipNet(netip.PrefixFrom(a, block.Bits())), Gateway: vtep.Gateway(block).AsSlice(),
				})
			}
		}
	}
	for _, cidr := range state.Network.CIDRs {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(cidr)})
	}
	return r
}

func (s *overlaySource) del(ctx context.Context, a ipam.Attachment) error {
	return s.ledger.release(ctx, a)
}

func (s *overlaySource) check(ctx context.Context, a ipam.Attachment, given []netip.Addr) error {
	state, err := nodestate.Read(s.config.Overlay.RunDir, s.config.Name)
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(given, func(a netip.Addr) bool { return !state.Network.Contains(a) })
	if len(ours) == 0 {
		return fmt.Errorf("%w: it has no address of network %s", ErrPrevResult, s.config.Name)
	}
	return s.ledger.held(ctx, a, ours)
}

func (s *overlaySource) status(ctx context.Context) error {
	state, err := s.state()
	if err != nil {
		return err
	}
	return exhausted(s.ledger.free(ctx, blocks.PodRanges(state.Blocks())), state)
}

func (s *overlaySource) gc(ctx context.Context, valid []types.GCAttachment) error {
	return s.ledger.retain(ctx, valid)
}
