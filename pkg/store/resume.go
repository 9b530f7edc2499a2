package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Pauses between attempts to watch: longer from one to the next, and of random
// length, so that the watchers of a cluster don't come back all at once.
const (
	firstPause = 50 * time.Millisecond
	mostPause  = 5 * time.Second
)

// Resume is for implementations of Watch on a server: it watches, and where that
// breaks it goes on from there. watch watches after a place until it breaks, and
// returns the last place that it has seen; an error is one that another attempt
// doesn't mend.
func Resume[Place comparable](ctx context.Context, what string, after Place, watch func(ctx context.Context, after Place) (Place, error)) error {
	pause := firstPause
	for {
		seen, err := watch(ctx, after)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		if seen != after {
			after, pause = seen, firstPause
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		pause = min(2*pause, mostPause)
	}
}
