package conformance

// Where plugins run: a node of the lab, with state folders of its own.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// stateFolders are where plugins keep what they know. A plugin finds them
// empty: what it does there isn't done to the machine's own networks. It finds
// no daemon's socket there either.
func stateFolders() []string { return []string{runFolder, "/var/lib"} }

// runFolder is what a reboot loses.
const runFolder = "/run"

// bootID is where a kernel tells which of its lives this is.
const bootID = "/proc/sys/kernel/random/boot_id"

// A machine is a node with a name and state folders that are its own. It is a
// thread in namespaces that nobody else is in; plugins are started from that
// thread.
type machine struct {
	node  *lab.Node
	keep  []string // folders that stay visible
	tasks chan func()
	done  chan struct{}
}

// newMachine makes a machine of a node. The folders in keep stay visible.
func newMachine(node *lab.Node, name string, keep []string) (*machine, error) {
	m := &machine{node: node, keep: keep, tasks: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go m.loop(name, ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make machine %s: %w", name, err)
	}
	return m, nil
}

// loop never unlocks its thread, which ends with it and takes the mounts along.
func (m *machine) loop(name string, ready chan<- error) {
	defer close(m.done)
	runtime.LockOSThread()
	err := settleIn(name, m.keep)
	ready <- err
	if err != nil {
		return
	}
	for task := range m.tasks {
		task()
	}
}

// start starts a program on the machine. It is killed when this process ends.
func (m *machine) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	result := make(chan error, 1)
	m.tasks <- func() { result <- m.node.Do(cmd.Start) }
	return <-result
}

// boot begins another life of the machine: /run is empty, and the number of the
// life another one. What else a reboot takes is the node's.
func (m *machine) boot() error {
	return m.inside(func() error {
		if err := hide([]string{runFolder}, m.keep); err != nil {
			return err
		}
		if err := unix.Unmount(bootID, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("take boot ID away: %w", err)
		}
		return newLife()
	})
}

// inside runs something on the machine's thread, which sees its files.
func (m *machine) inside(fn func() error) error {
	result := make(chan error, 1)
	m.tasks <- func() { result <- fn() }
	return <-result
}

// processes returns those that run on the machine: they are in its mount
// namespace.
func (m *machine) processes() (map[int]bool, error) {
	var own string
	err := m.inside(func() (err error) {
		own, err = os.Readlink("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find the machine's processes: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find the machine's processes: %w", err)
	}
	all := map[int]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if ns, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/mnt")); err == nil && ns == own {
			all[pid] = true
		}
	}
	return all, nil
}

// calmDown waits until no process runs on the machine that isn't a resident.
// One that never ends is none to wait for.
func (m *machine) calmDown(ctx context.Context, residents map[int]bool) error {
	const deadline, pause = 5 * time.Second, 2 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		now, err := m.processes()
		if err != nil {
			return err
		}
		for pid := range residents {
			delete(now, pid)
		}
		if len(now) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// kill ends all that runs on the machine, also what has left the group of the
// process that started it.
func (m *machine) kill() error {
	for {
		all, err := m.processes()
		if err != nil || len(all) == 0 {
			return err
		}
		for pid := range all {
			if err := m.killOne(pid); err != nil {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
	}
}

// killOne kills a process and waits for its end. It is looked at again once it
// is held by a descriptor, as its number may be another's by now.
func (m *machine) killOne(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if all, err := m.processes(); err != nil || !all[pid] {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	const patience = 10_000 // ms
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, patience)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && n == 0:
			return errors.New("it doesn't end")
		default:
			return err
		}
	}
}

// close ends the machine's thread.
func (m *machine) close() {
	close(m.tasks)
	<-m.done
}

// settleIn makes the thread that of a machine.
func settleIn(name string, keep []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("new namespaces: %w", err)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := hide(stateFolders(), keep); err != nil {
		return err
	}
	return newLife()
}

// newLife puts another number over the kernel's. The file has no name after
// that: a machine that was just booted has an empty /run.
func newLife() (err error) {
	id, err := os.CreateTemp(runFolder, ".boot_id-")
	if err != nil {
		return fmt.Errorf("make boot ID: %w", err)
	}
	defer func() { err = errors.Join(err, id.Close(), os.Remove(id.Name())) }()
	u := make([]byte, 16)
	_, _ = rand.Read(u) // never fails
	if _, err := fmt.Fprintf(id, "%x-%x-%x-%x-%x\n", u[:4], u[4:6], u[6:8], u[8:10], u[10:]); err != nil {
		return fmt.Errorf("make boot ID: %w", err)
	}
	if err := unix.Mount(id.Name(), bootID, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("set boot ID: %w", err)
	}
	return nil
}

// hide puts empty folders over some, but for what is kept of them.
func hide(dirs, keep []string) (err error) {
	open := map[string]*os.File{} // what is kept is still reached by these
	defer func() {
		for _, f := range open {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, dir := range keep {
		if f, err := os.Open(dir); err == nil && hidden(dirs, dir) {
			open[dir] = f
		}
	}
	for _, dir := range dirs {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
			return fmt.Errorf("mount on %s: %w", dir, err)
		}
	}
	for dir, f := range open {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d", f.Fd()), dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("keep %s: %w", dir, err)
		}
	}
	return nil
}

// hidden says whether a folder is in one of those that are hidden.
func hidden(dirs []string, dir string) bool {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for _, one := range dirs {
		if strings.HasPrefix(resolved, one+"/") {
			return true
		}
	}
	return false
}
