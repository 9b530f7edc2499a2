// Package store is the place where nodes agree: a small key-value interface
// with compare-and-swap and watches, over an embedded store (store/local), etcd
// or the Kubernetes API.
//
// Everything that must never happen twice (a block of addresses claimed by two
// nodes) rests on one promise of this interface: of two Creates of one key, at
// most one succeeds. Every implementation passes the suite in store/storetest.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The errors that every implementation returns, wrapped, so that errors.Is
// finds them.
var (
	// ErrNotFound: the key does not exist.
	ErrNotFound = errors.New("key not found")
	// ErrExists: Create of a key that exists.
	ErrExists = errors.New("key exists")
	// ErrConflict: the key's revision is not the one that the caller expected.
	ErrConflict = errors.New("key has changed")
	// ErrCompacted: Watch from a revision that the store no longer remembers.
	// List again, and watch from the revision that List returns.
	ErrCompacted = errors.New("revision is compacted")
	// ErrLocked: another process held the store for longer than the caller
	// could wait.
	ErrLocked = errors.New("store is locked")
	// ErrCorrupt: what is stored cannot be read as what this package writes.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrInvalidKey: see ValidateKey.
	ErrInvalidKey = errors.New("invalid key")
)

// Revision numbers the changes of a store. It grows with every change and is
// never used again, also not for a key that was deleted and created anew.
// Zero stands for "before the first change".
type Revision int64

// Entry is a key with its value and the revision of its last change.
type Entry struct {
	Key      string
	Value    []byte
	Revision Revision
	// Created is the greater the later the key was created, whatever was
	// changed since; keys that were created within a second may have the same.
	// Zero: the store doesn't know.
	Created int64
}

// Event is a change of one key.
type Event struct {
	// Entry is what the key holds now. When Deleted is set, Value is nil and
	// Revision is that of the deletion.
	Entry
	Deleted bool
}

// Store is a key-value store with optimistic concurrency. Its methods may be
// called concurrently, also from several processes where the implementation is
// shared between them. Values are returned as copies.
type Store interface {
	// Get returns one entry, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)

	// List returns all entries below a prefix, sorted by key, and the
	// revision of the store that they show. A prefix ends with "/" or is
	// empty, which means everything.
	List(ctx context.Context, prefix string) ([]Entry, Revision, error)

	// Create writes a key that does not exist yet, or returns ErrExists.
	Create(ctx context.Context, key string, value []byte) (Revision, error)

	// Update replaces the value of a key whose revision is still the given
	// one. It returns ErrConflict when it is another, ErrNotFound when the key
	// is gone.
	Update(ctx context.Context, key string, value []byte, revision Revision) (Revision, error)

	// Delete removes a key whose revision is still the given one, with the
	// same errors as Update.
	Delete(ctx context.Context, key string, revision Revision) error

	// Watch calls fn for every change below prefix after the given revision,
	// oldest first for each key; changes of one key may be coalesced to the
	// last. It blocks until ctx ends (and returns its error), fn returns an
	// error (and returns that) or the store can't go on (ErrCompacted where
	// a new List helps).
	Watch(ctx context.Context, prefix string, after Revision, fn func(Event) error) error

	// Close releases what the store holds. It doesn't change the contents.
	Close() error
}

// Expirer is a store that removes by itself what nobody writes any more.
type Expirer interface {
	Store
	// Expiring returns the same store with another Create and Update: what
	// they write is removed, as if deleted, when it wasn't written again for
	// about the time given. It isn't closed.
	Expiring(ttl time.Duration) Store
}

// Condition is what became of an entry, for the people who look at it.
type Condition struct {
	// Type names it, such as Accepted.
	Type   string
	Status bool
	// Reason is a word in CamelCase, Message a sentence.
	Reason, Message string
}

// Accepted is the type of the condition by which an entry that people wrote says
// whether it can be used.
const Accepted = "Accepted"

// Reporter is a store whose entries show conditions.
type Reporter interface {
	Store
	// Report shows a condition of an entry. It writes nothing where that is
	// shown already: of many nodes that see the same, one writes.
	Report(ctx context.Context, key string, c Condition) error
}

// Limits of keys and values, the least of what the implementations allow.
const (
	MaxKeyLength   = 512
	MaxValueLength = 256 << 10
)

// ValidateKey says whether a key may be used: segments of letters, digits,
// '.', '_', '-' and ':' joined by single slashes, none of them starting with a
// dot.
func ValidateKey(key string) error {
	if key == "" || len(key) > MaxKeyLength {
		return fmt.Errorf("%w: %q: length %d is not within 1..%d", ErrInvalidKey, key, len(key), MaxKeyLength)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment[0] == '.' {
			return fmt.Errorf("%w: %q: segment %q is empty or starts with a dot", ErrInvalidKey, key, segment)
		}
		for _, r := range segment {
			if !keyRune(r) {
				return fmt.Errorf("%w: %q: character %q is not allowed", ErrInvalidKey, key, r)
			}
		}
	}
	return nil
}

// ValidatePrefix says whether a prefix may be listed or watched: empty, or a
// valid key followed by a slash.
func ValidatePrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	key, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("%w: prefix %q does not end with a slash", ErrInvalidKey, prefix)
	}
	return ValidateKey(key)
}

func keyRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return true
	}
	return r == '.' || r == '_' || r == '-' || r == ':'
}
