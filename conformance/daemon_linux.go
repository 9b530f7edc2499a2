package conformance

// What runs on a node besides plugins.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A daemon is the target's command on a node, while it runs.
type daemon struct {
	command *exec.Cmd
	log     *os.File
	ended   chan struct{}
	err     error // that it ended with, once it has
}

// startDaemon starts the target's daemon, if it has one, and waits until the
// plugins attach containers.
func (b *bench) startDaemon(ctx context.Context) error {
	if b.daemon == "" {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(b.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the daemon's log: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", b.daemon)
	// The system's programs come first: bridge is the name of a plugin, too.
	path := append([]string{os.Getenv("PATH")}, b.bin...)
	cmd.Env = append(os.Environ(), "PATH="+strings.Join(path, string(filepath.ListSeparator)))
	cmd.Env = append(cmd.Env, b.site.environ()...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, b.dir
	if err := b.machine.start(cmd); err != nil {
		return errors.Join(fmt.Errorf("%w: start the daemon: %w", ErrTarget, err), log.Close())
	}
	d := &daemon{command: cmd, log: log, ended: make(chan struct{})}
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
	b.running.Store(d)
	return b.settle(ctx)
}

// stopDaemon kills the daemon, if there is one, with all that it has started.
func (b *bench) stopDaemon() error {
	d := b.running.Load()
	if d == nil {
		return nil
	}
	select {
	case <-d.ended:
	default:
		_ = d.command.Cancel() // fails when it has just ended
	}
	if err := b.machine.kill(); err != nil {
		return fmt.Errorf("stop the daemon on node %s: %w", b.site.name, err)
	}
	<-d.ended
	b.running.Store(nil)
	return d.log.Close()
}

// An unready error says that a node attaches no container after its daemon was
// started.
type unready struct {
	text     string
	exchange *Exchange
}

// Error returns all that there is to say.
func (u *unready) Error() string { return fmt.Sprintf("%s:\n%s", u.text, u.exchange) }

// Unwrap returns ErrTarget.
func (u *unready) Unwrap() error { return ErrTarget }

// orViolated turns a node that isn't ready into a violation, where its getting
// ready is a part of what is checked.
func orViolated(err error) error {
	if u, ok := errors.AsType[*unready](err); ok {
		return &Violation{Text: u.text, Exchange: u.exchange}
	}
	return err
}

// settle waits until a container can be attached, unless the daemon has failed.
func (b *bench) settle(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, b.convergence)
	defer cancel()
	c, err := b.newContainer()
	if err != nil {
		return err
	}
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	var last *Exchange // that had its time
	for {
		failed := b.running.Load().failure()
		x := b.trial(limited, &attachment{container: c, ifname: "eth0", args: b.args, capable: b.capable})
		if x.Status == 0 {
			return c.Close()
		}
		if last == nil || limited.Err() == nil {
			last = x
		}
		if failed != nil {
			return b.neverReady(last, "its daemon has ended: %v", failed)
		}
		select {
		case <-pause.C:
		case <-limited.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return b.neverReady(last, "%s after its daemon was started", b.convergence)
		}
	}
}

// neverReady says by what a node wasn't ready, and why not.
func (b *bench) neverReady(x *Exchange, format string, args ...any) error {
	x.Log = b.running.Load().tail()
	text := fmt.Sprintf("node %s attaches no container, ", b.site.name) + fmt.Sprintf(format, args...)
	return fmt.Errorf("%w: %w", ErrTarget, &unready{text: text, exchange: x})
}

// trial adds a container and deletes it again, and returns the exchange that
// failed, or the last. STATUS is asked first, where there is one: an ADD that
// comes too early would fail.
func (b *bench) trial(ctx context.Context, a *attachment) *Exchange {
	if !before(b.version, "1.1.0") {
		for i := range b.plugins {
			if x := b.status(ctx, i); x.Status != 0 {
				return x
			}
		}
	}
	x := b.add(ctx, a)
	for i := len(b.plugins) - 1; i >= 0; i-- {
		if del := b.do(ctx, call{plugin: i, command: "DEL", at: a, prev: a.result()}); x.Status == 0 {
			x = del
		}
	}
	return x
}

// failure is what the daemon has ended with, if that was no success. One may
// also do its work and end.
func (d *daemon) failure() error {
	select {
	case <-d.ended:
		return d.err
	default:
		return nil
	}
}

// tail is the end of what the daemon has said, and with what it has ended.
func (d *daemon) tail() string {
	const most = 4000
	info, err := d.log.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(0, info.Size()-most)
	said := make([]byte, most)
	n, err := d.log.ReadAt(said, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	said = bytes.TrimSpace(said[:n])
	if err := d.failure(); err != nil {
		said = fmt.Appendf(said, "\n(it has ended: %v)", err)
	}
	return string(said)
}
