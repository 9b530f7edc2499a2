package local

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockOffset is the upper half of the offset of the one byte that is locked.
// Windows keeps others from reading what is locked, and the holder's name at
// the start of the file must stay readable.
const lockOffset = 1 << 30

// tryLockFile takes the lock if nobody has it.
func tryLockFile(file *os.File, exclusive bool) (bool, error) {
	err := lockByte(file, lockMode(exclusive)|windows.LOCKFILE_FAIL_IMMEDIATELY)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// lockFile takes the lock, however long that takes.
func lockFile(file *os.File, exclusive bool) error {
	return lockByte(file, lockMode(exclusive))
}

func lockMode(exclusive bool) uint32 {
	if exclusive {
		return windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	return 0
}

func lockByte(file *os.File, flags uint32) error {
	at := &windows.Overlapped{OffsetHigh: lockOffset}
	return windows.LockFileEx(windows.Handle(file.Fd()), flags, 0, 1, 0, at)
}
