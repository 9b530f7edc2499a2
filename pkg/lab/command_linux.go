package lab

// Child processes that run in a host and don't outlive the lab.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// waitDelay is how long a child's output may be held open by what it started
// once the child itself has ended.
const waitDelay = 2 * time.Second

// A Command is an [exec.Cmd] that starts in a host's namespace. The process
// leads a group of its own and is killed when the lab's process dies for
// whatever reason, when the host loses its power and when the lab is closed.
// Its methods stand for those of exec.Cmd of the same names.
type Command struct {
	*exec.Cmd
	host *Host

	wait    sync.Once
	waitErr error
}

// Command returns a command that will run in the host. When ctx ends its
// process group is killed.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Command {
	c := &Command{Cmd: exec.CommandContext(ctx, name, args...), host: h}
	c.SysProcAttr = &syscall.SysProcAttr{}
	c.Cancel = c.killGroup
	c.WaitDelay = waitDelay
	return c
}

// Start starts the process.
func (c *Command) Start() error {
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	c.SysProcAttr.Setpgid = !c.SysProcAttr.Setsid // a session is a group, too
	c.Env = append(c.Environ(), hostVariable+"="+c.host.dir)
	err := c.host.lab.launcher.run(func() error {
		if err := c.host.Do(c.Cmd.Start); err != nil {
			return err
		}
		c.host.mu.Lock()
		defer c.host.mu.Unlock()
		c.host.children[c] = struct{}{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("start %s in %s: %w", c.Path, c.host.name, err)
	}
	return nil
}

// Wait waits for the process's end. It may be called more than once.
func (c *Command) Wait() error {
	c.wait.Do(func() {
		c.waitErr = c.Cmd.Wait()
		c.host.mu.Lock()
		defer c.host.mu.Unlock()
		delete(c.host.children, c)
	})
	return c.waitErr
}

// Run starts the process and waits for its end.
func (c *Command) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process and returns its standard output. As with exec.Cmd,
// an [exec.ExitError] has what it wrote to the standard error.
func (c *Command) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("standard output is already set")
	}
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	captured := c.Stderr == nil
	if captured {
		c.Stderr = &stderr
	}
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && captured {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the process and returns all that it wrote.
func (c *Command) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("standard output or error is already set")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Kill kills the process and its group and waits for its end. A process that
// has ended is fine, also one that ended well just when its context did: Wait
// says the context's error then.
func (c *Command) Kill() error {
	if err := c.killGroup(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s in %s: %w", c.Path, c.host.name, err)
	}
	err := c.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); ok || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// killGroup kills the group while its leader holds its number.
func (c *Command) killGroup() error {
	if c.Process == nil {
		return fmt.Errorf("kill %s: not started", c.Path)
	}
	if err := c.Process.Signal(syscall.Signal(0)); err != nil {
		return err
	}
	if err := syscall.Kill(-c.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// reap waits for the host's children, all of which have been killed.
func (h *Host) reap() error {
	h.mu.RLock()
	children := make([]*Command, 0, len(h.children))
	for c := range h.children {
		children = append(children, c)
	}
	h.mu.RUnlock()
	var errs []error
	for _, c := range children {
		errs = append(errs, c.Kill())
	}
	return errors.Join(errs...)
}
