package conformance

// A run: which versions there are, and each clause on a machine of its own.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// Options of a run. The zero value checks all clauses.
type Options struct {
	// Clauses are patterns of IDs, as in path.Match. Empty means all.
	Clauses []string
	// EveryVersion checks each clause in each version that the target supports,
	// also those that have nothing to do with the version.
	EveryVersion bool
	// Parallel is how many clauses are checked at once. Zero means two for each
	// processor.
	Parallel int
	// TimeLimit is how long a plugin may take for a command. Zero means 10 s; a
	// plugin is never waited for longer than 30 s.
	TimeLimit time.Duration
	// Convergence is how long nodes may take to get ready, once their daemon is
	// started, and to learn of each other. Zero means 30 s.
	Convergence time.Duration
	// Progress is called with each outcome as soon as it is there, if set.
	Progress func(done, of int, o Outcome)
}

// ErrTarget says that what is to be tested isn't there, or can't be used.
var ErrTarget = errors.New("the target can't be tested")

// Run holds a target to the clauses. An error says that the suite couldn't do
// its work; of one that is the target's, see ErrTarget.
func Run(ctx context.Context, t Target, o Options) (_ *Report, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the suite makes network namespaces and needs root")
	}
	clauses, err := choose(o.Clauses)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	p, err := read(t)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	p.limit = o.TimeLimit
	if o.Convergence > 0 {
		p.convergence = o.Convergence
	}
	l, err := lab.New(ctx, lab.Topology{Segments: []lab.Segment{{Name: "a"}}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if o.Parallel <= 0 {
		o.Parallel = 2 * runtime.NumCPU() // plugins mostly wait for the kernel
	}
	r := &run{lab: l, plan: p, options: o, report: &Report{Started: time.Now(), Outcomes: make([]Outcome, len(clauses))}}
	if err := r.all(ctx, clauses); err != nil {
		return nil, err
	}
	r.report.Took = time.Since(r.report.Started)
	return r.report, nil
}

// A run is the work of Run.
type run struct {
	lab     *lab.Lab
	plan    *plan
	options Options

	alone sync.RWMutex // written by a clause that is checked alone

	mu     sync.Mutex
	done   int
	report *Report
}

// all checks clauses, with one node for each worker.
func (r *run) all(ctx context.Context, clauses []Clause) error {
	first, err := r.newWorkplace("n0")
	if err != nil {
		return err
	}
	if err := r.probe(ctx, first); err != nil {
		return err
	}
	r.report.Network, r.report.Versions = r.plan.network, r.plan.versions
	for i := range r.plan.plugins {
		r.report.Plugins = append(r.report.Plugins, r.plan.plugins[i].name)
	}
	next := make(chan int)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(next)
		for i := range clauses {
			select {
			case next <- i:
			case <-ctx.Done():
				return interrupted(ctx)
			}
		}
		return nil
	})
	for worker := range r.options.Parallel {
		g.Go(func() error {
			w := first
			if worker > 0 {
				var err error
				if w, err = r.newWorkplace(fmt.Sprintf("n%d", worker)); err != nil {
					return err
				}
			}
			for i := range next {
				o, err := r.clause(ctx, w, &clauses[i])
				if err != nil {
					return fmt.Errorf("clause %s: %w", clauses[i].ID, err)
				}
				r.add(i, o, len(clauses))
			}
			return nil
		})
	}
	return g.Wait()
}

// A workplace is a node that checks have one after the other.
type workplace struct {
	node *lab.Node
	used bool
}

func (r *run) newWorkplace(name string) (*workplace, error) {
	node, err := r.lab.AddNode(name, "a")
	return &workplace{node: node}, err
}

// clean makes the node as it was at first. The kernel sometimes doesn't serve
// the address of a link that was just plugged, so there is more than one try.
func (w *workplace) clean() error {
	const tries = 3
	var err error
	for range tries {
		if !w.used {
			return nil
		}
		err = w.node.Reset()
		w.used = err != nil
	}
	return err
}

// add writes an outcome down.
func (r *run) add(place int, o Outcome, of int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Outcomes[place] = o
	r.done++
	if r.options.Progress != nil {
		r.options.Progress(r.done, of, o)
	}
}

