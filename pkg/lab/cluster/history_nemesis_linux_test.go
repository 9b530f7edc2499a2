package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/history"
)

const (
	// peace bounds the time between two faults of a node.
	peace = 600 * time.Millisecond
	// trouble bounds how long a fault lasts.
	trouble = 800 * time.Millisecond
)

// nemesis lets a node fail. Each fault has ended when it returns.
type nemesis struct {
	run    *run
	member *member
	random *rand.Rand
}

// fault is a way to fail.
type fault struct {
	name string
	do   func(ctx context.Context) error
}

func (n *nemesis) work(ctx context.Context) {
	// A power loss ends more than all others, so it comes less often.
	faults := []fault{{"GC", n.collect}, {"GC", n.collect}, {"power loss", n.losePower}, {"store out of reach", n.loseStore}}
	if !n.run.c.alone {
		faults = append(faults, fault{"overlayd killed", n.killDaemon}, fault{"overlayd stopped", n.freezeDaemon})
	}
	for n.wait(ctx, peace); ctx.Err() == nil; n.wait(ctx, peace) {
		f := faults[n.random.IntN(len(faults))]
		n.run.counts.add(f.name, 1)
		if err := f.do(ctx); err != nil {
			n.run.t.Errorf("%s: %s: %v", n.member.Name(), f.name, err)
		}
	}
}

// wait waits for a random time.
func (n *nemesis) wait(ctx context.Context, most time.Duration) {
	pause(ctx, time.Duration(n.random.Int64N(int64(most))))
}

// killDaemon lets the node be without overlayd for a while.
func (n *nemesis) killDaemon(ctx context.Context) error {
	if err := n.member.KillDaemon(); err != nil {
		return err
	}
	n.wait(ctx, trouble)
	return n.member.LaunchDaemon(n.run.t.Context())
}

// freezeDaemon stops overlayd wherever it is, perhaps in the middle of a
// change of the store.
func (n *nemesis) freezeDaemon(ctx context.Context) error {
	if err := cluster.SignalDaemon(n.member.Node, syscall.SIGSTOP); err != nil {
		return err
	}
	n.wait(ctx, trouble)
	return cluster.SignalDaemon(n.member.Node, syscall.SIGCONT)
}

// loseStore takes the store from the node for a while, perhaps from a daemon
// that just starts.
func (n *nemesis) loseStore(ctx context.Context) error {
	m := n.member
	m.outages.Add(1)
	defer m.outages.Add(1)
	if err := m.loseStore(); err != nil {
		return err
	}
	restart := !n.run.c.alone && n.random.IntN(2) == 0
	if restart {
		if err := errors.Join(m.KillDaemon(), m.LaunchDaemon(n.run.t.Context())); err != nil {
			return errors.Join(err, m.connectStore())
		}
	}
	n.wait(ctx, trouble)
	if err := m.connectStore(); err != nil || !restart {
		return err
	}
	// It gave up for want of a store; what supervises it starts it again.
	return errors.Join(m.KillDaemon(), m.LaunchDaemon(n.run.t.Context()))
}

// collect calls GC, as a runtime may do at any time when neither ADD nor DEL
// runs. What it isn't sure of it lists or not.
func (n *nemesis) collect(context.Context) error {
	m := n.member
	m.calls.Lock()
	defer m.calls.Unlock()
	ctx, cancel := n.run.callContext(n.random, firstTypical)
	defer cancel()
	var valid []*cluster.Pod
	var stale []*pod
	for _, p := range m.all() {
		if p.attached || n.random.IntN(2) == 0 {
			valid = append(valid, p.Pod)
		} else {
			stale = append(stale, p)
		}
	}
	if err := m.GC(ctx, valid...); err != nil {
		if ctx.Err() != nil {
			n.run.counts.add("GC unknown", 1)
			return nil
		}
		return err
	}
	for _, p := range stale {
		m.forget(p)
	}
	n.run.counts.add("pods collected", len(stale))
	return nil
}

// losePower takes the power from the node: its processes, interfaces and pods
// are gone, and what was in /run. All labs' nodes share the kernel's boot ID,
// so a ledger seems to be of this boot. Removing it is what another boot ID
// amounts to; leaving it is what a runtime's GC has to cope with.
func (n *nemesis) losePower(ctx context.Context) error {
	m := n.member
	end := n.run.recorder.begin(history.Lose, history.Attachment{Node: m.Name()})
	m.falling.Store(true)
	// A call that came to its end just as a worker killed it is no failure.
	if err := m.PowerOff(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	n.wait(ctx, trouble)
	if err := n.boot(); err != nil {
		return err
	}
	end(history.OK, nil)
	if n.run.c.alone {
		return nil
	}
	if err := m.KillDaemon(); err != nil { // it is dead; this only says so
		return fmt.Errorf("after the power loss: %w", err)
	}
	return m.LaunchDaemon(n.run.t.Context())
}

// boot begins a new life of the node.
func (n *nemesis) boot() error {
	m := n.member
	m.calls.Lock()
	defer m.calls.Unlock()
	m.life++
	for _, p := range m.all() {
		m.know(p, false)
	}
	if n.random.IntN(2) == 0 {
		if err := os.Remove(m.LedgerPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := m.PowerOn(); err != nil {
		return err
	}
	m.falling.Store(false)
	return nil
}

// failEtcd kills members of the etcd and starts them again, one at a time, so
// that most are there.
func (r *run) failEtcd(ctx context.Context, random *rand.Rand) {
	wait := func() { pause(ctx, time.Duration(random.Int64N(int64(time.Second)))) }
	for wait(); ctx.Err() == nil; wait() {
		m := r.etcd.Members[random.IntN(len(r.etcd.Members))]
		err := m.Kill()
		wait()
		if err = errors.Join(err, m.Start()); err != nil {
			r.t.Errorf("fail the etcd: %v", err)
			return
		}
		r.counts.add("member of the etcd killed", 1)
	}
}
