package ipam

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A real file system that is full, then read-only: a tmpfs in a mount namespace
// of a process of its own.
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	cmd := self("disk", t.TempDir(), 0)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func onSmallDisk(dir string) error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=768k"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	path := filepath.Join(dir, "ledger")
	l, err := OpenLedger(path, Options{})
	if err != nil {
		return err
	}
	defer l.Close()
	ctx := context.Background()
	if err := untilFull(ctx, l); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	if _, err := OpenLedger(path, Options{}); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("open on a read-only file system: %w", err)
	}
	return nil
}

// untilFull takes addresses until the disk is full; after that nothing may be
// broken, and what needs no room has to work.
func untilFull(ctx context.Context, l *Ledger) error {
	r := between("10.0.0.1", "10.255.255.255")
	taken := 0
	var err error
	for ; err == nil; taken++ {
		_, err = l.Allocate(ctx, ask(pod(taken), r))
	}
	taken--
	if !errors.Is(err, unix.ENOSPC) || taken < 100 {
		return fmt.Errorf("after %d: %w", taken, err)
	}
	for range 3 {
		if err := l.Verify(ctx); err != nil {
			return err
		}
		all, err := l.All(ctx)
		if err != nil || len(all) != taken {
			return fmt.Errorf("%d of %d are held: %w", len(all), taken, err)
		}
		if _, err := l.Allocate(ctx, ask(pod(taken), r)); !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("one more: %w", err)
		}
	}
	for n := range taken {
		if freed, err := l.Release(ctx, pod(n)); err != nil || len(freed) != 1 {
			return fmt.Errorf("release on a full disk: %v, %w", freed, err)
		}
	}
	return l.Verify(ctx)
}
