package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/uptime"
)

const (
	// claimPatience bounds how long an ADD that finds all of a pooled
	// network's blocks full waits for the node to get another.
	claimPatience = 10 * time.Second
	// claimPause is the time between two looks at the node's state.
	claimPause = 20 * time.Millisecond
)

// withBlocks calls allocate with the node's state, and while that finds no free
// address once more with each new one that has other blocks.
func withBlocks(ctx context.Context, state *nodestate.State, read func() (*nodestate.State, error), allocate func(*nodestate.State) error) error {
	err := allocate(state)
	if !errors.Is(err, ipam.ErrFull) || !state.Network.Pooled() {
		return err
	}
	deadline := time.Now().Add(claimPatience)
	for time.Now().Before(deadline) && sleep(ctx, claimPause) == nil {
		next, readErr := read()
		if readErr != nil {
			return readErr
		}
		same := slices.Equal(next.Blocks(), state.Blocks())
		if state = next; same {
			continue
		}
		if err = allocate(state); !errors.Is(err, ipam.ErrFull) {
			return err
		}
	}
	return lacking(err, state)
}

// lacking says why there is no address, and what can be done.
func lacking(err error, s *nodestate.State) error {
	if s.Problem == "" {
		return fmt.Errorf("%w; the node got no other block within %s: is overlayd running, and its store reachable?", err, claimPatience)
	}
	return fmt.Errorf("%w; the node got no other block: %s; add a pool to network %s, or remove pods", err, s.Problem, s.Network.Name)
}

// exhausted is what STATUS makes of IPAM's word: that a pooled network's blocks
// are full matters only if the node got no other.
func exhausted(err error, s *nodestate.State) error {
	if !errors.Is(err, ipam.ErrFull) || !s.Network.Pooled() {
		return err
	}
	if s.Problem == "" {
		return nil
	}
	return lacking(err, s)
}

// usable refuses a state whose lease has ended, by either clock.
func usable(s *nodestate.State) error {
	up, err := uptime.Now()
	if err == nil && s.Expired(time.Now(), up) {
		err = fmt.Errorf("%w: the lease of %v in network %s expired at %s and was not renewed",
			nodestate.ErrNotReady, s.Blocks(), s.Network.Name, s.Expires.Format(time.RFC3339))
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
