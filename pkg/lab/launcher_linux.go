package lab

// The thread that starts a lab's child processes.

import (
	"fmt"
	"runtime"
)

// A launcher is one operating system thread which lives as long as the lab. A
// parent-death signal is sent when the parent's thread ends, not its process:
// a child started from any thread of the pool could die at any time.
type launcher struct {
	tasks chan task
	quit  chan struct{}
	done  chan struct{}
}

type task struct {
	fn     func() error
	result chan error
}

func newLauncher() *launcher {
	l := &launcher{tasks: make(chan task), quit: make(chan struct{}), done: make(chan struct{})}
	go l.loop()
	return l
}

func (l *launcher) loop() {
	defer close(l.done)
	// A task that loses the thread leaves one lock more, so that the thread
	// ends with this goroutine; else it is as good as any other.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case t := <-l.tasks:
			t.result <- t.fn()
		case <-l.quit:
			return
		}
	}
}

// run runs fn on the thread. One runs at a time.
func (l *launcher) run(fn func() error) error {
	t := task{fn: fn, result: make(chan error, 1)}
	select {
	case l.tasks <- t:
		return <-t.result
	case <-l.done:
		return fmt.Errorf("lab is closed: %w", ErrDown)
	}
}

// close ends the thread. All children must have ended before.
func (l *launcher) close() {
	close(l.quit)
	<-l.done
}
