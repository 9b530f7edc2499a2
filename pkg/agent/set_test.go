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
)

// changing are networks that come and go as the test says.
type changing struct {
	mu      sync.Mutex
	listed  []agent.Network
	err     error
	changed func()
	retired [][]string // which networks were synced last when Retire was called
	refuse  error
}

func (c *changing) List(context.Context) ([]agent.Network, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.listed), c.err
}

func (c *changing) Watch(ctx context.Context, changed func()) error {
	c.mu.Lock()
	c.changed = changed
	c.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (c *changing) Retire(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, n := range c.listed {
		names = append(names, n.Name())
	}
	c.retired = append(c.retired, names)
	return c.refuse
}

// become changes what is listed.
func (c *changing) become(err error, networks ...agent.Network) {
	c.mu.Lock()
	c.listed, c.err = networks, err
	changed := c.changed
	c.mu.Unlock()
	changed()
	pass(time.Second)
}

// TestNetworksComeAndGo: each has its tasks while it is listed, and no longer.
func TestNetworksComeAndGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pods, storage := &network{name: "pods"}, &network{name: "storage"}
		c := &changing{}
		stop := start(t, &agent.Agent{Networks: c})
		pass(time.Second)
		c.become(nil, pods)
		wantCounts(t, "listed", pods, 1, 1)
		c.become(nil, pods, storage)
		wantCounts(t, "with another", pods, 1, 1)
		wantCounts(t, "the other", storage, 1, 1)
		c.become(errStore)
		pass(time.Minute)
		syncs, _ := pods.counts()
		if syncs < 2 {
			t.Errorf("while networks can't be listed, those that were don't go on: %d syncs", syncs)
		}
		c.become(nil, storage)
		before, _ := pods.counts()
		pass(10 * time.Minute)
		if after, _ := pods.counts(); after != before {
			t.Errorf("no longer listed, a network was synced %d times more", after-before)
		}
		if last := c.retired[len(c.retired)-1]; !slices.Equal(last, []string{"storage"}) {
			t.Errorf("what isn't listed was last retired beside %v", last)
		}
		again := &network{name: "pods"}
		c.become(nil, storage, again)
		wantCounts(t, "listed again", again, 1, 1)
		stop()
	})
}

// TestAnotherOfTheName: a network whose value changed has the tasks of the new
// one.
func TestAnotherOfTheName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one, other := &network{name: "pods"}, &network{name: "pods"}
		c := &changing{listed: []agent.Network{one}}
		stop := start(t, &agent.Agent{Networks: c})
		pass(time.Second)
		c.become(nil, other)
		pass(10 * time.Minute)
		stop()
		if syncs, _ := one.counts(); syncs != 1 {
			t.Errorf("the old one was synced %d times, want once", syncs)
		}
		if syncs, _ := other.counts(); syncs < 2 {
			t.Errorf("the new one was synced %d times", syncs)
		}
	})
}

// TestRetireIsTriedAgain: and holds nothing up.
func TestRetireIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{name: "pods"}
		c := &changing{listed: []agent.Network{n}, refuse: errors.New("a pod is left")}
		stop := start(t, &agent.Agent{Networks: c})
		pass(10 * time.Second)
		stop()
		if len(c.retired) < 3 {
			t.Errorf("within 10 s it was tried %d times", len(c.retired))
		}
		wantCounts(t, "meanwhile", n, 1, 1)
	})
}
