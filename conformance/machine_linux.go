package conformance

// Where plugins run: a node of the lab, with state folders of its own.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// stateFolders are where plugins keep what they know. A plugin finds them
// empty: what it does there isn't done to the machine's own networks. It finds
// no daemon's socket there either.
func stateFolders() []string { return []string{"/run", "/var/lib"} }

// A machine is a node with state folders that are its own. It is a thread in a
// mount namespace that nobody else is in; plugins are started from that thread.
type machine struct {
	node  *lab.Node
	tasks chan func()
	done  chan struct{}
}

// newMachine makes a machine of a node. The folders in keep stay visible.
func newMachine(node *lab.Node, keep []string) (*machine, error) {
	m := &machine{node: node, tasks: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1)
	go m.loop(keep, ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make state folders: %w", err)
	}
	return m, nil
}

// loop never unlocks its thread, which ends with it and takes the mounts along.
func (m *machine) loop(keep []string, ready chan<- error) {
	defer close(m.done)
	runtime.LockOSThread()
	err := hideState(keep)
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

// close ends the machine's thread.
func (m *machine) close() {
	close(m.tasks)
	<-m.done
}

// hideState moves the thread into a mount namespace and puts empty folders over
// the state folders, but for what is kept of them.
func hideState(keep []string) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	open := map[string]*os.File{} // what is kept is still reached by these
	defer func() {
		for _, f := range open {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, dir := range keep {
		if f, err := os.Open(dir); err == nil && hidden(dir) {
			open[dir] = f
		}
	}
	for _, dir := range stateFolders() {
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

// hidden says whether a folder is in one of the state folders.
func hidden(dir string) bool {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for _, state := range stateFolders() {
		if strings.HasPrefix(resolved, state+"/") {
			return true
		}
	}
	return false
}
