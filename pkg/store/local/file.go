package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// files writes below the store's directory so that what is there after a crash
// is either the old or the new contents, and, unless sync is off, so that what
// was acknowledged outlives a loss of power. Only the holder of the lock writes.
type files struct {
	// scratch is where a file is written before it takes its place. The names
	// there are fixed: what a killed writer left is overwritten by the next.
	scratch string
	sync    bool
}

// replace gives a file new contents at once.
func (f files) replace(path string, data []byte) error {
	temporary := filepath.Join(f.scratch, "new")
	if err := f.write(temporary, data); err != nil {
		return err
	}
	if err := renameFile(temporary, path); err != nil {
		return err
	}
	return f.syncDir(filepath.Dir(path))
}

func (f files) write(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil && f.sync {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// remove deletes a file, and then the directories below root that this leaves
// empty.
func (f files) remove(path, root string) error {
	if err := removeFile(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := f.syncDir(dir); err != nil {
		return err
	}
	// A directory that is not empty stays; one that stays empty does no harm.
	for dir != root && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return nil
}

// makeDirs creates a directory and those above it that are missing.
func (f files) makeDirs(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
		if err := f.makeDirs(filepath.Dir(dir)); err != nil {
			return err
		}
		// Another process may be making the same directories of a new store.
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	return f.syncDir(filepath.Dir(dir))
}

func (f files) syncDir(dir string) error {
	if !f.sync {
		return nil
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
