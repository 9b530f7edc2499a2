// Package agent is the daemon: tasks that run side by side, one for each
// network and one that answers about their health. What a task does is decided
// elsewhere; here is when.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Times of the network tasks.
const (
	// Resync is how often a network is looked at though nothing is known to
	// have changed.
	Resync = 30 * time.Second
	// Audit is how often the addresses are audited.
	Audit = time.Minute
	// firstRetry and lastRetry bound the wait after a failure.
	firstRetry = 250 * time.Millisecond
	// settlePause is the least time between two syncs.
	settlePause = 20 * time.Millisecond
	lastRetry   = 30 * time.Second
)

// Network is what the daemon does for one network; node.Network is one.
type Network interface {
	Name() string
	// Sync brings the node to what it should be.
	Sync(ctx context.Context) (*nodestate.State, error)
	// Watch calls changed when the store has changed since a revision.
	Watch(ctx context.Context, after store.Revision, changed func()) error
	// Audit looks for addresses that were leaked, and frees them in the end.
	Audit(ctx context.Context) error
}

// Agent runs the tasks.
type Agent struct {
	Networks []Network
	Health   *Health
	// LeaseTTL is what the networks' leases last, so that they are renewed
	// in time.
	LeaseTTL time.Duration
	Log      *slog.Logger // nil discards
}

// Run runs all tasks until ctx ends, or one fails for good.
func (a *Agent) Run(ctx context.Context) error {
	log := orDiscard(a.Log)
	tasks, ctx := errgroup.WithContext(ctx)
	if a.Health != nil {
		tasks.Go(func() error { return a.Health.Run(ctx) })
	}
	for _, n := range a.Networks {
		t := &task{network: n, agent: a, log: log.With("network", n.Name()), wake: make(chan struct{}, 1), up: make(chan struct{})}
		tasks.Go(func() error { return t.keep(ctx) })
		tasks.Go(func() error { return t.watch(ctx) })
		tasks.Go(func() error { return t.audit(ctx) })
	}
	if err := tasks.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// task keeps one network.
type task struct {
	network  Network
	agent    *Agent
	log      *slog.Logger
	wake     chan struct{} // something changed
	up       chan struct{} // closed by the first sync that succeeds
	once     sync.Once
	revision atomic.Int64 // of the store, at the last sync
}

// changed wakes the task; several changes wake it once.
func (t *task) changed() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// keep syncs the network now, when something changed, and after a while.
func (t *task) keep(ctx context.Context) error {
	retry := firstRetry
	for {
		state, err := t.network.Sync(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t.agent.Health.report(t.network.Name(), state, err)
		pause := jitter(min(Resync, t.renewal()))
		if err != nil {
			t.log.Error("sync failed", "error", err, "retry", retry)
			pause, retry = jitter(retry), min(2*retry, lastRetry, t.renewal())
		} else {
			retry = firstRetry
			t.revision.Store(int64(state.Revision))
			t.once.Do(func() {
				t.log.Info("network is up", "device", state.VTEP.Device, "blocks", state.VTEP.Blocks, "mtu", state.VTEP.MTU)
				close(t.up)
			})
		}
		ended := time.Now()
		if err := sleep(ctx, pause, t.wake); err != nil {
			return err
		}
		// Changes that come close upon each other are taken together.
		if err := sleep(ctx, settlePause-time.Since(ended), nil); err != nil {
			return err
		}
	}
}

// renewal is how often leases must be looked at to be renewed in time.
func (t *task) renewal() time.Duration {
	if t.agent.LeaseTTL == 0 {
		return Resync
	}
	return t.agent.LeaseTTL / 6
}

// watch wakes the task when the store changes. It starts where the last sync
// ended. When the store can't go on, a sync finds what was missed, and the
// watch starts over from there.
func (t *task) watch(ctx context.Context) error {
	select {
	case <-t.up:
	case <-ctx.Done():
		return ctx.Err()
	}
	retry := firstRetry
	for {
		started := time.Now()
		err := t.network.Watch(ctx, store.Revision(t.revision.Load()), t.changed)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(started) > lastRetry {
			retry = firstRetry // it had worked
		}
		t.log.Warn("watch ended", "error", err, "retry", retry)
		t.changed()
		if err := sleep(ctx, jitter(retry), nil); err != nil {
			return err
		}
		retry = min(2*retry, lastRetry)
	}
}

// audit audits the network's addresses now and then. A failure is told, and that
// is all: the next audit looks again.
func (t *task) audit(ctx context.Context) error {
	for {
		if err := sleep(ctx, jitter(Audit), nil); err != nil {
			return err
		}
		if err := t.network.Audit(ctx); err != nil && ctx.Err() == nil {
			t.log.Error("audit failed", "error", err)
		}
	}
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// sleep waits for a while, or until woken.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// jitter keeps nodes that started together from staying in step.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/5+1) }
