package agent

import (
	"context"
	"log/slog"
	"slices"
)

// Source says which networks the node has to serve.
type Source interface {
	// List returns them: the same value each time for one that stays as it is.
	List(ctx context.Context) ([]Network, error)
	// Watch calls changed when List may return others than the last time.
	Watch(ctx context.Context, changed func()) error
	// Retire takes from the node what it still has of networks that aren't
	// listed. None of their tasks run then.
	Retire(ctx context.Context) error
}

// Fixed are networks that a node always serves.
type Fixed []Network

// List implements Source.
func (f Fixed) List(context.Context) ([]Network, error) { return f, nil }

// Watch implements Source.
func (f Fixed) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// Retire implements Source.
func (f Fixed) Retire(context.Context) error { return nil }

// set keeps the tasks of the networks that the node has to serve.
type set struct {
	agent *Agent
	log   *slog.Logger
	wake  chan struct{}

	running map[string]*running // by the network's name
}

// running is a network's tasks.
type running struct {
	network Network
	stop    context.CancelFunc
	done    chan struct{}
}

// keep starts and stops networks' tasks until ctx ends, and then waits for all.
func (s *set) keep(ctx context.Context) error {
	defer func() {
		for _, r := range s.running {
			r.end()
		}
	}()
	retry := firstRetry
	for {
		err := s.settle(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause := jitter(Resync)
		if err != nil {
			s.log.Error("networks aren't settled", "error", err, "retry", retry)
			pause, retry = jitter(retry), min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		if err := sleep(ctx, pause, s.wake); err != nil {
			return err
		}
		if err := sleep(ctx, settlePause, nil); err != nil {
			return err
		}
	}
}

// settle lists the networks once, and does what follows.
func (s *set) settle(ctx context.Context) error {
	networks, err := s.agent.Networks.List(ctx)
	if err != nil {
		s.agent.Health.listed(err)
		return err
	}
	for name, r := range s.running {
		if !slices.Contains(networks, r.network) {
			s.log.Info("network is no longer served", "network", name)
			r.end()
			delete(s.running, name)
			s.agent.Health.forget(name)
		}
	}
	err = s.agent.Networks.Retire(ctx) // first: new ones may need what old ones have
	for _, n := range networks {
		if s.running[n.Name()] == nil {
			s.running[n.Name()] = s.start(ctx, n)
		}
	}
	s.agent.Health.listed(nil)
	return err
}

func (s *set) start(ctx context.Context, n Network) *running {
	s.agent.Health.expect(n.Name())
	ctx, stop := context.WithCancel(ctx)
	r := &running{network: n, stop: stop, done: make(chan struct{})}
	t := &task{network: n, agent: s.agent, log: s.log.With("network", n.Name()), wake: make(chan struct{}, 1), up: make(chan struct{})}
	go func() {
		defer close(r.done)
		t.run(ctx)
	}()
	return r
}

// end stops a network's tasks.
func (r *running) end() {
	r.stop()
	<-r.done
}

// watch wakes the set when there may be other networks.
func (s *set) watch(ctx context.Context) error {
	follow(ctx, s.log, s.agent.Networks.Watch, func() { rouse(s.wake) })
	return ctx.Err()
}
