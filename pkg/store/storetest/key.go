package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Tests of one key at a time: what the calls return, and what keys and values
// may be.

func testEmpty(t *testing.T, open opener) {
	s := open.client()
	if entries, revision := list(t, s, ""); len(entries) != 0 || revision < 0 {
		t.Errorf("List = %v at %d, want nothing", entries, revision)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get: %v, want ErrNotFound", err)
	}
	if _, err := s.Update(t.Context(), "a", nil, 1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Update: %v, want ErrNotFound", err)
	}
	if err := s.Delete(t.Context(), "a", 1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Delete: %v, want ErrNotFound", err)
	}
}

func testCreate(t *testing.T, open opener) {
	s := open.client()
	revision := create(t, s, "a", "one")
	if revision <= 0 {
		t.Errorf("revision %d is not above zero", revision)
	}
	if _, err := s.Create(t.Context(), "a", []byte("two")); !errors.Is(err, store.ErrExists) {
		t.Errorf("second Create: %v, want ErrExists", err)
	}
	expect(t, s, store.Entry{Key: "a", Value: []byte("one"), Revision: revision})
}

func testUpdate(t *testing.T, open opener) {
	s := open.client()
	first := create(t, s, "a", "one")
	second := update(t, s, "a", "two", first)
	if second <= first {
		t.Errorf("revision %d does not follow %d", second, first)
	}
	for name, revision := range map[string]store.Revision{"old": first, "zero": 0, "future": second + 1000} {
		if _, err := s.Update(t.Context(), "a", []byte("three"), revision); !errors.Is(err, store.ErrConflict) {
			t.Errorf("Update at the %s revision: %v, want ErrConflict", name, err)
		}
	}
	expect(t, s, store.Entry{Key: "a", Value: []byte("two"), Revision: second})
}

func testDelete(t *testing.T, open opener) {
	s := open.client()
	first := create(t, s, "a", "one")
	second := update(t, s, "a", "two", first)
	if err := s.Delete(t.Context(), "a", first); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Delete at the old revision: %v, want ErrConflict", err)
	}
	expect(t, s, store.Entry{Key: "a", Value: []byte("two"), Revision: second})
	remove(t, s, "a", second)
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after Delete: %v, want ErrNotFound", err)
	}
	if err := s.Delete(t.Context(), "a", second); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("second Delete: %v, want ErrNotFound", err)
	}
	if _, err := s.Update(t.Context(), "a", nil, second); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Update after Delete: %v, want ErrNotFound", err)
	}
	third := create(t, s, "a", "three")
	for _, old := range []store.Revision{first, second} {
		if err := s.Delete(t.Context(), "a", old); !errors.Is(err, store.ErrConflict) {
			t.Errorf("Delete at a revision of the key's former life: %v, want ErrConflict", err)
		}
	}
	expect(t, s, store.Entry{Key: "a", Value: []byte("three"), Revision: third})
}

// awkwardKeys are valid, and not what a store might have been made for.
func awkwardKeys() []string {
	long := strings.Repeat("Ab.:", store.MaxKeyLength/4)
	deep := strings.Repeat("d/", store.MaxKeyLength/2-1) + "de"
	return []string{
		"a", "a/b", "a/b/c", "a.b", "a-b", "a_b", "ab", "a.", "a./b", "A", "A/b", "a/B",
		"a.entry", "a.entry/b", "a.json", "a.json/b", "a.tmp", "fd00:10:244::", "fd00:10:244::/64", "::1", ":",
		"-", "--", "_", "0", "00", "con", "con/b", "nul.a", "nul.a/b", "com1", "lock", "format", "x..y",
		long, long[:255], long[:255] + "/x", long[:300] + "/y", long[:256], long[:200], deep,
		strings.Repeat("l", store.MaxKeyLength), strings.Repeat("l", store.MaxKeyLength-1),
	}
}

func testKeys(t *testing.T, open opener) {
	s := open.client()
	want := map[string]string{}
	for _, key := range awkwardKeys() {
		create(t, s, key, "value of "+key)
		want[key] = "value of " + key
	}
	for key, value := range want {
		entry, err := s.Get(t.Context(), key)
		if err != nil || string(entry.Value) != value {
			t.Errorf("Get %s = %q, %v", key, entry.Value, err)
		}
	}
	entries, _ := list(t, open.client(), "")
	if !maps.Equal(values(entries), want) {
		t.Errorf("List has %d keys, want %d: %v", len(entries), len(want), values(entries))
	}
	for _, entry := range entries {
		remove(t, s, entry.Key, entry.Revision)
		delete(want, entry.Key)
		if rest, _ := list(t, s, ""); !maps.Equal(values(rest), want) {
			t.Fatalf("after Delete of %s: List has %d keys, want %d", entry.Key, len(rest), len(want))
		}
	}
}

