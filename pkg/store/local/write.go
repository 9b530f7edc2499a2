package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Create writes a key that does not exist yet, or returns store.ErrExists.
//
// As with every change, store.ErrLocked means that nothing was changed; an error
// of the disk at the very end may leave the change made.
func (s *Store) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	revision, err := s.put(ctx, key, value, func(_ store.Entry, found bool) error {
		if found {
			return store.ErrExists
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("create %s: %w", key, err)
	}
	return revision, nil
}

// Update replaces the value of a key whose revision is still the given one. It
// returns store.ErrConflict when it is another, store.ErrNotFound when the key
// is gone.
func (s *Store) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	updated, err := s.put(ctx, key, value, expect(revision))
	if err != nil {
		return 0, fmt.Errorf("update %s at revision %d: %w", key, revision, err)
	}
	return updated, nil
}

// Delete removes a key whose revision is still the given one, with the same
// errors as Update.
func (s *Store) Delete(ctx context.Context, key string, revision store.Revision) error {
	_, err := s.change(ctx, change{key: key, deleted: true}, expect(revision), func(store.Revision) error {
		return s.files.remove(s.entryPath(key), s.keysPath())
	})
	if err != nil {
		return fmt.Errorf("delete %s at revision %d: %w", key, revision, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, value []byte, allowed condition) (store.Revision, error) {
	if len(value) > store.MaxValueLength {
		return 0, fmt.Errorf("value has %d bytes, more than %d", len(value), store.MaxValueLength)
	}
	return s.change(ctx, change{key: key}, allowed, func(revision store.Revision) error {
		path := s.entryPath(key)
		if err := s.files.makeDirs(filepath.Dir(path)); err != nil {
			return err
		}
		return s.files.replace(path, encodeEntry(store.Entry{Key: key, Value: value, Revision: revision}))
	})
}

// change makes one change: numbers it, then applies it.
func (s *Store) change(ctx context.Context, ch change, allowed condition, apply func(store.Revision) error) (store.Revision, error) {
	if err := errors.Join(ctx.Err(), store.ValidateKey(ch.key)); err != nil {
		return 0, err
	}
	release, err := s.lock.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	entry, found, err := s.readEntry(ch.key)
	if err != nil {
		return 0, err
	}
	if err := allowed(entry, found); err != nil {
		return 0, err
	}
	log, err := s.readSettledChangelog()
	if err != nil {
		return 0, err
	}
	next := log.begin(ch.key, ch.deleted)
	if err := s.files.replace(s.changesPath(), next.encode()); err != nil {
		return 0, err
	}
	revision := next.head().revision
	return revision, apply(revision)
}

// condition says whether a change may be made, given what the key holds.
type condition func(entry store.Entry, found bool) error

func expect(revision store.Revision) condition {
	return func(entry store.Entry, found bool) error {
		switch {
		case !found:
			return store.ErrNotFound
		case entry.Revision != revision:
			return fmt.Errorf("%w: its revision is %d", store.ErrConflict, entry.Revision)
		}
		return nil
	}
}
