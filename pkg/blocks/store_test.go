package blocks_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/storetest"
)

// memory is a store in memory, for tests that make thousands of clusters.
type memory struct {
	// wrote is told of every change, with what was there before; nil: nobody.
	wrote func(now, before store.Event)

	mu       sync.Mutex
	keys     map[string]store.Event // also those deleted, which watchers ask for
	revision store.Revision
	changed  chan struct{} // closed by the next change
}

func newMemory() *memory {
	return &memory{keys: map[string]store.Event{}, changed: make(chan struct{})}
}

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) func() store.Store {
		m := newMemory()
		return func() store.Store { return m }
	})
}

func (m *memory) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := ready(ctx, store.ValidateKey(key)); err != nil {
		return store.Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.keys[key]
	if !ok || e.Deleted {
		return store.Entry{}, fmt.Errorf("get %s: %w", key, store.ErrNotFound)
	}
	return clone(e).Entry, nil
}

func (m *memory) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	if err := ready(ctx, store.ValidatePrefix(prefix)); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []store.Entry
	for key, e := range m.keys {
		if !e.Deleted && strings.HasPrefix(key, prefix) {
			all = append(all, clone(e).Entry)
		}
	}
	slices.SortFunc(all, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return all, m.revision, nil
}

func (m *memory) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	if err := writable(ctx, key, value); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.keys[key]; ok && !e.Deleted {
		return 0, fmt.Errorf("create %s: %w", key, store.ErrExists)
	}
	return m.write(key, value, false), nil
}

func (m *memory) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	if err := writable(ctx, key, value); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.expect(key, revision); err != nil {
		return 0, fmt.Errorf("update %s: %w", key, err)
	}
	return m.write(key, value, false), nil
}

func (m *memory) Delete(ctx context.Context, key string, revision store.Revision) error {
	if err := ready(ctx, store.ValidateKey(key)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.expect(key, revision); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	m.write(key, nil, true)
	return nil
}

func (m *memory) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	if err := ready(ctx, store.ValidatePrefix(prefix)); err != nil {
		return err
	}
	for {
		events, changed := m.since(prefix, after)
		for _, e := range events {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := fn(e); err != nil {
				return err
			}
			after = e.Revision
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (m *memory) Close() error { return nil }

// since is what has changed after a revision, and what the next change closes.
func (m *memory) since(prefix string, after store.Revision) ([]store.Event, chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var events []store.Event
	for key, e := range m.keys {
		if e.Revision > after && strings.HasPrefix(key, prefix) {
			events = append(events, clone(e))
		}
	}
	slices.SortFunc(events, func(a, b store.Event) int { return int(a.Revision - b.Revision) })
	return events, m.changed
}

func (m *memory) expect(key string, revision store.Revision) error {
	e, ok := m.keys[key]
	switch {
	case !ok || e.Deleted:
		return store.ErrNotFound
	case e.Revision != revision:
		return store.ErrConflict
	}
	return nil
}

func (m *memory) write(key string, value []byte, deleted bool) store.Revision {
	m.revision++
	before := m.keys[key]
	m.keys[key] = clone(store.Event{Entry: store.Entry{Key: key, Value: value, Revision: m.revision}, Deleted: deleted})
	close(m.changed)
	m.changed = make(chan struct{})
	if m.wrote != nil {
		m.wrote(m.keys[key], before)
	}
	return m.revision
}

func clone(e store.Event) store.Event {
	if e.Deleted {
		e.Value = nil
		return e
	}
	e.Value = append([]byte{}, e.Value...)
	return e
}

func ready(ctx context.Context, invalid error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return invalid
}

func writable(ctx context.Context, key string, value []byte) error {
	if len(value) > store.MaxValueLength {
		return fmt.Errorf("%s: value has %d bytes, more than %d", key, len(value), store.MaxValueLength)
	}
	return ready(ctx, store.ValidateKey(key))
}
