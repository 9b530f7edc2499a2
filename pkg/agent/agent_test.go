package agent_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/agent"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

var errStore = errors.New("store is away")

// network notes when it is called, in the time of the test's bubble.
type network struct {
	name string
	// sync is asked for the outcome of sync i; nil: it succeeds.
	sync func(ctx context.Context, i int) error
	// watch is watch i; nil: it lasts until ctx ends.
	watch func(ctx context.Context, i int, changed func()) error

	// audit is audit i; nil: it succeeds.
	audit func(i int) error

	mu      sync.Mutex
	audits  []time.Time
	syncs   []time.Time
	watches []time.Time
}

func (n *network) Name() string { return n.name }

func (n *network) Sync(ctx context.Context) (*nodestate.State, error) {
	n.mu.Lock()
	i := len(n.syncs)
	n.syncs = append(n.syncs, time.Now())
	n.mu.Unlock()
	if n.sync != nil {
		if err := n.sync(ctx, i); err != nil {
			return nil, err
		}
	}
	return &nodestate.State{}, nil
}

func (n *network) Watch(ctx context.Context, changed func()) error {
	n.mu.Lock()
	i := len(n.watches)
	n.watches = append(n.watches, time.Now())
	n.mu.Unlock()
	if n.watch != nil {
		return n.watch(ctx, i, changed)
	}
	<-ctx.Done()
	return ctx.Err()
}

func (n *network) Audit(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.audits = append(n.audits, time.Now())
	if n.audit != nil {
		return n.audit(len(n.audits) - 1)
	}
	return nil
}

func (n *network) counts() (syncs, watches int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.syncs), len(n.watches)
}

// start runs an agent in the test's bubble, and returns what stops it.
func start(t *testing.T, a *agent.Agent) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stopped, the agent returns %v", err)
		}
	}
}

// pass lets time pass: at once, for the bubble has a clock of its own.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// wantCounts checks how often a network was synced and watched.
func wantCounts(t *testing.T, when string, n *network, syncs, watches int) {
	t.Helper()
	if s, w := n.counts(); s != syncs || w != watches {
		t.Errorf("%s: %d syncs and %d watches, want %d and %d", when, s, w, syncs, watches)
	}
}

func TestSyncAtOnceThenWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{name: "pods"}
		stop := start(t, &agent.Agent{Networks: agent.Fixed{n}})
		wantCounts(t, "at the start", n, 1, 1)
		stop()
	})
}

func TestChangeWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		changes := make(chan struct{})
		n := &network{name: "pods", watch: func(ctx context.Context, _ int, changed func()) error {
			for {
				select {
				case <-changes:
					changed()
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}}
		stop := start(t, &agent.Agent{Networks: agent.Fixed{n}})
		began := time.Now()
		changes <- struct{}{}
		<-time.After(time.Second)
		wantCounts(t, "after a change", n, 2, 1)
		if late := n.syncs[1].Sub(began); late != 20*time.Millisecond { // right behind another sync
			t.Errorf("the sync came %s after the change", late)
		}
		changes <- struct{}{}
		synctest.Wait()
		wantCounts(t, "after another one, later", n, 3, 1)
		stop()
	})
}

// TestChangesDuringASync: what changes while a sync runs brings one more sync,
// however much it is.
func TestChangesDuringASync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		running, goOn := make(chan struct{}), make(chan struct{})
		var changed func()
		n := &network{
			name: "pods",
			sync: func(_ context.Context, i int) error {
				if i == 1 {
					close(running)
					<-goOn
				}
				return nil
			},
			watch: func(ctx context.Context, _ int, fn func()) error {
				changed = fn
				fn()
				<-ctx.Done()
				return ctx.Err()
			},
		}
		stop := start(t, &agent.Agent{Networks: agent.Fixed{n}})
		<-running
		for range 10 {
			changed()
		}
		close(goOn)
		<-time.After(time.Second)
		wantCounts(t, "after ten changes during a sync", n, 3, 1)
		stop()
	})
}

func TestResync(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		ttl         time.Duration
		least, most time.Duration // between two syncs
	}{
		{"without leases that end", 0, 24 * time.Second, 30 * time.Second},
		{"with long leases", 24 * time.Hour, 24 * time.Second, 30 * time.Second},
		{"with short leases, several times in their life", time.Minute, 8 * time.Second, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := &network{name: "pods"}
				stop := start(t, &agent.Agent{Networks: agent.Fixed{n}, LeaseTTL: test.ttl})
				pass(10 * time.Minute)
				stop()
				if len(n.syncs) < 10 {
					t.Errorf("it synced %d times", len(n.syncs))
				}
				for i := 1; i < len(n.syncs); i++ {
					if gap := n.syncs[i].Sub(n.syncs[i-1]); gap < test.least || gap > test.most {
						t.Errorf("%s between two syncs, want %s to %s", gap, test.least, test.most)
					}
				}
			})
		})
	}
}