// clause checks one clause in the versions that it is about.
func (r *run) clause(ctx context.Context, w *workplace, c *Clause) (Outcome, error) {
	o := Outcome{Clause: *c, Verdict: NotApplicable}
	begun := time.Now()
	defer func() { o.Took = time.Since(begun) }()
	if o.Reason = r.plan.disabled(c); o.Reason == "" && c.applies != nil {
		o.Reason = c.applies(r.plan)
	}
	if o.Reason != "" {
		return o, nil
	}
	versions := c.versions(r.plan.versions, r.options.EveryVersion)
	if len(versions) == 0 {
		o.Reason = fmt.Sprintf("it begins with cniVersion %s, the newest that is supported is %s", c.Since, r.plan.newest())
		return o, nil
	}
	// Nodes of one API server would know of those of another clause.
	defer r.turn(c.alone || c.network != nil && r.plan.api != nil)()
	begun = time.Now() // waiting isn't the plugin's
	for _, v := range versions {
		var err error
		if c.network != nil {
			err = onMesh(ctx, r.plan, v, c.mtus, c.network)
		} else {
			err = r.onBench(ctx, w, v, func(ctx context.Context, b *bench) error {
				defer func() { o.Figures = append(o.Figures, b.figures...) }()
				return c.check(ctx, b)
			})
		}
		if ctx.Err() != nil { // what was killed in the middle has no verdict
			return o, interrupted(ctx)
		}
		if err := o.add(v, err); err != nil {
			return o, err
		}
	}
	o.Took = time.Since(begun)
	return o, nil
}

// interrupted says that a run was told to end, and by what.
func interrupted(ctx context.Context) error { return fmt.Errorf("interrupted: %w", context.Cause(ctx)) }

// turn waits until a clause may be checked, and returns how it gives way.
func (r *run) turn(alone bool) (done func()) {
	if alone {
		r.alone.Lock()
		return r.alone.Unlock
	}
	r.alone.RLock()
	return r.alone.RUnlock
}

// onBench runs a check on a machine that nobody had before.
func (r *run) onBench(ctx context.Context, w *workplace, version string, check func(context.Context, *bench) error) (err error) {
	if err := w.clean(); err != nil {
		return err
	}
	w.used = true
	b, err := newBench(ctx, r.plan, version, w.node, site{index: 1})
	if err != nil {
		return err
	}
	begun := b.exchanges
	defer func() {
		b.cleanUp(ctx)
		w.used = b.exchanges > 0
		err = errors.Join(err, b.close())
	}()
	if err := check(ctx, b); err != nil {
		return err
	}
	if b.exchanges == begun {
		return nothing("nothing was executed")
	}
	return nil
}

// probe asks all plugins for their versions, and finds out whether the target
// attaches a container at all.
func (r *run) probe(ctx context.Context, w *workplace) error {
	r.plan.versions = knownVersions()
	bare := *r.plan
	bare.daemon = "" // VERSION needs none, and to wait for one needs the versions
	err := (&run{lab: r.lab, plan: &bare}).onBench(ctx, w, r.plan.newest(), func(ctx context.Context, b *bench) error {
		versions := knownVersions()
		without := func(supported []string) {
			versions = slices.DeleteFunc(versions, func(v string) bool { return !slices.Contains(supported, v) })
		}
		for i := range b.plugins {
			without(b.supported(ctx, i, false))
			if _, err := b.find(b.plugins[i].ipam); err == nil {
				without(b.supported(ctx, i, true))
			}
		}
		if len(versions) == 0 {
			return fmt.Errorf("%w: the plugins have none of the versions %v in common", ErrTarget, knownVersions())
		}
		r.plan.versions = versions
		return nil
	})
	if err != nil {
		return err
	}
	return r.onBench(ctx, w, r.plan.newest(), func(ctx context.Context, b *bench) error {
		if !before(b.version, "1.1.0") { // one that relies on it isn't let off
			for i := range b.plugins {
				b.status(ctx, i)
			}
		}
		a, err := b.prepare()
		if err != nil {
			return err
		}
		if x := b.add(ctx, a); x.Status != 0 {
			return fmt.Errorf("%w: it attaches no container:\n%s", ErrTarget, x)
		}
		return nil
	})
}

// supported asks a plugin for its versions. Of one that doesn't tell, they are
// those of the conflist: that it doesn't tell is a clause's business.
func (b *bench) supported(ctx context.Context, place int, delegate bool) []string {
	x := b.do(ctx, call{plugin: place, command: "VERSION", delegate: delegate})
	o, err := x.object()
	if err != nil || x.Status != 0 {
		return b.declared
	}
	if supported := strs(o["supportedVersions"]); len(supported) > 0 {
		return supported
	}
	return b.declared
}
