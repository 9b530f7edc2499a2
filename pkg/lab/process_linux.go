package lab

// Finding and killing the processes which belong to hosts, also those that
// children of the lab have started and that no parent watches any more.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostVariable is in the environment of each process started in a host. Its
// value is the host's directory.
const hostVariable = "OVERLAY_LAB_HOST"

// killDeadline is how long the kernel may take to end killed processes.
const killDeadline = 10 * time.Second

// suspects are processes that have a thread in one of some network namespaces
// or were started in a host whose directory is one of some or below.
type suspects struct {
	namespaces []string
	dirs       []string
}

// kill kills the suspects until there are none.
func (s suspects) kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killDeadline)
	defer cancel()
	for {
		pids, err := s.find()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := s.killOne(ctx, pid); err != nil {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
	}
}

// killOne kills one process and waits for its end. The process is looked at
// again once it is held by a descriptor, as its number may be another's by now.
func (s suspects) killOne(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if !s.match(pid) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return awaitExit(ctx, fd)
}

// awaitExit waits until the process behind a pidfd has ended.
func awaitExit(ctx context.Context, pidfd int) error {
	for {
		left := time.Hour
		if deadline, ok := ctx.Deadline(); ok {
			left = max(time.Until(deadline), 0)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0:
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// find lists the suspects, without this process and without zombies.
func (s suspects) find() ([]int, error) {
	names, err := readNames("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err == nil && pid != os.Getpid() && s.match(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// readNames lists a directory without a look at what is in it.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}

// match decides about one process. A process that ends meanwhile, a zombie
// and a kernel thread don't match: they have neither threads with a namespace
// nor an environment.
func (s suspects) match(pid int) bool {
	return s.matchEnvironment(pid) || s.matchNamespace(pid)
}

func (s suspects) matchNamespace(pid int) bool {
	if len(s.namespaces) == 0 {
		return false
	}
	tasks := fmt.Sprintf("/proc/%d/task/", pid)
	threads, err := readNames(tasks)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(threads, func(thread string) bool {
		id, err := os.Readlink(tasks + thread + "/ns/net")
		return err == nil && slices.Contains(s.namespaces, id)
	})
}

func (s suspects) matchEnvironment(pid int) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		dir, ok := strings.CutPrefix(string(entry), hostVariable+"=")
		if ok && slices.ContainsFunc(s.dirs, func(d string) bool { return dir == d || strings.HasPrefix(dir, d+"/") }) {
			return true
		}
	}
	return false
}
