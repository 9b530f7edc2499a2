//go:build !windows

package local

import (
	"errors"
	"os"
	"syscall"
)

// tryLockFile takes the lock if nobody has it.
func tryLockFile(file *os.File, exclusive bool) (bool, error) {
	err := flock(file, lockMode(exclusive)|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// lockFile takes the lock, however long that takes.
func lockFile(file *os.File, exclusive bool) error {
	return flock(file, lockMode(exclusive))
}

func lockMode(exclusive bool) int {
	if exclusive {
		return syscall.LOCK_EX
	}
	return syscall.LOCK_SH
}

func flock(file *os.File, mode int) error {
	for {
		err := syscall.Flock(int(file.Fd()), mode)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
