package lab

// A network namespace that lives as long as this process has it open, and the
// way of a thread into it and back.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A namespace is an open network namespace.
type namespace struct {
	fd int
	id string // as the kernel writes it in /proc/<pid>/ns/net: net:[inode]
}

// newNamespace makes a namespace; the calling thread is back where it was when
// it returns.
func newNamespace() (*namespace, error) {
	var ns *namespace
	err := keepNamespace(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		fd, err := openThreadNamespace()
		if err != nil {
			return err
		}
		ns = &namespace{fd: fd}
		ns.id, err = os.Readlink(ns.path())
		return err
	})
	if err != nil {
		if ns != nil {
			err = errors.Join(err, ns.close())
		}
		return nil, err
	}
	return ns, nil
}

// path opens the namespace in any process of the machine.
func (ns *namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd)
}

func (ns *namespace) close() error {
	if err := unix.Close(ns.fd); err != nil {
		return fmt.Errorf("close network namespace %s: %w", ns.id, err)
	}
	return nil
}

// enter moves the calling thread, which must be locked, into the namespace.
func (ns *namespace) enter() error {
	if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", ns.id, err)
	}
	return nil
}

// do runs fn on a thread in the namespace.
func (ns *namespace) do(fn func() error) error {
	return keepNamespace(func() error {
		if err := ns.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// kernel opens a netlink handle in the namespace. The socket is made by a
// thread inside, as handles which change the namespace themselves ignore it
// when they can't change back.
func (ns *namespace) kernel() (*netlink.Handle, error) {
	var handle *netlink.Handle
	err := ns.do(func() (err error) {
		handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		if handle != nil {
			handle.Close()
		}
		return nil, fmt.Errorf("open netlink in %s: %w", ns.id, err)
	}
	return handle, nil
}

// A sysctl is a setting of a namespace, named by its path below /proc/sys/net.
type sysctl struct{ name, value string }

// set writes the settings in the namespace.
func (ns *namespace) set(settings ...sysctl) error {
	return ns.do(func() error {
		for _, s := range settings {
			file := filepath.Join("/proc/sys/net", filepath.Clean("/"+s.name))
			if err := os.WriteFile(file, []byte(s.value), 0); err != nil {
				return fmt.Errorf("set %s to %s: %w", strings.TrimPrefix(file, "/proc/sys/"), s.value, err)
			}
		}
		return nil
	})
}

// keepNamespace runs fn, which may change the thread's namespace, and brings
// the thread back. If that fails the goroutine stays locked, so that the
// runtime ends the thread with it instead of giving it to another goroutine.
// It is the caller's goroutine on purpose: a panic or a test's FailNow in fn
// behaves as usual.
func keepNamespace(fn func() error) (err error) {
	runtime.LockOSThread()
	origin, err := openThreadNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		back := unix.Setns(origin, unix.CLONE_NEWNET)
		closed := unix.Close(origin)
		if back != nil {
			err = errors.Join(err, fmt.Errorf("%w: %w", ErrThreadLost, back), closed)
			return
		}
		runtime.UnlockOSThread()
		err = errors.Join(err, closed)
	}()
	return fn()
}

func openThreadNamespace() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open network namespace of thread: %w", err)
	}
	return fd, nil
}
