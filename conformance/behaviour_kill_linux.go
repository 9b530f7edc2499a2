package conformance

// Plugins that are killed in the middle of their work.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// moments are how many times a command is killed: at first before it has done
// anything, the last time when it has ended.
const moments = 24

func killClauses() []Clause {
	const of = "kill"
	return []Clause{
		behaviour("kill-01", Should, of, "When ADD is killed at any moment, with all that it has started, DEL succeeds, and nothing of the attachment is left.",
			killing{command: "ADD", after: delUnknown}.check).note(killNote),
		behaviour("kill-02", Should, of, "When ADD alone is killed at any moment, and the plugins that it has called go on, DEL after them succeeds, and nothing of the attachment is left.",
			killing{command: "ADD", alone: true, after: delUnknown}.check).where(needsDelegate).note(killNote),
		behaviour("kill-03", Should, of, "When ADD is killed at any moment, and the container is gone, GC succeeds, and nothing of the attachment is left.",
			killing{command: "ADD", after: gcWithoutContainer}.check).since("1.1.0").note("GC is called with an empty list; else as behaviour-kill-01"),
		behaviour("kill-04", Should, of, "When ADD is killed at any moment, the same container can be added after a DEL.",
			killing{command: "ADD", after: addAgain}.check).note("else as behaviour-kill-01"),
		behaviour("kill-05", Should, of, "When DEL is killed at any moment, another DEL succeeds, and nothing of the attachment is left.",
			killing{command: "DEL", after: delKnown}.check).note("DEL has prevResult; else as behaviour-kill-01"),
	}
}

const killNote = "SIGKILL at moments spread over the whole run; DEL has no prevResult, as ADD gave none; the node and the container are compared with what they were before, " +
	"no file in /run and /var/lib may name the container, and in a small range as many containers fit as before"

// A killing is a command that is killed, and what is expected afterwards.
type killing struct {
	command string
	alone   bool // what the plugin has started isn't killed
	// after is what the runtime does then. It returns the last exchange, which
	// is what is blamed.
	after func(context.Context, *bench, *attachment) (*Exchange, error)
}

// check kills the command at all moments. What isn't clean when nothing is
// killed isn't so afterwards.
func (k killing) check(ctx context.Context, b *bench) error {
	room, err := b.room(ctx)
	if err != nil {
		return err
	}
	g, err := b.newGround(ctx)
	if err != nil {
		return err
	}
	whole, err := b.undisturbed(ctx, k.command)
	if err != nil {
		return err
	}
	if err := k.once(ctx, b, g, nil); err != nil {
		return err
	}
	for i := range moments {
		const beyond = 110 // per cent of the run
		at := blow{after: whole * time.Duration(i*beyond) / ((moments - 1) * 100), of: whole, alone: k.alone}
		if err := k.once(ctx, b, g, &at); err != nil {
			return err
		}
	}
	return b.hasRoom(ctx, room, fmt.Sprintf("after %s was killed %d times", k.command, moments))
}

// once kills the command for one container.
func (k killing) once(ctx context.Context, b *bench, g *ground, at *blow) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	if k.command == "DEL" {
		if err := b.attached(b.add(ctx, a)); err != nil {
			return err
		}
	}
	if err := b.strikeAll(ctx, k.command, a, at); err != nil {
		return err
	}
	x, err := k.after(ctx, b, a)
	if v, violated := errors.AsType[*Violation](err); violated {
		return &Violation{Text: at.String() + ": " + v.Text, Exchange: v.Exchange}
	}
	if err != nil {
		return err
	}
	if err := b.leavesGround(ctx, g, x, at.String(), a); err != nil {
		return err
	}
	return b.forget(a)
}

// delUnknown deletes what gave no result.
func delUnknown(ctx context.Context, b *bench, a *attachment) (*Exchange, error) {
	a.results = nil
	return delKnown(ctx, b, a)
}

func delKnown(ctx context.Context, b *bench, a *attachment) (*Exchange, error) {
	x := b.all(ctx, "DEL", a)
	return x, x.succeeds("DEL cleans up after what was killed")
}

