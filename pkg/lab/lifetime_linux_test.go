package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

func TestKilledOwnerLeavesNothing(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	observer := labtest.VM(t, l, "observer", "a")
	tmp := t.TempDir()
	owner, dead := own(t, tmp)
	_, alive := own(t, tmp)
	awaitNamespace := watchNamespace(t, observer.Host, dead.Path)
	childEnds, grandchildEnds := watchProcess(t, dead.Child), watchProcess(t, dead.Grandchild)
	otherChildEnds := watchProcess(t, alive.Child)
	otherGrandchildEnds := watchProcess(t, alive.Grandchild)

	if err := owner.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !childEnds(deathDeadline) {
		t.Error("a child lives on after its lab's process was killed")
	}

	path, env := role(t, "visitor", tmp)
	visitor := exec.CommandContext(t.Context(), path)
	visitor.Env = env
	if out, err := visitor.CombinedOutput(); err != nil {
		t.Fatalf("make another lab: %v\n%s", err, out)
	}
	if !grandchildEnds(0) {
		t.Error("a child's child lives on after the sweep")
	}
	awaitNamespace()
	if _, err := os.Stat(dead.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory of the killed lab: %v", err)
	}
	if _, err := os.Stat(alive.Dir); err != nil {
		t.Errorf("directory of a lab that is alive: %v", err)
	}
	if otherChildEnds(0) || otherGrandchildEnds(0) {
		t.Error("the sweep has killed a process of a lab that is alive")
	}
}

func TestChildOutlivesThreadThatAskedForIt(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	n := labtest.Node(t, l, "n1", "a")
	c := n.Command(t.Context(), "cat")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c.Stdout = &out
	gone := make(chan int, 1)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		gone <- unix.Gettid()
		started <- c.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	awaitThreadEnd(t, <-gone)
	if _, err := in.Write([]byte("alive")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(in.Close(), c.Wait()); err != nil {
		t.Fatal(err)
	}
	if out.String() != "alive" {
		t.Errorf("child has written %q", out.String())
	}
}

// awaitThreadEnd waits for the end of a thread, unless it is the main thread,
// which the runtime parks for ever. There is no event for it on all kernels.
func awaitThreadEnd(t *testing.T, tid int) {
	t.Helper()
	if tid == os.Getpid() {
		return
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(deathDeadline); time.Now().Before(deadline); <-tick.C {
		if errors.Is(unix.Tgkill(os.Getpid(), tid, 0), unix.ESRCH) {
			return
		}
	}
	t.Fatal("thread lives on")
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	stage := labtest.Node(t, l, "stage", "a")
	before, err := stage.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	// The visitor's own namespace is the stage's, where nobody else is.
	path, env := role(t, "visitor", t.TempDir())
	c := stage.Command(t.Context(), path)
	c.Env = env
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	after, err := stage.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if diff := before.Diff(after); len(diff) > 0 {
		t.Errorf("a lab has changed its owner's namespace:\n%s", strings.Join(diff, "\n"))
	}
}

// visitLab makes and closes labs, and looks at what its process and its
// directory for temporary files are left with.
func visitLab(ctx context.Context) error {
	if err := busyLab(ctx); err != nil { // the runtime's own descriptors come with first use
		return err
	}
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	goroutines := runtime.NumGoroutine()
	for range 3 {
		if err := busyLab(ctx); err != nil {
			return err
		}
	}
	after, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	if len(after) > len(before) {
		return fmt.Errorf("%d open files before, %d after", len(before), len(after))
	}
	for range 1000 { // one that has done its work may not have ended yet
		if runtime.NumGoroutine() <= goroutines {
			break
		}
		<-time.After(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		return fmt.Errorf("%d goroutines before, %d after", goroutines, n)
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("overlay-lab-%d-*", os.Getpid())))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("left behind: %v, %w", left, err)
	}
	return nil
}

// busyLab closes a lab in which all kinds of things go on.
func busyLab(ctx context.Context) (err error) {
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close(), l.Close()) }()
	n, err := l.AddNode("n1", "a")
	if err != nil {
		return err
	}
	m, err := l.AddVM("v1", "b")
	if err != nil {
		return err
	}
	p, err := n.NewPod("p1")
	if err != nil {
		return err
	}
	if _, err := m.Serve(ctx, 7); err != nil {
		return err
	}
	if _, err := m.Capture("eth0", nil); err != nil {
		return err
	}
	for _, h := range []*lab.Host{n.Host, m.Host, p.Host} {
		if err := h.Command(ctx, "sleep", "600").Start(); err != nil {
			return err
		}
	}
	_, err = n.Ping(ctx, m.IPv4())
	return err
}

func TestThreadsComeBack(t *testing.T) {
	t.Parallel()
	path, env := role(t, "threads", t.TempDir())
	c := exec.CommandContext(t.Context(), path)
	c.Env = env
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// taintThreads enters namespaces in all ways that are hard to come back from,
// and then looks where its process's threads are.
func taintThreads(ctx context.Context) (err error) {
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	n, err := l.AddNode("n1", "a")
	if err != nil {
		return err
	}
	ways := map[string]func() error{
		"success":  func() error { return nil },
		"error":    func() error { return errors.New("failed") },
		"goexit":   func() error { runtime.Goexit(); return nil },
		"nested":   func() error { return l.Router().Do(func() error { return nil }) },
		"unshared": func() error { return unix.Unshare(unix.CLONE_NEWNET) },
	}
	var work sync.WaitGroup
	for _, way := range ways {
		for range 20 {
			work.Go(func() { _ = n.Do(way) })
		}
	}
	work.Wait()
	if err := strayThreads(); err != nil {
		return fmt.Errorf("after ordinary ways: %w", err)
	}
	if err := loseThread(n.Host); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(deathDeadline); time.Now().Before(deadline); <-tick.C {
		if err = strayThreads(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("after the loss of a thread: %w", err)
}

// loseThread takes the privilege to come back from a thread in a namespace.
func loseThread(h *lab.Host) error {
	lost := make(chan error, 1)
	release := make(chan struct{})
	defer close(release)
	var attempt func()
	attempt = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // the main thread is parked, not ended
			go attempt()
			<-release
			runtime.UnlockOSThread()
			return
		}
		lost <- h.Do(func() error {
			none := [2]unix.CapUserData{}
			return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		})
		runtime.UnlockOSThread() // the lock that Do leaves is another
	}
	go attempt()
	if err := <-lost; !errors.Is(err, lab.ErrThreadLost) {
		return fmt.Errorf("way back barred: %w, want %w", err, lab.ErrThreadLost)
	}
	return nil
}

// strayThreads fails if a thread of this process is in another namespace than
// the main thread.
func strayThreads() error {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := os.Readlink(thread)
		if err == nil && id != home {
			return fmt.Errorf("thread %s is in %s, not in %s", thread, id, home)
		}
	}
	return nil
}

// TestKillOfWhatHasEnded: a process that ended well as its context did is none
// that couldn't be killed.
func TestKillOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	n := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	ctx, cancel := context.WithCancel(t.Context())
	c := n.Command(ctx, "true")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
		return err == nil && strings.Contains(string(stat), ") Z ")
	}
	for !ended() {
		<-time.After(time.Millisecond)
	}
	cancel()
	<-time.After(50 * time.Millisecond) // for the context's end to be noticed before the process's
	if err := c.Kill(); err != nil {
		t.Errorf("got %v", err)
	}
}
