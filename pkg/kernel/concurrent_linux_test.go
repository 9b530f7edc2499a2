package kernel_test

// Looking while somebody else changes what is looked at.

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// What doesn't change is observed whole, once, however much else comes and
// goes meanwhile. The tables are larger than one answer of the kernel's.
func TestObservationDuringChanges(t *testing.T) {
	t.Parallel()
	const rounds, stable, moving = 200, 400, 60
	h, conn := newHost(t)
	want := onVXLAN(false)
	peer := func(n int) []reconcile.Object {
		b, mac := block(n, n%2 == 1), macB
		mac[3], mac[4] = byte(n>>8), byte(n)
		return []reconcile.Object{
			kernel.FDB{Link: "vx0", MAC: mac, Remote: ip("172.30.1.11")},
			kernel.Neighbor{Link: "vx0", Address: b.Addr(), MAC: mac},
			kernel.Route{Dst: b, Link: "vx0", Via: b.Addr(), Metric: uint32(2000 + n)},
		}
	}
	for n := range stable {
		want = append(want, peer(2*n)...)
		want = append(want, peer(2*n+1)...)
	}
	settle(t, kernel.NewTarget(conn, want), want, reconcile.Owned)
	var others []reconcile.Object
	for n := range moving {
		others = append(others, peer(2000+n)...)
	}
	stop, busy := make(chan struct{}), sync.WaitGroup{}
	other := open(t, h)
	busy.Go(func() {
		target := &kernel.Target{Conn: other}
		pause := time.NewTicker(time.Millisecond) // a look takes about as long
		defer pause.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pause.C:
			}
			err := target.Apply(t.Context(), reconcile.Diff(others, nil, reconcile.Owned))
			if err := errors.Join(err, target.Apply(t.Context(), reconcile.Diff(nil, others, reconcile.Owned))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wanted := make(map[any]reconcile.Object, len(want))
	for _, o := range want {
		wanted[o.Key()] = o
	}
	moved, wrong, refused := 0, 0, 0
	target := kernel.NewTarget(conn, want)
	for range rounds {
		have, err := target.Observe(t.Context())
		if err != nil {
			refused++
			continue
		}
		seen := map[any]int{}
		for _, o := range have {
			seen[o.Key()]++
			if w := wanted[o.Key()]; w != nil && !w.Matches(o) {
				t.Errorf("differs: %s, want %s", o, w)
			}
		}
		for key, o := range wanted {
			if seen[key] != 1 {
				wrong++
				if wrong <= 10 {
					t.Errorf("seen %d times: %s", seen[key], o)
				}
			}
		}
		if len(seen) > len(want) {
			moved++
		}
	}
	close(stop)
	busy.Wait()
	t.Logf("%d rounds: others seen in %d, refused %d, wrong %d", rounds, moved, refused, wrong)
	if moved == 0 {
		t.Error("nothing changed meanwhile: the test tests nothing")
	}
	if refused > rounds/2 {
		t.Errorf("%d of %d observations were refused", refused, rounds)
	}
}

// A link that goes while it is looked at is no failure: a pod's may be removed
// at any time.
func TestObservationOfALinkThatGoes(t *testing.T) {
	t.Parallel()
	h, conn := newHost(t)
	want := loaded(vxlan(false))
	stop, busy := make(chan struct{}), sync.WaitGroup{}
	other := open(t, h)
	busy.Go(func() {
		target := kernel.NewTarget(other, want)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, err := reconcile.Run(t.Context(), target, want, reconcile.Owned)
			if err := errors.Join(err, target.Apply(t.Context(), []reconcile.Change{{Have: vxlan(false)}})); err != nil {
				t.Error(err)
				return
			}
		}
	})
	target := kernel.NewTarget(conn, want)
	const lives = 50
	changes, last := 0, false
	for deadline := time.Now().Add(20 * time.Second); changes < 2*lives; {
		have, err := target.Observe(t.Context())
		if err != nil {
			t.Errorf("after %d changes: %v", changes, err)
			break
		}
		if there := len(have) > 0; there != last {
			changes, last = changes+1, there
		}
		if time.Now().After(deadline) {
			t.Errorf("only %d changes", changes)
			break
		}
	}
	close(stop)
	busy.Wait()
}
