package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/filelock"
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
}

// acquire takes the lock for writing and returns what releases it.
func (l *lock) acquire(ctx context.Context) (release func(), err error) {
	file, err := l.wait(ctx, os.O_RDWR|os.O_CREATE, filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	// The name serves people only, so a full disk must not stop a deletion.
	_ = file.Truncate(0)
	_, _ = fmt.Fprintf(file, "%d %s\n", os.Getpid(), filepath.Base(os.Args[0]))
	return func() {
		// This also is the event that tells watchers that the change is done.
		_ = file.Truncate(0)
		_ = file.Close()
	}, nil
}

// acquireShared takes the lock along with others who do so, excluding writers.
// It writes nothing.
func (l *lock) acquireShared(ctx context.Context) (release func(), err error) {
	file, err := l.wait(ctx, os.O_RDONLY, filelock.Shared)
	if err != nil {
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

// wait opens the file and locks it, within the time that ctx and the timeout
// leave. Closing it gives the lock back.
func (l *lock) wait(ctx context.Context, flag int, mode filelock.Mode) (*os.File, error) {
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	file, err := os.OpenFile(l.path, flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := filelock.Wait(bounded, file, mode); err != nil {
		_ = file.Close()
		if bounded.Err() != nil {
			return nil, l.locked(ctx)
		}
		return nil, err
	}
	return file, nil
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
