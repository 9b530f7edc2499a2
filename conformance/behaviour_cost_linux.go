package conformance

// What a plugin costs: figures, which nobody judges.

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// A Figure is something that was measured.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// String returns the figure as one reads it.
func (f Figure) String() string { return fmt.Sprintf("%s %.4g %s", f.Name, f.Value, f.Unit) }

func costClauses() []Clause {
	const of = "cost"
	all := []Clause{
		behaviour("cost-01", May, of, "Each command takes this long.", measuresTimes).
			note("the median of nine calls of all plugins, with nothing else going on; it isn't judged"),
		behaviour("cost-02", May, of, "ADD and DEL ask this much of the kernel.", measuresWork).
			note("programs that are executed, the plugins among them, netlink messages and system calls, as strace sees them; it isn't judged"),
		behaviour("cost-03", May, of, "ADD and DEL ask this much of the API server.", measuresRequests).
			where(needsAPI).note("requests that the target's plugins and daemon make during ten ADDs and ten DELs; it isn't judged"),
	}
	for i := range all {
		all[i].alone = true
	}
	return all
}

// commands are those of a version, in the order that a container sees them.
func (b *bench) commands() []string {
	all := []string{"VERSION"}
	if !before(b.version, "1.1.0") {
		all = append(all, "STATUS")
	}
	all = append(all, "ADD")
	if !before(b.version, "0.4.0") {
		all = append(all, "CHECK")
	}
	if !before(b.version, "1.1.0") {
		all = append(all, "GC")
	}
	return append(all, "DEL")
}

// calls calls a command of all plugins, for an attachment where it is about
// one. GC is given all attachments as valid ones.
func (b *bench) calls(ctx context.Context, command string, a *attachment) []*Exchange {
	if slices.Contains([]string{"ADD", "CHECK", "DEL"}, command) {
		return b.every(ctx, command, a)
	}
	b.mu.Lock()
	valid := slices.Clone(b.attachments)
	b.mu.Unlock()
	var all []*Exchange
	for i := range b.plugins {
		switch command {
		case "GC":
			all = append(all, b.gc(ctx, i, valid...))
		default:
			all = append(all, b.do(ctx, call{plugin: i, command: command}))
		}
	}
	return all
}

// measuresTimes calls all commands some times. The first container isn't
// counted: what belongs to the network is made for it.
func measuresTimes(ctx context.Context, b *bench) error {
	const rounds = 9
	took := map[string][]time.Duration{}
	for round := range rounds + 1 {
		a, err := b.prepare()
		if err != nil {
			return err
		}
		for _, command := range b.commands() {
			var sum time.Duration
			for _, x := range b.calls(ctx, command, a) {
				if x.Status != 0 && command == "ADD" {
					return nothing("%s ADD failed%s", x.Plugin, x.said())
				}
				sum += x.Took
			}
			if round > 0 {
				took[command] = append(took[command], sum)
			}
		}
		if err := b.forget(a); err != nil {
			return err
		}
	}
	for _, command := range b.commands() {
		b.measured(Figure{Name: command, Value: millis(median(took[command])), Unit: "ms"})
	}
	return nil
}

// median of what isn't empty.
func median(all []time.Duration) time.Duration { return slices.Sorted(slices.Values(all))[len(all)/2] }

// measured writes figures down.
func (b *bench) measured(all ...Figure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.figures = append(b.figures, all...)
}

// measuresWork traces ADD and DEL of the second container.
func measuresWork(ctx context.Context, b *bench) error {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nothing("strace isn't there: %v", err)
	}
	first, err := b.attach(ctx)
	if err != nil {
		return err
	}
	if err := b.remove(ctx, first); err != nil {
		return err
	}
	a, err := b.prepare()
	if err != nil {
		return err
	}
	for _, command := range []string{"ADD", "DEL"} {
		var sum work
		for _, place := range b.order(command) {
			w, err := b.traced(ctx, strace, call{plugin: place, command: command, at: a, prev: a.result()})
			if err != nil {
				return err
			}
			sum = sum.plus(w)
		}
		b.measured(
			Figure{Name: command, Value: float64(sum.programs), Unit: "programs"},
			Figure{Name: command, Value: float64(sum.netlink), Unit: "netlink messages"},
			Figure{Name: command, Value: float64(sum.calls), Unit: "system calls"},
		)
	}
	return nil
}

// measuresRequests counts what goes to the API server during some ADDs and
// DELs. What a daemon asks for by itself meanwhile is in it, too.
func measuresRequests(ctx context.Context, b *bench) error {
	const rounds = 10
	attached := make([]*attachment, rounds)
	before := b.gateway.requests.Load()
	for i := range attached {
		var err error
		if attached[i], err = b.attach(ctx); err != nil {
			return err
		}
	}
	added := b.gateway.requests.Load()
	for _, a := range attached {
		if err := b.remove(ctx, a); err != nil {
			return err
		}
	}
	deleted := b.gateway.requests.Load()
	b.measured(
		Figure{Name: "ADD", Value: float64(added-before) / rounds, Unit: "API requests"},
		Figure{Name: "DEL", Value: float64(deleted-added) / rounds, Unit: "API requests"},
	)
	return nil
}

// traced executes a plugin and counts what it does. A result of ADD is kept.
func (b *bench) traced(ctx context.Context, strace string, c call) (work, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	trace := filepath.Join(b.dir, "trace")
	// -yy tells netlink's sockets from others, -v shows all messages of a call.
	x, cmd, err := b.command(ctx, &c, strace, "-f", "-qq", "-yy", "-v", "-s", "0", "-o", trace)
	if err != nil {
		return work{}, err
	}
	if err := b.execute(cmd, x); err != nil {
		return work{}, err
	}
	text, err := os.ReadFile(trace)
	w := workOf(string(text))
	if err != nil || w.programs == 0 {
		return work{}, nothing("strace traces nothing: %.200s", x.Stderr)
	}
	if x.Status != 0 {
		return work{}, nothing("%s %s failed when it was traced%s", x.Plugin, x.Command, x.said())
	}
	if c.command == "ADD" {
		c.at.results = append(c.at.results, []byte(x.Stdout))
	}
	return w, os.Remove(trace)
}
