package conformance

// Executing plugins as a runtime does.

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
	"time"
)

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

// all calls a command for an attachment of all plugins, in the order that the
// command has, until one fails. The last exchange is returned.
func (b *bench) all(ctx context.Context, command string, a *attachment) *Exchange {
	exchanges := b.every(ctx, command, a)
	return exchanges[len(exchanges)-1]
}

// every calls a command of all plugins for an attachment until one fails, and
// returns all exchanges. The results of ADD are kept.
func (b *bench) every(ctx context.Context, command string, a *attachment) []*Exchange {
	var all []*Exchange
	for _, i := range b.order(command) {
		x := b.do(ctx, call{plugin: i, command: command, at: a, prev: a.result()})
		all = append(all, x)
		if x.Status != 0 {
			break
		}
		if command == "ADD" {
			a.results = append(a.results, json.RawMessage(x.Stdout))
		}
	}
	return all
}

// order are the places of the plugins in the order that a command has.
func (b *bench) order(command string) []int {
	places := b.places(func(*plugin) bool { return true })
	if command == "DEL" {
		slices.Reverse(places)
	}
	return places
}

// do executes a plugin as a runtime does.
func (b *bench) do(ctx context.Context, c call) *Exchange {
	x, path, err := b.compose(&c)
	if err != nil {
		x.Stderr = err.Error()
		return x
	}
	b.run(ctx, x, path, c.broken)
	if d := b.running.Load(); x.Status != 0 && d != nil {
		x.Log = d.tail()
	}
	b.executed()
	return x
}

// compose makes what a call gives a plugin, and finds the plugin.
func (b *bench) compose(c *call) (x *Exchange, path string, err error) {
	one := &b.plugins[c.plugin]
	x, path = &Exchange{Plugin: one.name, Command: c.command, Env: b.environ(c), Status: -1}, one.path
	if x.Stdin, err = b.request(c); err == nil && c.delegate {
		x.Plugin = one.ipam
		path, err = b.find(one.ipam)
	}
	return x, path, err
}

// executed counts an execution.
func (b *bench) executed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exchanges++
}

// run executes a program with what the exchange has, and writes down the rest.
func (b *bench) run(ctx context.Context, x *Exchange, path string, broken bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var stdout, stderr output
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

// command makes an exchange and the program that is executed for it, behind
// another one if that is wanted.
func (b *bench) command(ctx context.Context, c *call, behind ...string) (*Exchange, *exec.Cmd, error) {
	x, path, err := b.compose(c)
	if err != nil {
		return nil, nil, err
	}
	line := append(slices.Clone(behind), path)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env, cmd.Stdin = x.Env, strings.NewReader(x.Stdin)
	return x, cmd, nil
}

// execute runs a program for an exchange.
func (b *bench) execute(cmd *exec.Cmd, x *Exchange) error {
	var stdout, stderr output
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	if err := b.machine.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	_ = cmd.Wait() // its status says it
	x.Status, x.Stdout, x.Stderr = cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
	b.executed()
	return nil
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
