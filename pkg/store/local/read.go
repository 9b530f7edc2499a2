package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// listAttempts is how often List reads anew because of concurrent changes
// before it takes the lock.
const listAttempts = 3

// state is what the store has come to: the changelog, and whether the change at
// its head was made.
type state struct {
	changelog
	done bool
	// entry is what the head's key held when its change was found done.
	entry store.Entry
}

// revision is that of the last change that was made. The one before a head that
// isn't done may belong to a change that never was; it is as good, since all up
// to it is settled.
func (s state) revision() store.Revision {
	if s.done {
		return s.head().revision
	}
	return s.head().revision - 1
}

func (s state) equal(other state) bool {
	return s.head() == other.head() && s.done == other.done
}

// Get returns one entry, or store.ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := errors.Join(ctx.Err(), store.ValidateKey(key)); err != nil {
		return store.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	entry, found, err := s.readEntry(key)
	if err == nil && !found {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	return entry, nil
}

// List returns all entries below a prefix, sorted by key, and the revision that
// they show exactly. It fails as a whole when one of them is corrupt.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	if err := errors.Join(ctx.Err(), store.ValidatePrefix(prefix)); err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, err)
	}
	entries, at, err := s.snapshot(ctx, prefix)
	if err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, err)
	}
	return entries, at.revision(), nil
}

// Revision returns the revision of the store, for little more than the cost of
// reading two small files. It is that of the last change of any key, or higher
// where a writer was killed.
func (s *Store) Revision(ctx context.Context) (store.Revision, error) {
	now, err := s.state(ctx)
	if err != nil {
		return 0, fmt.Errorf("read revision: %w", err)
	}
	return now.revision(), nil
}

// snapshot is a list with the state that it shows.
func (s *Store) snapshot(ctx context.Context, prefix string) ([]store.Entry, state, error) {
	for range listAttempts {
		entries, at, steady, err := s.tryList(ctx, prefix)
		if err != nil || steady {
			return entries, at, err
		}
	}
	release, err := s.lock.acquireShared(ctx)
	if err != nil {
		return nil, state{}, err
	}
	defer release()
	entries, at, _, err := s.tryList(ctx, prefix)
	return entries, at, err
}

// tryList lists once, and says whether the store was the same before and after.
// If it was, every change up to the head but the head's own was settled before
// the listing began, the head's was either done all the while or not done all
// the while, and no other had begun when the listing was over.
func (s *Store) tryList(ctx context.Context, prefix string) ([]store.Entry, state, bool, error) {
	before, err := s.state(ctx)
	if err != nil {
		return nil, state{}, false, err
	}
	entries, err := s.readEntries(ctx, prefix)
	if err != nil {
		return nil, state{}, false, err
	}
	after, err := s.state(ctx)
	if err != nil {
		return nil, state{}, false, err
	}
	return entries, after, before.equal(after), nil
}

// state reads the changelog, and the key at its head. That the head is not done
// is only certain while it still is the head: otherwise it was done, and the
// next change has undone it since.
func (s *Store) state(ctx context.Context) (state, error) {
	log, err := s.readSettledChangelog()
	for err == nil {
		head := log.head()
		if head.revision == 0 {
			return state{changelog: log, done: true}, nil
		}
		entry, found, err := s.readEntry(head.key)
		if err != nil {
			return state{}, err
		}
		if headDone(head, entry, found) {
			return state{changelog: log, done: true, entry: entry}, nil
		}
		again, err := s.readSettledChangelog()
		if err != nil {
			return state{}, err
		}
		if again.head() == head {
			return state{changelog: log}, nil
		}
		if err := ctx.Err(); err != nil {
			return state{}, err
		}
		log = again
	}
	return state{}, err
}

// headDone says whether the change at the head was made, by what its key holds.
func headDone(head change, entry store.Entry, found bool) bool {
	if !found {
		return head.deleted
	}
	return entry.Revision >= head.revision
}

// readSettledChangelog reads the changelog of an initialised store, where it
// can't be missing.
func (s *Store) readSettledChangelog() (changelog, error) {
	log, err := s.readChangelog()
	if errors.Is(err, fs.ErrNotExist) {
		return changelog{}, corrupt(s.changesPath(), err)
	}
	return log, err
}

func (s *Store) readChangelog() (changelog, error) {
	data, err := readFile(s.changesPath())
	if err != nil {
		return changelog{}, err
	}
	log, err := decodeChangelog(data)
	if err != nil {
		return changelog{}, corrupt(s.changesPath(), err)
	}
	return log, nil
}

// readEntry reads the file of a key; false when there is none.
func (s *Store) readEntry(key string) (store.Entry, bool, error) {
	path := s.entryPath(key)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return store.Entry{}, false, nil
	}
	if err != nil {
		return store.Entry{}, false, err
	}
	entry, err := decodeEntry(data)
	if err == nil && entry.Key != key {
		err = fmt.Errorf("file of key %s holds key %s", key, entry.Key)
	}
	if err != nil {
		return store.Entry{}, false, corrupt(path, err)
	}
	return entry, true, nil
}

// readEntries reads what is below a prefix, sorted by key. Files that no key
// has, such as an editor's, are passed over.
func (s *Store) readEntries(ctx context.Context, prefix string) ([]store.Entry, error) {
	var entries []store.Entry
	root := filepath.Join(s.keysPath(), filepath.FromSlash(prefixPath(prefix)))
	err := filepath.WalkDir(root, func(path string, file fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed meanwhile
		case err != nil:
			return err
		case file.IsDir():
			return ctx.Err()
		}
		relative, err := filepath.Rel(s.keysPath(), path)
		if err != nil {
			return err
		}
		key, ok := pathKey(filepath.ToSlash(relative))
		if !ok {
			return nil
		}
		entry, found, err := s.readEntry(key)
		if found {
			entries = append(entries, entry)
		}
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return entries, nil
}
