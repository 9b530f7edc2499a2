package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// lock is the advisory lock that writers of all processes take, on a file of
// its own. While it is held for writing, the file names the holder.
//
// The file is opened for each acquisition, so that goroutines of one process
// exclude each other as processes do, and the system releases the lock when its
// holder dies, however that happens. Nobody may delete the file: a second one
// of the same name would be a second lock.
type lock struct {
	path    string
	timeout time.Duration
	// turn holds a token while a goroutine of this process has the lock or
	// waits for it, so that at most one thread is blocked in the system call.
	turn chan struct{}
}

func newLock(path string, timeout time.Duration) *lock {
	return &lock{path: path, timeout: timeout, turn: make(chan struct{}, 1)}
}

// acquire takes the lock for writing and returns what releases it.
func (l *lock) acquire(ctx context.Context) (release func(), err error) {
	file, err := l.wait(ctx, os.O_RDWR|os.O_CREATE, true)
	if err != nil {
		return nil, err
	}
	// The name serves people only, so a full disk must not stop a deletion.
	_ = file.Truncate(0)
	_, _ = fmt.Fprintf(file, "%d %s\n", os.Getpid(), filepath.Base(os.Args[0]))
	return func() {
		// This also is the event that tells watchers that the change is done.
		_ = file.Truncate(0)
		l.release(file)
	}, nil
}

// acquireShared takes the lock along with others who do so, excluding writers.
// It writes nothing.
func (l *lock) acquireShared(ctx context.Context) (release func(), err error) {
	file, err := l.wait(ctx, os.O_RDONLY, false)
	if err != nil {
		return nil, err
	}
	return func() { l.release(file) }, nil
}

func (l *lock) release(file *os.File) {
	_ = file.Close()
	<-l.turn
}

// wait opens the file and locks it, within the time that ctx and the timeout
// leave.
func (l *lock) wait(ctx context.Context, flag int, exclusive bool) (*os.File, error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
	case <-bounded.Done():
		return nil, l.locked(ctx)
	}
	file, err := os.OpenFile(l.path, flag, 0o600)
	if err != nil {
		<-l.turn
		return nil, fmt.Errorf("open lock: %w", err)
	}
	locked, err := tryLockFile(file, exclusive)
	if err == nil && !locked {
		locked, err = l.block(bounded, file, exclusive)
		if err == nil && !locked {
			return nil, l.locked(ctx)
		}
	}
	if err != nil {
		l.release(file)
		return nil, fmt.Errorf("lock %s: %w", l.path, err)
	}
	return file, nil
}

// block waits in the system call, which can't be interrupted, in a goroutine of
// its own. When ctx ends first, the goroutine keeps the file and the turn and
// gives both back as soon as the call returns: so whoever comes next waits for
// the same holder without a thread of its own.
func (l *lock) block(ctx context.Context, file *os.File, exclusive bool) (bool, error) {
	result := make(chan error)
	go func() {
		err := lockFile(file, exclusive)
		select {
		case result <- err:
		case <-ctx.Done():
			l.release(file)
		}
	}()
	select {
	case err := <-result:
		return err == nil, err
	case <-ctx.Done():
		return false, nil
	}
}

// locked is the error of who waited in vain: for the timeout, or until its own
// context ended.
func (l *lock) locked(ctx context.Context) error {
	holder := "an unknown process"
	if text, err := os.ReadFile(l.path); err == nil && len(text) > 0 {
		holder = "process " + strings.TrimSpace(string(text))
	}
	dir := filepath.Dir(l.path)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %s is held by %s: %w", store.ErrLocked, dir, holder, err)
	}
	return fmt.Errorf("%w: %s is held by %s for longer than %v", store.ErrLocked, dir, holder, l.timeout)
}
