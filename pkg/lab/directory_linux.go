package lab

// A lab's directory: made, held by a lock as long as its process lives, and
// swept by others once it doesn't.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const directoryPrefix = "overlay-lab-"

// A directory is held by a lock on the directory itself. The kernel drops the
// lock when the process ends, and no child inherits it, so that who gets the
// lock knows the owner is gone. That holds across PID namespaces and when
// numbers of processes are used again.
type directory struct {
	path string
	fd   int
}

// newDirectory makes a directory for a lab below parent.
func newDirectory(parent string) (*directory, error) {
	for range 100 {
		path, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-", directoryPrefix, os.Getpid()))
		if err != nil {
			return nil, fmt.Errorf("make lab directory: %w", err)
		}
		d, err := lockDirectory(path, unix.LOCK_EX)
		if err == nil {
			return d, nil
		}
		// A sweeper that came before the lock has taken it for a leftover.
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, os.Remove(path))
		}
	}
	return nil, fmt.Errorf("make lab directory in %s: swept again and again", parent)
}

// lockDirectory takes the lock of a directory. The error is fs.ErrNotExist if
// there is none of the name any more once the lock is taken.
func lockDirectory(path string, how int) (*directory, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open lab directory %s: %w", path, err)
	}
	d := &directory{path: path, fd: fd}
	for {
		err = unix.Flock(fd, how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock lab directory %s: %w", path, err), d.unlock())
	}
	var held, named unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &held), unix.Lstat(path, &named)); err != nil {
		return nil, errors.Join(fmt.Errorf("look at lab directory %s: %w", path, err), d.unlock())
	}
	if held.Dev != named.Dev || held.Ino != named.Ino {
		return nil, errors.Join(fmt.Errorf("lab directory %s: %w", path, fs.ErrNotExist), d.unlock())
	}
	return d, nil
}

// remove deletes the directory and gives up its lock, in this order.
func (d *directory) remove() error {
	var err error
	if e := os.RemoveAll(d.path); e != nil {
		err = fmt.Errorf("remove lab directory: %w", e)
	}
	return errors.Join(err, d.unlock())
}

func (d *directory) unlock() error {
	if err := unix.Close(d.fd); err != nil {
		return fmt.Errorf("unlock lab directory %s: %w", d.path, err)
	}
	return nil
}

// sweep removes what labs whose process is gone have left below parent: their
// directories, and processes that their children had started.
func sweep(ctx context.Context, parent string) error {
	paths, err := filepath.Glob(filepath.Join(parent, directoryPrefix+"*"))
	if err != nil {
		return fmt.Errorf("list lab directories: %w", err)
	}
	var errs []error
	for _, path := range paths {
		if err := sweepDirectory(ctx, path); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func sweepDirectory(ctx context.Context, path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() {
		return nil //nolint:nilerr // gone meanwhile, or not made by us
	}
	d, err := lockDirectory(path, unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist):
		return nil // alive, or gone meanwhile
	case err != nil:
		return err
	}
	return errors.Join(suspects{dirs: []string{path}}.kill(ctx), d.remove())
}
