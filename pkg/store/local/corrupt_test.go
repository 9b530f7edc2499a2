package local

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// damages are ways to spoil a file.
var damages = map[string]func([]byte) []byte{
	"empty":         func([]byte) []byte { return nil },
	"cut by a byte": func(data []byte) []byte { return data[:len(data)-1] },
	"cut in half":   func(data []byte) []byte { return data[:len(data)/2] },
	"a byte more":   func(data []byte) []byte { return append(bytes.Clone(data), '\n') },
	"zeros":         func(data []byte) []byte { return make([]byte, len(data)) },
	"a bit flipped": func(data []byte) []byte {
		data = bytes.Clone(data)
		data[len(data)/2] ^= 4
		return data
	},
	"edited by hand":      func(data []byte) []byte { return bytes.Replace(data, []byte("one"), []byte("two"), 1) },
	"upper case checksum": func(data []byte) []byte { return append([]byte("ABCDEF01"), data[checksumLength:]...) },
	"something else":      func([]byte) []byte { return []byte("{}\n") },
	"another sealed file": func([]byte) []byte { return seal([]byte("letter 1 a\n\n")) },
}

// spoil replaces the contents of a file.
func spoil(t *testing.T, path string, damage func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, damage(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func wantCorrupt(t *testing.T, call string, err error, path string) {
	t.Helper()
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), path) {
		t.Errorf("%s: %v, want ErrCorrupt that names %s", call, err, path)
	}
}

func TestCorruptEntry(t *testing.T) {
	t.Parallel()
	damages := damages
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir(), Options{})
			for _, key := range []string{"a/whole", "a/spoilt", "b/whole"} {
				if _, err := s.Create(t.Context(), key, []byte("one")); err != nil {
					t.Fatal(err)
				}
			}
			path := s.entryPath("a/spoilt")
			spoil(t, path, damage)

			_, err := s.Get(t.Context(), "a/spoilt")
			wantCorrupt(t, "Get", err, path)
			_, _, err = s.List(t.Context(), "a/")
			wantCorrupt(t, "List", err, path)
			_, err = s.Create(t.Context(), "a/spoilt", nil)
			wantCorrupt(t, "Create", err, path)
			err = s.Watch(soon(t), "", 0, func(store.Event) error { return nil })
			wantCorrupt(t, "Watch", err, path)

			if _, err := s.Get(t.Context(), "a/whole"); err != nil {
				t.Errorf("Get of another key: %v", err)
			}
			if entries, _, err := s.List(t.Context(), "b/"); err != nil || len(entries) != 1 {
				t.Errorf("List elsewhere: %v, %v", entries, err)
			}
			if _, err := s.Create(t.Context(), "a/new", nil); err != nil {
				t.Errorf("Create of another key: %v", err)
			}
		})
	}
}

func TestEntryOfAnotherKey(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), Options{})
	for _, key := range []string{"a", "b"} {
		if _, err := s.Create(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(s.entryPath("a"), s.entryPath("b")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), "b")
	wantCorrupt(t, "Get", err, s.entryPath("b"))
}

func TestCorruptChangelog(t *testing.T) {
	t.Parallel()
	missing := map[string]func(t *testing.T, path string){
		"missing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range damages {
		if name != "edited by hand" { // it holds no value to edit
			missing[name] = func(t *testing.T, path string) { spoil(t, path, damage) }
		}
	}
	for name, damage := range missing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir(), Options{})
			revision, err := s.Create(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, s.changesPath())

			_, err = s.Revision(t.Context())
			wantCorrupt(t, "Revision", err, s.changesPath())
			_, _, err = s.List(t.Context(), "")
			wantCorrupt(t, "List", err, s.changesPath())
			_, err = s.Create(t.Context(), "b", nil)
			wantCorrupt(t, "Create", err, s.changesPath())
			_, err = s.Update(t.Context(), "a", nil, revision)
			wantCorrupt(t, "Update", err, s.changesPath())
			wantCorrupt(t, "Delete", s.Delete(t.Context(), "a", revision), s.changesPath())
			err = s.Watch(soon(t), "", 0, func(store.Event) error { return nil })
			wantCorrupt(t, "Watch", err, s.changesPath())
		})
	}
}
