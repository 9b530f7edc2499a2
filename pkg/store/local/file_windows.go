package local

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// Windows refuses to replace or remove a file while somebody reads it, and to
// read it while it is being replaced. Both take microseconds and neither raises an
// event, so the call is made again for a while.
const (
	sharingAttempts = 200
	sharingInterval = 5 * time.Millisecond
)

func renameFile(from, to string) error {
	return whileShared(func() error { return os.Rename(from, to) })
}

func removeFile(path string) error {
	return whileShared(func() error { return os.Remove(path) })
}

func readFile(path string) (data []byte, err error) {
	err = whileShared(func() error {
		data, err = os.ReadFile(path)
		return err
	})
	return data, err
}

func whileShared(call func() error) error {
	var err error
	for range sharingAttempts {
		err = call()
		if !errors.Is(err, windows.ERROR_SHARING_VIOLATION) && !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
			return err
		}
		<-time.After(sharingInterval)
	}
	return err
}

// syncDir does nothing: Windows writes the names with the journal of the volume
// and has no call for one directory.
func syncDir(string) error { return nil }
