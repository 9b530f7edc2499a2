// Package local is the embedded store: a directory that several processes of
// one machine share, without a server. Short-lived processes open it for next
// to nothing.
//
//	format     what this directory is, and in which version
//	lock       locked by who writes; names the holder meanwhile
//	changes    the number of the last change, and recent deletions
//	keys/      a file for each key
//	scratch/   what is being written
//
// # Writers
//
// A writer holds the lock, so there is one at a time. It first replaces the
// file changes, in which the last line is its own change with a revision that
// is thereby used up; then it puts the entry in place or removes it. Each step
// is one rename or one removal, and is on the disk before the next begins. A
// writer may die anywhere: either its change is there in full, or nothing of it
// but a number that nobody else will use.
//
// # Readers
//
// Readers take no lock, so a writer that is stopped or slow stops nobody. The
// last line of changes, the head, says which key may be on its way from its old
// to its new state, and the key's file says which of the two it has reached. So
// the state of the store is known exactly: the head's revision if its change
// was made, otherwise the one before it. List reads this state before and after
// it reads the entries, and does it again when a change was begun or completed
// meanwhile. What it returns is what was there at that revision, no more and no
// less, and a Watch from there misses nothing and repeats nothing. If writers
// never leave it the time, List takes the lock, shared with other readers.
//
// # Watchers
//
// A Watch is woken by the file system when changes is replaced and when a
// writer releases the lock. It delivers what has a higher revision than what it
// delivered last: entries by their own revision, deletions from the changelog.
// If a writer is killed after its change and before its release, nothing wakes
// the watchers; they find its change with the next one, or within 30 s.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// ErrFormat says that the directory holds something else than a store of the
// format that this package reads.
var ErrFormat = errors.New("not a store of a known format")

const (
	formatText         = "overlay-cni store 1\n"
	defaultLockTimeout = 5 * time.Second
)

// Options are what a Store may be opened with. The zero value is right for
// leases.
type Options struct {
	// LockTimeout is how long a change waits for other writers before it fails
	// with store.ErrLocked; 5 s when it is zero.
	LockTimeout time.Duration
	// NoSync leaves it to the system when changes reach the disk. They still
	// survive the death of any process, but not a loss of power.
	NoSync bool
}

// Store is a store in a directory. It keeps no file open between calls, except
// while something is watched.
type Store struct {
	dir      string
	files    files
	lock     *lock
	notifier *notifier
}

var _ store.Store = (*Store)(nil)

// Open returns the store in a directory, which is made when it is missing.
// A directory that is neither empty nor a store is refused with ErrFormat.
func Open(dir string, opts Options) (*Store, error) {
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = defaultLockTimeout
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{
		dir:      dir,
		files:    files{scratch: filepath.Join(dir, "scratch"), sync: !opts.NoSync},
		lock:     &lock{path: filepath.Join(dir, "lock"), timeout: opts.LockTimeout},
		notifier: &notifier{dir: dir},
	}
	ready, err := s.checkFormat()
	if err == nil && !ready {
		err = s.initialise()
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

// Close releases what the store holds, which is nothing: what a Watch uses ends
// with the Watch.
func (s *Store) Close() error { return nil }

func (s *Store) formatPath() string  { return filepath.Join(s.dir, "format") }
func (s *Store) changesPath() string { return filepath.Join(s.dir, "changes") }
func (s *Store) keysPath() string    { return filepath.Join(s.dir, "keys") }

func (s *Store) entryPath(key string) string {
	return filepath.Join(s.keysPath(), filepath.FromSlash(entryPath(key)))
}

// checkFormat says whether the store was initialised.
func (s *Store) checkFormat() (bool, error) {
	text, err := readFile(s.formatPath())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read format: %w", err)
	}
	if string(text) != formatText {
		return false, fmt.Errorf("%w: %s says %.40q, this program reads %q", ErrFormat, s.formatPath(), text, formatText)
	}
	return true, nil
}

// initialise makes a new store, or completes one whose maker was killed. The
// format comes last: where it is, the rest is.
func (s *Store) initialise() error {
	if err := s.files.makeDirs(s.dir); err != nil {
		return err
	}
	if err := s.refuseForeign(); err != nil {
		return err
	}
	release, err := s.lock.acquire(context.Background())
	if err != nil {
		return err
	}
	defer release()
	if ready, err := s.checkFormat(); ready || err != nil {
		return err
	}
	for _, dir := range []string{s.files.scratch, s.keysPath()} {
		if err := s.files.makeDirs(dir); err != nil {
			return err
		}
	}
	if err := s.initialiseChanges(); err != nil {
		return err
	}
	return s.files.replace(s.formatPath(), []byte(formatText))
}

// initialiseChanges begins to count, unless there is something that has been
// counted.
func (s *Store) initialiseChanges() error {
	if _, err := s.readChangelog(); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(s.keysPath())
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return corrupt(s.changesPath(), errors.New("missing, but there are keys"))
	}
	return s.files.replace(s.changesPath(), changelog{}.encode())
}

// refuseForeign keeps the store out of a directory that holds other things.
func (s *Store) refuseForeign() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	own := []string{"changes", "format", "keys", "lock", "scratch"}
	for _, entry := range entries {
		if !slices.Contains(own, entry.Name()) {
			return fmt.Errorf("%w: directory holds %q and no format file", ErrFormat, entry.Name())
		}
	}
	return nil
}

// corrupt is the error of a file that can't be read as what this package writes.
func corrupt(path string, err error) error {
	return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, path, err)
}