func testInvalidKeys(t *testing.T, open opener) {
	s := open.client()
	ctx := t.Context()
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", ".a", "a/.b", "a b", "a\x00", "a\n", "ä", "a%41",
		"a\\b", "a*", "a~", strings.Repeat("a", store.MaxKeyLength+1),
	} {
		_, getErr := s.Get(ctx, key)
		_, createErr := s.Create(ctx, key, nil)
		_, updateErr := s.Update(ctx, key, nil, 1)
		for call, err := range map[string]error{
			"Get": getErr, "Create": createErr, "Update": updateErr, "Delete": s.Delete(ctx, key, 1),
		} {
			if !errors.Is(err, store.ErrInvalidKey) {
				t.Errorf("%s %.40q: %v, want ErrInvalidKey", call, key, err)
			}
		}
	}
	for _, prefix := range []string{"a", "/", "/a/", "a//", "../", ".a/", "a b/"} {
		if _, _, err := s.List(ctx, prefix); !errors.Is(err, store.ErrInvalidKey) {
			t.Errorf("List %q: %v, want ErrInvalidKey", prefix, err)
		}
		if err := s.Watch(ctx, prefix, 0, func(store.Event) error { return nil }); !errors.Is(err, store.ErrInvalidKey) {
			t.Errorf("Watch %q: %v, want ErrInvalidKey", prefix, err)
		}
	}
}

func testValues(t *testing.T, open opener) {
	s := open.client()
	random := make([]byte, store.MaxValueLength)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	for i, value := range [][]byte{
		nil, {}, []byte("\n"), []byte("a\n"), []byte("\x00"), []byte("{\"a\": 1}\r\n\n"), []byte("ä\xff"), random[:4096], random,
	} {
		key := fmt.Sprintf("value/%d", i)
		revision := create(t, s, key, "to be replaced")
		revision = update(t, s, key, string(value), revision)
		expect(t, s, store.Entry{Key: key, Value: value, Revision: revision})
	}
	revision := create(t, s, "large", "small")
	tooLarge := append(slices.Clone(random), 0)
	if _, err := s.Create(t.Context(), "larger", tooLarge); err == nil {
		t.Error("Create took a value above the limit")
	}
	if _, err := s.Update(t.Context(), "large", tooLarge, revision); err == nil {
		t.Error("Update took a value above the limit")
	}
	if _, err := s.Get(t.Context(), "larger"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of what was refused: %v, want ErrNotFound", err)
	}
	expect(t, s, store.Entry{Key: "large", Value: []byte("small"), Revision: revision})
}

func testCopies(t *testing.T, open opener) {
	s := open.client()
	value := []byte("one")
	revision, err := s.Create(t.Context(), "a", value)
	must(t, err)
	want := store.Entry{Key: "a", Value: []byte("one"), Revision: revision}
	value[0] = 'X'
	expect(t, s, want)
	entry, err := s.Get(t.Context(), "a")
	must(t, err)
	entry.Value[0] = 'X'
	expect(t, s, want)
	entries, _ := list(t, s, "")
	entries[0].Value[0] = 'X'
	expect(t, s, want)
}

func testCancelled(t *testing.T, open opener) {
	s := open.client()
	revision := create(t, s, "a", "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "a")
	_, _, listErr := s.List(ctx, "")
	_, createErr := s.Create(ctx, "b", nil)
	_, updateErr := s.Update(ctx, "a", nil, revision)
	watchErr := s.Watch(ctx, "", 0, func(event store.Event) error {
		t.Errorf("Watch delivered %v", event)
		return nil
	})
	for call, err := range map[string]error{
		"Get": getErr, "List": listErr, "Create": createErr, "Update": updateErr,
		"Delete": s.Delete(ctx, "a", revision), "Watch": watchErr,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", call, err)
		}
	}
	if entries, _ := list(t, s, ""); !maps.Equal(values(entries), map[string]string{"a": "one"}) {
		t.Errorf("the store was changed: %v", values(entries))
	}
}

// expect checks that Get and List both return an entry.
func expect(t *testing.T, s store.Store, want store.Entry) {
	t.Helper()
	entry, err := s.Get(t.Context(), want.Key)
	must(t, err)
	if !equal(entry, want) {
		t.Fatalf("Get %s = %.80q at %d, want %.80q at %d", entry.Key, entry.Value, entry.Revision, want.Value, want.Revision)
	}
	entries, revision := list(t, s, "")
	if !slices.ContainsFunc(entries, func(e store.Entry) bool { return equal(e, want) }) || revision < want.Revision {
		t.Fatalf("List at %d does not show %s at %d", revision, want.Key, want.Revision)
	}
}

func equal(a, b store.Entry) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.Revision == b.Revision
}
