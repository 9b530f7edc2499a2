package conformance

// Waiting for what is to be, and seeing that it stays.

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// until asks again until something holds, or returns what it says at last.
func until(ctx context.Context, holds func() error) error {
	const deadline, pause = 5 * time.Second, 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		err := holds()
		if _, violated := errors.AsType[*Violation](err); !violated {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// while repeats something until another thing has been done, and is violated by
// the first time that it fails.
func while(ctx context.Context, happens, holds func(context.Context) error) error {
	const pause = 100 * time.Millisecond
	g, gctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	g.Go(func() error {
		defer close(done)
		return happens(gctx)
	})
	g.Go(func() error {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			if err := holds(gctx); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-done:
				return nil
			}
		}
	})
	return g.Wait()
}

// passes lets some time pass.
func passes(ctx context.Context) error {
	over := time.NewTimer(watched)
	defer over.Stop()
	select {
	case <-over.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