// gcWithoutContainer collects when the container is gone.
func gcWithoutContainer(ctx context.Context, b *bench, a *attachment) (*Exchange, error) {
	a.results = nil
	if err := closeContainer(a); err != nil {
		return nil, err
	}
	x := b.gcAll(ctx)
	return x, x.succeeds("GC cleans up after what was killed")
}

// addAgain adds the container once more after DEL, and deletes it.
func addAgain(ctx context.Context, b *bench, a *attachment) (*Exchange, error) {
	if x, err := delUnknown(ctx, b, a); err != nil {
		return x, err
	}
	if x := b.add(ctx, a); x.Status != 0 {
		return x, x.succeeds("the container was deleted after its ADD was killed")
	}
	return delKnown(ctx, b, a)
}

// undisturbed is how long a command takes that nobody kills, all plugins
// together.
func (b *bench) undisturbed(ctx context.Context, command string) (time.Duration, error) {
	const rounds = 3
	var all []time.Duration
	for range rounds {
		a, err := b.prepare()
		if err != nil {
			return 0, err
		}
		took := map[string]time.Duration{}
		for _, verb := range []string{"ADD", "DEL"} {
			exchanges := b.every(ctx, verb, a)
			for _, x := range exchanges {
				took[verb] += x.Took
			}
			if last := exchanges[len(exchanges)-1]; last.Status != 0 {
				return 0, nothing("%s %s failed%s", last.Plugin, verb, last.said())
			}
		}
		if err := b.forget(a); err != nil {
			return 0, err
		}
		all = append(all, took[command])
	}
	return median(all), nil
}

// A blow is when a command is killed; nil is never.
type blow struct {
	after, of time.Duration
	alone     bool
}

// String says it as a failure does.
func (at *blow) String() string {
	if at == nil {
		return "when nothing was killed"
	}
	return fmt.Sprintf("killed after %.1f of %.1f ms", millis(at.after), millis(at.of))
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// strikeAll calls a command of all plugins until the blow falls.
func (b *bench) strikeAll(ctx context.Context, command string, a *attachment, at *blow) error {
	if at == nil {
		b.every(ctx, command, a)
		return nil
	}
	begun := time.Now()
	for _, i := range b.order(command) {
		next := *at
		next.after -= time.Since(begun)
		x, err := b.strike(ctx, call{plugin: i, command: command, at: a, prev: a.result()}, &next)
		if err != nil {
			return err
		}
		if x.Status != 0 {
			return nil
		}
		if command == "ADD" {
			a.results = append(a.results, json.RawMessage(x.Stdout))
		}
	}
	return nil
}

// strike executes a plugin, kills it, and returns when nothing of it runs any
// more. What it prints goes to files, as what it has started may go on.
func (b *bench) strike(ctx context.Context, c call, at *blow) (*Exchange, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	residents, err := b.machine.processes()
	if err != nil {
		return nil, err
	}
	x, cmd, err := b.command(ctx, &c)
	if err != nil {
		return nil, err
	}
	stdout, err := os.CreateTemp(b.dir, "stdout-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = errors.Join(stdout.Close(), os.Remove(stdout.Name())) }()
	cmd.Stdout, cmd.Stderr = stdout, stdout
	if err := b.machine.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", x.Plugin, err)
	}
	b.executed()
	if err := at.fall(cmd); err != nil {
		return nil, err
	}
	x.Status = cmd.ProcessState.ExitCode()
	if err := b.machine.calmDown(ctx, residents); err != nil {
		return nil, err
	}
	printed, err := os.ReadFile(stdout.Name())
	x.Stdout = string(printed)
	return x, err
}

// fall kills a command when its time has come, and waits for its end.
func (at *blow) fall(cmd *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	moment := time.NewTimer(max(0, at.after))
	defer moment.Stop()
	var err error
	select {
	case err = <-ended:
	case <-moment.C:
		target := -cmd.Process.Pid
		if at.alone {
			target = cmd.Process.Pid
		}
		if err := syscall.Kill(target, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill process %d: %w", cmd.Process.Pid, err)
		}
		err = <-ended
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return fmt.Errorf("wait for process %d: %w", cmd.Process.Pid, err)
	}
	return nil
}
