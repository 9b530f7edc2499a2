package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Tests of what is in the directory: before a store is opened there, and beside
// the files of keys.

// TestOpen opens directories in all conditions.
func TestOpen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		files map[string]string // a name that ends with a slash is a directory
		want  error
	}{
		{"empty", nil, nil},
		{"maker killed at the lock", map[string]string{"lock": "7 dead\n"}, nil},
		{"maker killed at the directories", map[string]string{"lock": "", "scratch/": "", "scratch/new": "1f"}, nil},
		{"maker killed at the format", map[string]string{"lock": "", "scratch/": "", "keys/": "", "changes": string(changelog{}.encode())}, nil},
		{"a newer format", map[string]string{"format": "overlay-cni store 2\n"}, ErrFormat},
		{"an empty format", map[string]string{"format": ""}, ErrFormat},
		{"half a format", map[string]string{"format": formatText[:7]}, ErrFormat},
		{"other things", map[string]string{"passwd": "root"}, ErrFormat},
		{"keys and no count of changes", map[string]string{"keys/": "", "keys/a.entry": "x"}, store.ErrCorrupt},
		{"a spoilt count of changes", map[string]string{"changes": "x"}, store.ErrCorrupt},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, pass := range []bool{true, false} {
				for name, text := range test.files {
					path := filepath.Join(dir, name)
					var err error
					if directory := strings.HasSuffix(name, "/"); directory && pass {
						err = os.Mkdir(path, 0o700)
					} else if !directory && !pass {
						err = os.WriteFile(path, []byte(text), 0o600)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			s, err := Open(dir, Options{})
			if !errors.Is(err, test.want) {
				t.Fatalf("Open: %v, want %v", err, test.want)
			}
			if err != nil {
				if !strings.Contains(err.Error(), dir) {
					t.Errorf("error %q does not name %s", err, dir)
				}
				return
			}
			if revision, err := s.Create(t.Context(), "a", nil); revision != 1 || err != nil {
				t.Errorf("first Create: %d, %v", revision, err)
			}
		})
	}
}

// TestForeignFiles: what an editor leaves is not a key, and does no harm.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), Options{})
	revision, err := s.Create(t.Context(), "a/b", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".b.entry.swp", "b.entry~", "C.entry", "%62.entry", "b%.entry", "b%zz.entry", "x", ".entry"} {
		if err := os.WriteFile(filepath.Join(s.keysPath(), "a", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _, err := s.List(t.Context(), ""); err != nil || len(entries) != 1 {
		t.Errorf("List = %v, %v", entries, err)
	}
	if err := s.Delete(t.Context(), "a/b", revision); err != nil {
		t.Error(err)
	}
}

// TestDeleteRemovesDirectories: names of nodes come and go, and leave nothing.
func TestDeleteRemovesDirectories(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), Options{})
	revision, err := s.Create(t.Context(), "a/b/c/d", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "a/e", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "a/b/c/d", revision); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(s.keysPath(), "*", "*"))
	if err != nil || len(names) != 1 || names[0] != s.entryPath("a/e") {
		t.Errorf("left are %v, %v", names, err)
	}
}
