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
	"github.com/overlay-cni/overlay-cni/pkg/config"
)

// rangeSource gives addresses of ranges that are this node's alone, as
// host-local does.
type rangeSource struct {
	config *config.IPAM
	ledger *inProcess
}

func (s *rangeSource) add(ctx context.Context, a ipam.Attachment, deliver func(*result) error) error {
	return s.ledger.with(ctx, func(ctx context.Context, l *ipam.Ledger) error {
		addresses, err := l.Allocate(ctx, ipam.Request{Attachment: a, Sets: s.config.Sets, Addresses: s.config.Addresses})
		if err != nil {
			return err
		}
		if err := deliver(&result{types100.Result{IPs: inSubnets(s.config, addresses)}}); err != nil {
			_, undo := l.Release(ctx, a)
			return errors.Join(err, undo)
		}
		return nil
	})
}

func (s *rangeSource) del(ctx context.Context, a ipam.Attachment) error {
	return s.ledger.release(ctx, a)
}

func (s *rangeSource) check(ctx context.Context, a ipam.Attachment, given []netip.Addr) error {
	ours, err := ofSubnets(s.config, given)
	if err != nil {
		return err
	}
	return s.ledger.held(ctx, a, ours)
}

func (s *rangeSource) status(ctx context.Context) error {
	return s.ledger.free(ctx, s.config.Sets)
}

func (s *rangeSource) gc(ctx context.Context, valid []types.GCAttachment) error {
	return (&inProcess{ledger: s.config.Ledger}).retain(ctx, valid)
}

// inSubnets is what a result says of addresses of ranges.
func inSubnets(c *config.IPAM, addresses []netip.Addr) []*types100.IPConfig {
	var ips []*types100.IPConfig
	for _, a := range addresses {
		subnet, _ := c.SubnetOf(a)
		ips = append(ips, &types100.IPConfig{
			Address: ipNet(netip.PrefixFrom(a, subnet.Prefix.Bits())), Gateway: subnet.Gateway.AsSlice(),
		})
	}
	return ips
}

// ofSubnets are the addresses that are of the ranges' subnets; a result of ours
// has one of each set.
func ofSubnets(c *config.IPAM, given []netip.Addr) ([]netip.Addr, error) {
	ours := slices.DeleteFunc(given, func(a netip.Addr) bool {
		_, in := c.SubnetOf(a)
		return !in
	})
	if len(ours) < len(c.Sets) {
		return nil, fmt.Errorf("%w: it has %d addresses of our ranges, want %d", ErrPrevResult, len(ours), len(c.Sets))
	}
	return ours, nil
}
