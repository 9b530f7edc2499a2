package conformance

// What a check has at hand: a machine, containers, and what was added to them.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// patience is how long a plugin may take.
const patience = 30 * time.Second

// A bench is a machine for one check in one version.
type bench struct {
	*plan
	version string
	machine *machine
	site    site
	running atomic.Pointer[daemon] // nil while there is none
	gateway *gateway               // nil without an API server
	dir     string                 // private
	shims   string                 // folder before the others in CNI_PATH, if any

	mu          sync.Mutex
	exchanges   int
	containers  int
	attachments []*attachment
	figures     []Figure
}

// An attachment is a container with an interface that was asked for.
type attachment struct {
	container *lab.Pod
	ifname    string
	args      string
	capable   map[string]json.RawMessage
	results   []json.RawMessage // of the plugins, in order
}

// result is the last plugin's.
func (a *attachment) result() json.RawMessage {
	if len(a.results) == 0 {
		return nil
	}
	return a.results[len(a.results)-1]
}

// previous is what the plugin at a place was given.
func (a *attachment) previous(place int) json.RawMessage {
	if place == 0 {
		return nil
	}
	return a.results[place-1]
}

// A sample is one ADD of all plugins in one version. Clauses that only look at
// what a plugin printed share it.
type sample struct {
	once      sync.Once
	exchanges []*Exchange // of the plugins, in order, up to one that failed
	err       error
}

// fields are those of a JSON object.
type fields = map[string]any

// newBench makes a bench of a node, whose daemon runs.
func newBench(ctx context.Context, p *plan, version string, node *lab.Node, at site) (_ *bench, err error) {
	dir, err := os.MkdirTemp(node.Dir(), "bench-")
	if err != nil {
		return nil, err
	}
	if at.shared == "" {
		at.shared = dir
	}
	if at.name == "" {
		at.name = node.Name()
	}
	at.v4, at.v6 = node.IPv4(), node.IPv6()
	b := &bench{plan: p, version: version, dir: dir, site: at}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.machine, err = newMachine(node, at.name, append(slices.Clone(p.bin), os.TempDir())); err != nil {
		return nil, err
	}
	if p.api != nil {
		b.gateway = newGateway(p.api)
	}
	return b, b.begin(ctx)
}

// begin starts what runs on the bench as long as the node does.
func (b *bench) begin(ctx context.Context) (err error) {
	if b.gateway != nil {
		if b.site.api, err = b.gateway.open(ctx, b.machine.node); err != nil {
			return err
		}
	}
	return b.startDaemon(ctx)
}

// end ends what began.
func (b *bench) end() error {
	if b.gateway != nil {
		b.gateway.close()
	}
	return b.stopDaemon()
}

// close ends what runs on the bench.
func (b *bench) close() error {
	err := b.end()
	if b.machine != nil {
		b.machine.close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// newContainer makes a container.
func (b *bench) newContainer() (*lab.Pod, error) {
	b.mu.Lock()
	b.containers++
	name := fmt.Sprintf("c%d", b.containers)
	b.mu.Unlock()
	return b.machine.node.NewPod(name)
}

// prepare makes a container without any interface.
func (b *bench) prepare() (*attachment, error) {
	c, err := b.newContainer()
	if err != nil {
		return nil, err
	}
	return b.prepareIn(c, "eth0"), nil
}

// prepareIn names an interface that a container is to have. From now on it is
// cleaned up.
func (b *bench) prepareIn(c *lab.Pod, ifname string) *attachment {
	a := &attachment{container: c, ifname: ifname, args: b.args, capable: b.capable}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attachments = append(b.attachments, a)
	return a
}

// attach adds a container's interface eth0 with all plugins, as a step to what
// is to be checked: that it works is another clause's business.
func (b *bench) attach(ctx context.Context) (*attachment, error) {
	a, err := b.prepare()
	if err != nil {
		return nil, err
	}
	return a, b.attached(b.add(ctx, a))
}

// attached turns an ADD that failed into nothing to check.
func (b *bench) attached(x *Exchange) error {
	if x.Status != 0 {
		return nothing("%s ADD failed%s", x.Plugin, x.said())
	}
	if _, err := x.object(); err != nil {
		return nothing("%s ADD gave no result: %v", x.Plugin, err)
	}
	return nil
}

// add calls ADD of all plugins and returns the last exchange.
func (b *bench) add(ctx context.Context, a *attachment) *Exchange {
	exchanges := b.addFirst(ctx, a, len(b.plugins))
	return exchanges[len(exchanges)-1]
}

// addFirst calls ADD of the first plugins, until one fails or gives no result.
func (b *bench) addFirst(ctx context.Context, a *attachment, number int) []*Exchange {
	var all []*Exchange
	for i := range number {
		x := b.do(ctx, call{plugin: i, command: "ADD", at: a, prev: a.result()})
		all = append(all, x)
		if b.attached(x) != nil {
			break
		}
		a.results = append(a.results, json.RawMessage(x.Stdout))
	}
	return all
}

// addBefore calls ADD of the plugins before a place, so that this one is next.
func (b *bench) addBefore(ctx context.Context, place int) (*attachment, error) {
	a, err := b.prepare()
	if err != nil {
		return nil, err
	}
	for _, x := range b.addFirst(ctx, a, place) {
		if err := b.attached(x); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// sampled returns the ADD of the plugin at a place which clauses share.
func (b *bench) sampled(ctx context.Context, place int) (*Exchange, error) {
	s := b.samples[b.version]
	s.once.Do(func() {
		var a *attachment
		if a, s.err = b.prepare(); s.err == nil {
			s.exchanges = b.addFirst(ctx, a, len(b.plugins))
		}
	})
	if s.err != nil {
		return nil, s.err
	}
	if place >= len(s.exchanges) {
		return nil, b.attached(s.exchanges[len(s.exchanges)-1])
	}
	b.executed()
	return s.exchanges[place], nil
}

// sampledResult reads the result of the last plugin's ADD which clauses share.
func (b *bench) sampledResult(ctx context.Context) (*Exchange, answer, error) {
	x, err := b.sampled(ctx, len(b.plugins)-1)
	if err == nil {
		err = b.attached(x)
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := x.object()
	return x, r, err
}

// farewell is how long plugins may take to clean up once a run is interrupted.
const farewell = 3 * time.Second

// cleanUp deletes all that was added, with all there is to know, also when the
// run is interrupted. Then it doesn't wait for plugins that hang: what they
// would have deleted goes with the machine.
func (b *bench) cleanUp(ctx context.Context) {
	rest, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(farewell):
			cancel()
		case <-rest.Done():
		}
	})()
	b.unshim()
	for _, a := range slices.Backward(b.attachments) {
		for i := range slices.Backward(b.plugins) {
			b.do(rest, call{plugin: i, command: "DEL", at: a, prev: a.result()})
		}
	}
}

// perPlugin checks each plugin of the target on its own. It applies when it
// does to one of them.
func perPlugin(check func(ctx context.Context, b *bench, place int) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		return b.each(b.order("ADD"), func(i int) error { return check(ctx, b, i) })
	}
}

// each checks the plugins at some places. It applies when it does to one.
func (b *bench) each(places []int, check func(place int) error) error {
	var none error
	applied := false
	for _, i := range places {
		err := check(i)
		switch {
		case err == nil:
			applied = true
		case isNothing(err):
			none = err
		default:
			return err
		}
	}
	if applied {
		return nil
	}
	return none
}
