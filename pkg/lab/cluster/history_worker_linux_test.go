package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/cni"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/history"
)

const (
	// most is how many pods a worker has at a time: all the workers of a node
	// want more than a block has.
	most = 5
	// firstTypical is a guess of how long a call takes.
	firstTypical = 30 * time.Millisecond
	// thinking bounds the time between two calls of a worker.
	thinking = 30 * time.Millisecond
	// killed is one of how many calls are killed.
	killed = 4
)

// worker is a thread of a node's runtime. It has pods of its own, so that the
// calls of an attachment come one after the other, as the runtime's must.
type worker struct {
	run     *run
	member  *member
	random  *rand.Rand
	name    string
	made    int
	pods    []*pod
	typical time.Duration // of a call, for those to be killed before their end
}

func (w *worker) work(ctx context.Context) {
	for ctx.Err() == nil {
		w.step()
		pause(ctx, time.Duration(w.random.Int64N(int64(thinking))))
	}
}

// step makes one call, or two. The node keeps its life meanwhile, or loses its
// power under the call.
func (w *worker) step() {
	w.member.calls.RLock()
	defer w.member.calls.RUnlock()
	if w.member.falling.Load() {
		return // the runtime is off as well
	}
	ctx, cancel := w.run.callContext(w.random, w.typical)
	defer cancel()
	w.dropLost()
	if len(w.pods) < most && (len(w.pods) == 0 || w.random.IntN(5) < 3) {
		if p := w.newPod(); p != nil {
			w.add(ctx, p)
		}
		return
	}
	i := w.random.IntN(len(w.pods))
	p := w.pods[i]
	if !p.attached && !p.gone && w.random.IntN(2) == 0 {
		w.add(ctx, p) // once more
		return
	}
	w.pods = slices.Delete(w.pods, i, i+1)
	w.remove(ctx, p)
}

// remove ends a pod. When its DEL was killed, the runtime comes back to it
// later, or leaves it to GC.
func (w *worker) remove(ctx context.Context, p *pod) {
	if w.random.IntN(4) == 0 {
		w.close(p) // the namespace is gone before its DEL
	}
	err := w.del(ctx, p)
	if err == nil && w.random.IntN(8) == 0 {
		err = w.del(ctx, p) // once more
	}
	if err != nil && w.random.IntN(3) > 0 {
		w.pods = append(w.pods, p)
		return
	}
	w.close(p)
}

// callContext is that of a call: some are killed before they would typically
// end. The end of the run kills none. It has no deadline, so that errors tell a
// kill from a time that ran out.
func (r *run) callContext(random *rand.Rand, typical time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	if random.IntN(killed) > 0 {
		return ctx, cancel
	}
	timer := time.AfterFunc(time.Duration(random.Int64N(int64(typical)*5/4)), cancel)
	return ctx, func() {
		timer.Stop()
		cancel()
	}
}

// dropLost leaves out pods that went with a life of the node.
func (w *worker) dropLost() {
	var kept []*pod
	for _, p := range w.pods {
		if p.life == w.member.life {
			kept = append(kept, p)
		}
	}
	w.pods = kept
}

// newPod makes a pod; nil while the node is off.
func (w *worker) newPod() *pod {
	w.made++
	name := fmt.Sprintf("%s-%d", w.name, w.made)
	made, err := w.member.NewPod(name)
	if err != nil {
		if !errors.Is(err, lab.ErrDown) {
			w.run.t.Error(err)
		}
		return nil
	}
	p := &pod{Pod: cluster.Attach(w.member.Node, made), life: w.member.life}
	p.id = history.Attachment{Node: w.member.Name(), Pod: name}
	w.pods = append(w.pods, p)
	return p
}

func (w *worker) close(p *pod) {
	p.gone = true
	if err := p.Close(); err != nil && !errors.Is(err, lab.ErrDown) {
		w.run.t.Error(err)
	}
}

// add calls ADD. It may be refused for want of an address or of the node's
// state; without a daemon also because the store can't be reached.
func (w *worker) add(ctx context.Context, p *pod) {
	doubtful, outages := w.member.knows(p), w.member.outages.Load()
	w.member.know(p, false)
	err := w.call(ctx, history.Add, p, func() ([]netip.Addr, error) {
		if err := p.Add(ctx, nil); err != nil {
			return nil, err
		}
		return p.Addresses(), nil
	})
	code := codeOf(err)
	noStore := w.run.c.alone && (outages%2 == 1 || outages != w.member.outages.Load())
	switch {
	case err == nil:
		w.member.know(p, true)
	case w.disturbed(ctx):
	case doubtful && code == cni.CodeInterfaceExists: // a killed one had come to its end
	case code == types.ErrTryAgainLater, code != 0 && noStore:
		if !doubtful {
			w.member.forget(p)
		}
	default:
		w.run.t.Errorf("%s: %v", p, err)
	}
}

// del calls DEL, which must succeed unless it is killed.
func (w *worker) del(ctx context.Context, p *pod) error {
	if w.member.knows(p) {
		w.member.know(p, false)
	}
	err := w.call(ctx, history.Del, p, func() ([]netip.Addr, error) { return nil, p.Del(ctx) })
	switch {
	case err == nil:
		w.member.forget(p)
	case !w.disturbed(ctx):
		w.run.t.Errorf("%s: %v", p, err)
	}
	return err
}

// call makes a call and records it.
func (w *worker) call(ctx context.Context, verb history.Verb, p *pod, fn func() ([]netip.Addr, error)) error {
	end := w.run.recorder.begin(verb, p.id)
	began := time.Now()
	addresses, err := fn()
	phase := history.OK
	switch {
	case err != nil && w.disturbed(ctx):
		phase = history.Unknown
	case err != nil:
		phase = history.Failed
	}
	end(phase, addresses)
	w.run.counts.add(fmt.Sprintf("%s %s", verb, phase), 1)
	if phase == history.Failed {
		w.run.counts.add(fmt.Sprintf("%s failed with code %d", verb, codeOf(err)), 1)
	}
	if phase == history.OK {
		w.typical += (time.Since(began) - w.typical) / 4
	}
	return err
}

// disturbed says whether a call that failed was killed.
func (w *worker) disturbed(ctx context.Context) bool {
	return ctx.Err() != nil || w.member.falling.Load()
}

// mustAdd adds a pod, trying again as long as the plugin asks for that.
func (w *worker) mustAdd(ctx context.Context) error {
	p := w.newPod()
	if p == nil {
		return errors.New("no pod can be made")
	}
	for {
		w.add(ctx, p)
		if p.attached {
			return nil
		}
		if w.run.t.Failed() || ctx.Err() != nil {
			return errors.Join(errors.New("ADD is refused all the time"), ctx.Err())
		}
		pause(ctx, thinking)
	}
}

// codeOf is the CNI code of an error; 0 where it has none.
func codeOf(err error) uint {
	if e, ok := errors.AsType[*types.Error](err); ok {
		return e.Code
	}
	return 0
}
