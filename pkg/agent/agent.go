// Package agent is the daemon: tasks that run side by side, some for each
// network, one that starts and stops those, and one that answers about their
// health. What a task does is decided elsewhere; here is when.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
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
	lastRetry  = 30 * time.Second
	// firstAnnouncement is how long a node that starts needn't be ready.
	firstAnnouncement = 20 * time.Second
	// Between two syncs there is a pause of settleShare times what the first
	// took, within these bounds: where many nodes come or go, following them
	// takes a fifth of a CPU, and of a slow machine a little more, for a node
	// that joins is waited for.
	settlePause     = 20 * time.Millisecond
	mostSettlePause = 250 * time.Millisecond
	settleShare     = 4
)

// Network is what the daemon does for one network; node.Network is one.
type Network interface {
	Name() string
	// Sync brings the node to what it should be.
	Sync(ctx context.Context) (*nodestate.State, error)
	// Watch calls changed when what Sync has seen may have changed since.
	Watch(ctx context.Context, changed func()) error
	// Audit looks for addresses that were leaked, and frees them in the end.
	Audit(ctx context.Context) error
}

// Agent runs the tasks.
type Agent struct {
	Networks Source
	Health   *Health
	// Announce tells the cluster whether pods on the node have their networks,
	// and if not, why; nil: nobody wants to know. It needs Health.
	Announce func(ctx context.Context, ready bool, reason string) error
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
	if a.Announce != nil {
		tasks.Go(func() error { return announce(ctx, a.Health, a.Announce, log) })
	}
	s := &set{agent: a, log: log, wake: make(chan struct{}, 1), running: map[string]*running{}}
	tasks.Go(func() error { return s.keep(ctx) })
	tasks.Go(func() error { return s.watch(ctx) })
	if err := tasks.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// task keeps one network.
type task struct {
	network Network
	agent   *Agent
	log     *slog.Logger
	wake    chan struct{} // something changed
	up      chan struct{} // closed by the first sync that succeeds
	once    sync.Once
}

// run runs a network's tasks until ctx ends.
func (t *task) run(ctx context.Context) {
	var tasks sync.WaitGroup
	tasks.Go(func() { t.keep(ctx) })
	tasks.Go(func() { t.watch(ctx) })
	tasks.Go(func() { t.audit(ctx) })
	tasks.Wait()
}

// changed wakes the task; several changes wake it once.
func (t *task) changed() { rouse(t.wake) }

func rouse(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// keep syncs the network now, when something changed, and after a while.
func (t *task) keep(ctx context.Context) {
	retry := firstRetry
	for {
		started := time.Now()
		state, err := t.network.Sync(ctx)
		if ctx.Err() != nil {
			return
		}
		t.agent.Health.report(t.network.Name(), state, err)
		pause := jitter(min(Resync, t.renewal()))
		if err != nil {
			t.log.Error("sync failed", "error", err, "retry", retry)
			pause, retry = jitter(retry), min(2*retry, lastRetry, t.renewal())
		} else {
			retry = firstRetry
			t.once.Do(func() {
				t.log.Info("network is up", "device", state.VTEP.Device, "blocks", state.VTEP.Blocks, "mtu", state.VTEP.MTU)
				close(t.up)
			})
		}
		ended := time.Now()
		settle := min(max(settleShare*ended.Sub(started), settlePause), mostSettlePause)
		if sleep(ctx, pause, t.wake) != nil {
			return
		}
		// Changes that come close upon each other are taken together.
		if sleep(ctx, settle-time.Since(ended), nil) != nil {
			return
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

// watch wakes the task when the store changes. When the store can't go on, a sync finds what was missed, and the
// watch starts over from there.
func (t *task) watch(ctx context.Context) {
	select {
	case <-t.up:
		follow(ctx, t.log, t.network.Watch, t.changed)
	case <-ctx.Done():
	}
}

// follow watches until ctx ends.
func follow(ctx context.Context, log *slog.Logger, watch func(ctx context.Context, changed func()) error, changed func()) {
	retry := firstRetry
	for {
		started := time.Now()
		err := watch(ctx, changed)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > lastRetry {
			retry = firstRetry // it had worked
		}
		log.Warn("watch ended", "error", err, "retry", retry)
		changed()
		if sleep(ctx, jitter(retry), nil) != nil {
			return
		}
		retry = min(2*retry, lastRetry)
	}
}

// audit audits the network's addresses now and then. A failure is told, and that
// is all: the next audit looks again.
func (t *task) audit(ctx context.Context) {
	for sleep(ctx, jitter(Audit), nil) == nil {
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