// TestRetry: the waits after failures grow, have a bound, and begin small
// again after a success. The watch begins with the first success.
func TestRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const failures = 10
		n := &network{name: "pods", sync: func(_ context.Context, i int) error {
			if i == failures || i > failures+2 {
				return nil
			}
			return errStore
		}}
		stop := start(t, &agent.Agent{Networks: agent.Fixed{n}})
		wantCounts(t, "at first", n, 1, 0)
		pass(5 * time.Minute)
		stop()
		if len(n.watches) != 1 || n.watches[0].Before(n.syncs[failures]) {
			t.Errorf("watches began at %v", n.watches)
		}
		gap := func(i int) time.Duration { return n.syncs[i+1].Sub(n.syncs[i]) }
		retry := 250 * time.Millisecond
		for i := range failures {
			if g := gap(i); g > retry || g < retry*4/5-1 {
				t.Errorf("%s after failure %d, want about %s", g, i, retry)
			}
			retry = min(2*retry, 30*time.Second)
		}
		if g := gap(failures); g < 24*time.Second {
			t.Errorf("%s after the success", g)
		}
		for i, want := range []time.Duration{250 * time.Millisecond, 500 * time.Millisecond} {
			if g := gap(failures + 1 + i); g > want || g < want*4/5-1 {
				t.Errorf("%s after failure %d that followed a success, want about %s", g, i, want)
			}
		}
	})
}

// TestWatchStartsOver: after an error a sync finds what was missed, and the
// watch goes on from there; the waits grow until a watch has lasted.
func TestWatchStartsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const quick = 4
		n := &network{name: "pods", watch: func(ctx context.Context, i int, _ func()) error {
			switch {
			case i == quick: // lasts, then fails
				select {
				case <-time.After(time.Minute):
				case <-ctx.Done():
				}
				return errStore
			case i < quick:
				return store.ErrCompacted
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		stop := start(t, &agent.Agent{Networks: agent.Fixed{n}})
		pass(10 * time.Minute)
		stop()
		if len(n.watches) != quick+2 {
			t.Fatalf("%d watches, want %d", len(n.watches), quick+2)
		}
		retry := 250 * time.Millisecond
		for i := range quick {
			if g := n.watches[i+1].Sub(n.watches[i]); g > retry || g < retry*4/5-1 {
				t.Errorf("watch %d came %s after the one before, want about %s", i+1, g, retry)
			}
			if !slices.ContainsFunc(n.syncs, n.watches[i].Equal) {
				t.Errorf("no sync when watch %d ended", i)
			}
			retry *= 2
		}
		ended := n.watches[quick].Add(time.Minute)
		if g := n.watches[quick+1].Sub(ended); g > 250*time.Millisecond {
			t.Errorf("%s after a watch that had lasted, want the first wait again", g)
		}
	})
}

func TestNetworksAreApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := &network{name: "broken", sync: func(context.Context, int) error { return errStore }}
		hung := &network{name: "hung", sync: func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }}
		good := &network{name: "good"}
		stop := start(t, &agent.Agent{Networks: agent.Fixed{broken, hung, good}})
		pass(time.Minute)
		if syncs, watches := good.counts(); syncs < 3 || watches != 1 {
			t.Errorf("the good network: %d syncs, %d watches", syncs, watches)
		}
		wantCounts(t, "the one that hangs", hung, 1, 0)
		if syncs, watches := broken.counts(); syncs < 5 || watches != 0 {
			t.Errorf("the broken network: %d syncs, %d watches", syncs, watches)
		}
		stop()
	})
}

// TestStop: the agent ends at once, whatever its tasks wait for, and leaves
// nothing running; the bubble would notice.
func TestStop(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]*network{
		"between two syncs": {},
		"during a sync":     {sync: func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }},
		"before a retry":    {sync: func(context.Context, int) error { return errStore }},
		"before a watch":    {watch: func(context.Context, int, func()) error { return errStore }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n.name = "pods"
				stop := start(t, &agent.Agent{Networks: agent.Fixed{n}})
				began := time.Now()
				stop()
				if took := time.Since(began); took != 0 {
					t.Errorf("stopping took %s", took)
				}
				syncs, _ := n.counts()
				pass(time.Hour)
				if later, _ := n.counts(); later != syncs {
					t.Errorf("%d syncs after the end", later-syncs)
				}
			})
		})
	}
}

// An audit that fails is no reason to stop auditing, nor anything else.
func TestAudit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{name: "pods", audit: func(int) error { return errStore }}
		began := time.Now()
		stop := start(t, &agent.Agent{Networks: agent.Fixed{n}})
		<-time.After(10 * agent.Audit)
		stop()
		if len(n.audits) < 10 || len(n.audits) > 13 {
			t.Errorf("%d audits in %s", len(n.audits), time.Since(began))
		}
		if first := n.audits[0].Sub(began); first < agent.Audit*4/5 || first > agent.Audit {
			t.Errorf("the first after %s", first)
		}
	})
}
