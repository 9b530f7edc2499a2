package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/ipam/space"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// sharedSource gives addresses of ranges that all nodes share.
type sharedSource struct{ config *config.IPAM }

// with opens the space for one operation.
func (s *sharedSource) with(ctx context.Context, fn func(context.Context, *space.Space) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	c := s.config.Shared
	instance, err := node.Instance(c.Node.DataDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.config.Ledger), 0o755); err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	opened, err := local.Open(c.StoreDir, local.Options{})
	if err != nil {
		return unopened(err)
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	space, err := space.Open(&space.Options{
		Store: opened, Name: s.config.Name, Ledger: s.config.Ledger,
		Machine: space.Machine{Node: c.Node.Name, Instance: instance},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, space.Close()) }()
	return fn(ctx, space)
}

// unopened marks a store that may be there later.
func unopened(err error) error {
	if errors.Is(err, local.ErrFormat) || errors.Is(err, store.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", space.ErrUnavailable, err)
}

// codedShared gives the errors that only a shared space has their CNI code.
func codedShared(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return err
	case errors.Is(err, space.ErrUnavailable) || errors.Is(err, space.ErrReleased):
		return coded(err, types.ErrTryAgainLater)
	case errors.Is(err, space.ErrNotHeld):
		return coded(err, CodeDrift)
	}
	return err
}

// alone keeps calls of one attachment apart: a DEL must not free what an ADD that
// comes meanwhile has found.
func (s *sharedSource) alone(ctx context.Context, a ipam.Attachment, fn func(context.Context, *space.Space) error) error {
	attachment := intent.Attachment{Network: s.config.Name, Container: a.ContainerID, Interface: a.Interface}
	return codedShared(node.Exclusively(ctx, filepath.Dir(s.config.Ledger), attachment, func() error { return s.with(ctx, fn) }))
}

func (s *sharedSource) add(ctx context.Context, a ipam.Attachment, deliver func(*result) error) error {
	return s.alone(ctx, a, func(ctx context.Context, space *space.Space) error {
		addresses, err := space.Allocate(ctx, ipam.Request{Attachment: a, Sets: s.config.Sets, Addresses: s.config.Addresses})
		if err != nil {
			return err
		}
		if err := deliver(&result{types100.Result{IPs: inSubnets(s.config, addresses)}}); err != nil {
			_, undo := space.Release(ctx, a)
			return errors.Join(err, undo)
		}
		return nil
	})
}

func (s *sharedSource) del(ctx context.Context, a ipam.Attachment) error {
	return s.alone(ctx, a, func(ctx context.Context, space *space.Space) error {
		_, err := space.Release(ctx, a)
		return err
	})
}

func (s *sharedSource) check(ctx context.Context, a ipam.Attachment, given []netip.Addr) error {
	ours, err := ofSubnets(s.config, given)
	if err != nil {
		return err
	}
	return codedShared(s.with(ctx, func(ctx context.Context, space *space.Space) error { return space.Check(ctx, a, ours) }))
}

func (s *sharedSource) status(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, space *space.Space) error {
		if err := space.Sweep(ctx); err != nil {
			return err
		}
		usage, err := space.Usage(ctx, s.config.Sets)
		if err != nil {
			return err
		}
		return exhaustedSet(s.config.Sets, usage)
	})
}

func (s *sharedSource) gc(ctx context.Context, valid []types.GCAttachment) error {
	return codedShared(s.with(ctx, func(ctx context.Context, space *space.Space) error {
		return space.Collect(ctx, attachments(valid))
	}))
}
