package ipam

import (
	"os"
)

// file is what the ledger needs of a file, so that tests can fail and stop it at
// every write. There is no mapping into memory: a full disk or a truncated file
// would be a SIGBUS instead of an error.
type file interface {
	ReadAt(b []byte, at int64) (int, error)
	WriteAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
	Size() (int64, error)
	Sync() error
}

// diskFile is the real one.
type diskFile struct{ *os.File }

// Size is the length in bytes.
func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
