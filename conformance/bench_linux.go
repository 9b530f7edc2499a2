package conformance

// What a check has at hand: containers, and plugins executed as by a runtime.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	running *daemon  // nil while there is none
	gateway *gateway // nil without an API server
	dir     string   // private
	shims   string   // folder before the others in CNI_PATH, if any

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

// A call is an execution to be.
type call struct {
	plugin  int
	command string
	at      *attachment     // none for VERSION, STATUS and GC
	prev    json.RawMessage // prevResult
	conf    fields          // instead of what the configuration has; nil takes away
	env     map[string]string
	unset   []string
	stdin   *string // instead of any configuration
	broken  bool    // standard input can't be read

	delegate bool // execute what the plugin delegates to, in its place
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
	var x *Exchange
	for i := range b.plugins {
		x = b.do(ctx, call{plugin: i, command: "ADD", at: a, prev: a.result()})
		if b.attached(x) != nil {
			break
		}
		a.results = append(a.results, json.RawMessage(x.Stdout))
	}
	return x
}

// addBefore calls ADD of the plugins before a place, so that this one is next.
func (b *bench) addBefore(ctx context.Context, place int) (*attachment, error) {
	a, err := b.prepare()
	if err != nil {
		return nil, err
	}
	for i := range place {
		x := b.do(ctx, call{plugin: i, command: "ADD", at: a, prev: a.result()})
		if err := b.attached(x); err != nil {
			return nil, err
		}
		a.results = append(a.results, json.RawMessage(x.Stdout))
	}
	return a, nil
}

// sampled returns the ADD of the plugin at a place which clauses share.
func (b *bench) sampled(ctx context.Context, place int) (*Exchange, error) {
	s := b.samples[b.version]
	s.once.Do(func() {
		var a *attachment
		if a, s.err = b.prepare(); s.err != nil {
			return
		}
		for i := range b.plugins {
			x := b.do(ctx, call{plugin: i, command: "ADD", at: a, prev: a.result()})
			s.exchanges = append(s.exchanges, x)
			if b.attached(x) != nil {
				return
			}
			a.results = append(a.results, json.RawMessage(x.Stdout))
		}
	})
	if s.err != nil {
		return nil, s.err
	}
	if place >= len(s.exchanges) {
		return nil, b.attached(s.exchanges[len(s.exchanges)-1])
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exchanges++
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

// all calls a command for an attachment of all plugins, in the order that the
// command has, until one fails. The last exchange is returned.
func (b *bench) all(ctx context.Context, command string, a *attachment) *Exchange {
	places := make([]int, len(b.plugins))
	for i := range places {
		places[i] = i
	}
	if command == "DEL" {
		slices.Reverse(places)
	}
	var x *Exchange
	for _, i := range places {
		if x = b.do(ctx, call{plugin: i, command: command, at: a, prev: a.result()}); x.Status != 0 {
			break
		}
	}
	return x
}

// do executes a plugin as a runtime does.
func (b *bench) do(ctx context.Context, c call) *Exchange {
	x := &Exchange{Plugin: b.plugins[c.plugin].name, Command: c.command, Env: b.environ(&c), Status: -1}
	stdin, err := b.request(&c)
	if err != nil {
		x.Stderr = err.Error()
		return x
	}
	x.Stdin = stdin
	path := b.plugins[c.plugin].path
	if c.delegate {
		x.Plugin = b.plugins[c.plugin].ipam
		if path, err = b.find(x.Plugin); err != nil {
			x.Stderr = err.Error()
			return x
		}
	}
	b.run(ctx, x, path, c.broken)
	if x.Status != 0 && b.running != nil {
		x.Log = b.running.tail()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exchanges++
	return x
}

// run executes a program with what the exchange has, and writes down the rest.
func (b *bench) run(ctx context.Context, x *Exchange, path string, broken bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = x.Env, strings.NewReader(x.Stdin), &stdout, &stderr
	cmd.WaitDelay = time.Second
	if broken {
		unreadable, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			x.Stderr = err.Error()
			return
		}
		defer func() { _ = unreadable.Close() }()
		cmd.Stdin = unreadable
	}
	begun := time.Now()
	err := b.machine.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	x.Took = time.Since(begun)
	x.Stdout, x.Stderr = stdout.String(), stderr.String()
	if cmd.ProcessState != nil {
		x.Status = cmd.ProcessState.ExitCode()
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited || ctx.Err() != nil {
		x.Stderr += fmt.Sprintf("\n(%v)", errors.Join(err, ctx.Err()))
	}
}

// environ composes the environment of a call. VERSION has the command and
// nothing else; STATUS and GC are about no container.
func (b *bench) environ(c *call) []string {
	env := map[string]string{"CNI_COMMAND": c.command}
	if c.command != "VERSION" {
		env["CNI_PATH"] = strings.Join(b.path(), string(filepath.ListSeparator))
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if c.at != nil {
		env["CNI_CONTAINERID"], env["CNI_IFNAME"] = c.at.container.ContainerID(), c.at.ifname
		env["CNI_NETNS"] = c.at.container.Path()
		if c.at.args != "" {
			env["CNI_ARGS"] = c.at.args
		}
	}
	maps.Copy(env, c.env)
	for _, name := range c.unset {
		delete(env, name)
	}
	lines := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, name+"="+env[name])
	}
	return lines
}

// path is CNI_PATH's folders.
func (b *bench) path() []string {
	if b.shims == "" {
		return b.bin
	}
	return append([]string{b.shims}, b.bin...)
}

// request composes the standard input of a call.
func (b *bench) request(c *call) (string, error) {
	if c.stdin != nil {
		return *c.stdin, nil
	}
	one := &b.plugins[c.plugin]
	conf := fields{}
	if c.command != "VERSION" {
		for name, value := range one.conf {
			conf[name] = value
		}
		conf["name"] = b.network
	}
	conf["cniVersion"] = b.version
	if c.at != nil {
		if args := capable(one, c.at.capable); len(args) > 0 {
			conf["runtimeConfig"] = args
		}
	}
	if len(c.prev) > 0 {
		conf["prevResult"] = c.prev
	}
	for name, value := range c.conf {
		if conf[name] = value; value == nil {
			delete(conf, name)
		}
	}
	raw, err := json.Marshal(conf)
	if err != nil {
		return "", fmt.Errorf("encode configuration: %w", err)
	}
	return b.site.fill(string(raw)), nil
}

// capable is the union of what a plugin declares and what the runtime has.
func capable(one *plugin, args map[string]json.RawMessage) fields {
	union := fields{}
	for name, value := range args {
		if one.capabilities[name] {
			union[name] = value
		}
	}
	return union
}

// cleanUp deletes all that was added, with all there is to know.
func (b *bench) cleanUp(ctx context.Context) {
	b.unshim()
	for _, a := range slices.Backward(b.attachments) {
		for i := range slices.Backward(b.plugins) {
			b.do(ctx, call{plugin: i, command: "DEL", at: a, prev: a.result()})
		}
	}
}

// perPlugin checks each plugin of the target on its own. It applies when it
// does to one of them.
func perPlugin(check func(ctx context.Context, b *bench, place int) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		var places []int
		for i := range b.plugins {
			places = append(places, i)
		}
		return b.each(places, func(i int) error { return check(ctx, b, i) })
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
