package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// model is what a store should hold, and the operations that are drawn at
// random and compared with it. All its keys are below a prefix of its own.
type model struct {
	clients []store.Store
	prefix  string
	entries map[string]store.Entry
	// past are revisions that keys had once.
	past []store.Revision
	last store.Revision
	// least is the revision that a listing of a prefix must have at least.
	least map[string]store.Revision
}

// prefixes are those that are listed, below the model's own.
func prefixes() []string { return []string{"", "a/", "a/b/", "c/"} }

func testModel(t *testing.T, open opener) {
	clients := []store.Store{open.client(), open.client()}
	check := 0
	rapid.Check(t, func(rt *rapid.T) {
		check++
		m := &model{clients: clients, prefix: fmt.Sprintf("check-%d/", check), entries: map[string]store.Entry{}, past: []store.Revision{0}, least: map[string]store.Revision{}}
		_, start := list(t, clients[0], m.prefix)
		m.last = start
		rt.Repeat(map[string]func(*rapid.T){
			"create": m.create,
			"update": m.update,
			"delete": m.delete,
			"get":    m.get,
			"":       m.check,
		})
		m.watch(t, rt, start)
	})
}

func (m *model) client(t *rapid.T) store.Store { return rapid.SampledFrom(m.clients).Draw(t, "client") }

func (m *model) key(t *rapid.T) string {
	return m.prefix + rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "ab", "B", "b", "::1"}).Draw(t, "key")
}

func (m *model) value(t *rapid.T) []byte { return rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "value") }

// revision is the right one of a key more often than not.
func (m *model) revision(t *rapid.T, key string) store.Revision {
	if entry, ok := m.entries[key]; ok && rapid.IntRange(0, 3).Draw(t, "right") > 0 {
		return entry.Revision
	}
	return rapid.SampledFrom(m.past).Draw(t, "revision")
}

// changed notes that a key was written.
func (m *model) changed(t *rapid.T, key string, value []byte, revision store.Revision) {
	if revision <= m.last {
		t.Fatalf("revision %d does not follow %d", revision, m.last)
	}
	m.last = revision
	m.past = append(m.past, revision)
	for _, p := range prefixes() {
		if strings.HasPrefix(key, m.prefix+p) {
			m.least[m.prefix+p] = revision
		}
	}
	m.entries[key] = store.Entry{Key: key, Value: value, Revision: revision}
}

// wanted is the error of an Update or Delete.
func (m *model) wanted(key string, revision store.Revision) error {
	entry, ok := m.entries[key]
	switch {
	case !ok:
		return store.ErrNotFound
	case entry.Revision != revision:
		return store.ErrConflict
	}
	return nil
}

func (m *model) create(t *rapid.T) {
	key, value := m.key(t), m.value(t)
	revision, err := m.client(t).Create(t.Context(), key, value)
	if _, exists := m.entries[key]; exists {
		sameError(t, err, store.ErrExists)
		return
	}
	sameError(t, err, nil)
	m.changed(t, key, value, revision)
}

func (m *model) update(t *rapid.T) {
	key, value := m.key(t), m.value(t)
	expected := m.revision(t, key)
	revision, err := m.client(t).Update(t.Context(), key, value, expected)
	sameError(t, err, m.wanted(key, expected))
	if err == nil {
		m.changed(t, key, value, revision)
	}
}

func (m *model) delete(t *rapid.T) {
	key := m.key(t)
	expected := m.revision(t, key)
	err := m.client(t).Delete(t.Context(), key, expected)
	sameError(t, err, m.wanted(key, expected))
	if err == nil {
		delete(m.entries, key)
	}
}

func (m *model) get(t *rapid.T) {
	key := m.key(t)
	entry, err := m.client(t).Get(t.Context(), key)
	want, exists := m.entries[key]
	if !exists {
		sameError(t, err, store.ErrNotFound)
		return
	}
	sameError(t, err, nil)
	if !equal(entry, want) {
		t.Fatalf("Get = %v, want %v", entry, want)
	}
}

// check compares a listing with the model, after every operation.
func (m *model) check(t *rapid.T) {
	prefix := m.prefix + rapid.SampledFrom(prefixes()).Draw(t, "prefix")
	entries, revision, err := m.client(t).List(t.Context(), prefix)
	sameError(t, err, nil)
	var want []store.Entry
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		if strings.HasPrefix(key, prefix) {
			want = append(want, m.entries[key])
		}
	}
	if !slices.EqualFunc(entries, want, equal) {
		t.Fatalf("List %s = %v, want %v", prefix, entries, want)
	}
	if revision < m.least[prefix] {
		t.Fatalf("List %s is at %d after a change or a listing at %d", prefix, revision, m.least[prefix])
	}
	m.least[prefix], m.last = revision, max(m.last, revision)
}

// watch compares what a Watch over all operations delivers with the model. A
// key may have had its last value before, so that the revisions count as well.
func (m *model) watch(t *testing.T, rt *rapid.T, start store.Revision) {
	w := watch(t, m.clients[0], m.prefix, start)
	want := map[string]string{}
	for key, entry := range m.entries {
		want[key] = string(entry.Value)
	}
	latest := func() bool {
		for key, entry := range m.entries {
			if w.revisions[key] > entry.Revision {
				rt.Fatalf("Watch delivered %s at %d, want %d", key, w.revisions[key], entry.Revision)
			}
			if w.revisions[key] < entry.Revision {
				return false
			}
		}
		return maps.Equal(w.state, want)
	}
	for !latest() {
		w.next(t)
	}
	w.cancel()
	_ = w.end(t)
}

func sameError(t *rapid.T, err, want error) {
	t.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}
