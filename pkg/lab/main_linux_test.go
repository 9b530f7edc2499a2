package lab_test

// The test binary also plays other processes: those that own a lab and are
// killed, and those that need a process or a namespace to themselves.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

const roleVariable = "OVERLAY_LAB_TEST_ROLE"

func TestMain(m *testing.M) {
	var role func(context.Context) error
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "owner":
		role = ownLab
	case "visitor":
		role = visitLab
	case "threads":
		role = taintThreads
	default:
		role = func(context.Context) error { return errors.New("unknown role") }
	}
	if err := role(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// role returns the arguments and the environment of a process that plays a
// role with labs below tmp.
func role(t *testing.T, name, tmp string) (path string, env []string) {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path, append(os.Environ(), roleVariable+"="+name, "TMPDIR="+tmp)
}

// An estate is what an owner has told about its lab.
type estate struct {
	Dir        string // of a node
	Path       string // of the node's namespace
	Child      int    // a process started in the node
	Grandchild int    // a process that the child has started
}

// ownLab makes a lab, tells about it, and waits for its own end.
func ownLab(ctx context.Context) error {
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return err
	}
	defer l.Close()
	n, err := l.AddNode("n1", "a")
	if err != nil {
		return err
	}
	e := estate{Dir: n.Dir(), Path: n.Path()}
	c := n.Command(ctx, "sh", "-c", "sleep 600 >&- & echo $!; wait")
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	if _, err := fmt.Fscan(out, &e.Grandchild); err != nil {
		return err
	}
	e.Child = c.Process.Pid
	if err := json.NewEncoder(os.Stdout).Encode(e); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends, however it does
	return err
}

// own starts an owner, which the test's end ends if nothing else does.
func own(t *testing.T, tmp string) (*exec.Cmd, estate) {
	t.Helper()
	path, env := role(t, "owner", tmp)
	c := exec.Command(path)
	c.Env, c.Stderr = env, os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait() // it may have been killed
	})
	var e estate
	if err := json.NewDecoder(out).Decode(&e); err != nil {
		t.Fatal("owner says nothing of its lab:", err)
	}
	return c, e
}

// watchProcess returns a function that reports whether a process ends within
// some time. It holds the process, so that its number isn't another's.
func watchProcess(t *testing.T, pid int) func(within time.Duration) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("open process %d: %v", pid, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func(within time.Duration) bool {
		for deadline := time.Now().Add(within); ; {
			left := max(time.Until(deadline), 0)
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
			if err == nil {
				return n > 0
			}
			if !errors.Is(err, unix.EINTR) {
				t.Fatal(err)
			}
		}
	}
}

// deathDeadline is how long the kernel may take to remove what is dead; it
// removes namespaces one after the other, those of others as well.
const deathDeadline = 30 * time.Second

// watchNamespace lays a cable from the observer into a namespace and returns a
// function that waits until the kernel has removed the namespace, which takes
// the cable with it.
func watchNamespace(t *testing.T, observer *lab.Host, path string) (awaitEnd func()) {
	t.Helper()
	name := fmt.Sprintf("w%d", time.Now().UnixNano()%1e12)
	var events *nl.NetlinkSocket
	err := observer.Do(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = name, netlink.NsFd(fd)
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
		return err
	})
	if err != nil {
		t.Fatalf("watch namespace %s: %v", path, err)
	}
	t.Cleanup(events.Close)
	timeout := unix.NsecToTimeval(deathDeadline.Nanoseconds())
	if err := events.SetReceiveTimeout(&timeout); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		for {
			err := observer.Do(func() error {
				_, err := netlink.LinkByName(name)
				return err
			})
			if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := events.Receive(); err != nil {
				t.Fatalf("namespace %s lives on: %v", path, err)
			}
		}
	}
}

// run runs a command in a host and returns its output.
func run(t *testing.T, h *lab.Host, line string) string {
	t.Helper()
	words := strings.Fields(line)
	out, err := h.Command(t.Context(), words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// namespaceOf reads what a link says, as those in /proc to namespaces do.
func namespaceOf(t *testing.T, file string) string {
	t.Helper()
	id, err := os.Readlink(file)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
