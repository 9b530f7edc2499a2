package blocks_test

import (
	"context"
	"errors"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Errors of a node's way to the store.
var (
	errCut      = errors.New("store can't be reached")
	errInjected = errors.New("injected")
)

// fault is what happens at one of the next calls.
type fault int

const (
	none    fault = iota
	refused       // it fails and does nothing
	lost          // it does its work, and the answer is lost
	between       // something else happens before it
)

// client is one node's way to the store that all share.
type client struct {
	*memory
	cut bool // every call fails
	// The fault comes after so many calls that go well.
	fault fault
	after int
	// hit is called at the fault, and before the call where that is to be;
	// nil: nothing.
	hit func()
}

// inject sets the next fault.
func (c *client) inject(f fault, after int, hit func()) { c.fault, c.after, c.hit = f, after, hit }

// call makes one call, or what there is instead of it.
func (c *client) call(do func() error) error {
	if c.cut {
		return errCut
	}
	if c.fault == none {
		return do()
	}
	if c.after--; c.after >= 0 {
		return do()
	}
	f, hit := c.fault, c.hit
	c.inject(none, 0, nil)
	if f == lost {
		if err := do(); err != nil {
			return err
		}
	}
	if hit != nil {
		hit()
	}
	if f != between {
		return errInjected
	}
	if c.cut {
		return errCut
	}
	return do()
}

func (c *client) Get(ctx context.Context, key string) (e store.Entry, err error) {
	err = c.call(func() (err error) { e, err = c.memory.Get(ctx, key); return err })
	return e, err
}

func (c *client) List(ctx context.Context, prefix string) (all []store.Entry, revision store.Revision, err error) {
	err = c.call(func() (err error) { all, revision, err = c.memory.List(ctx, prefix); return err })
	return all, revision, err
}

func (c *client) Create(ctx context.Context, key string, value []byte) (revision store.Revision, err error) {
	err = c.call(func() (err error) { revision, err = c.memory.Create(ctx, key, value); return err })
	return revision, err
}

func (c *client) Update(ctx context.Context, key string, value []byte, old store.Revision) (revision store.Revision, err error) {
	err = c.call(func() (err error) { revision, err = c.memory.Update(ctx, key, value, old); return err })
	return revision, err
}

func (c *client) Delete(ctx context.Context, key string, revision store.Revision) error {
	return c.call(func() error { return c.memory.Delete(ctx, key, revision) })
}
