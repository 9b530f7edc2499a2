package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// TestOpenMakesPrivateDirectories: a store is its owner's alone.
func TestOpenMakesPrivateDirectories(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "var", "lib", "store")
	s := open(t, dir, Options{})
	if _, err := s.Create(t.Context(), "a/b", nil); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(dir), dir, s.keysPath(), filepath.Dir(s.entryPath("a/b"))} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", path, info.Mode(), err)
		}
	}
	if info, err := os.Stat(s.entryPath("a/b")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("entry: %v, want mode 0600", err)
	}
	if _, err := Open(s.entryPath("a/b"), Options{}); err == nil {
		t.Error("Open of a file succeeded")
	}
}

// TestReadOnlyDirectory uses a store that may be read and not be written.
func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	revision, err := open(t, dir, Options{}).Create(t.Context(), "a/b", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	allow(t, filepath.Dir(dir), 0o555, 0o444)
	t.Cleanup(func() { allow(t, filepath.Dir(dir), 0o755, 0o644) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Root is stopped by no mode, so this thread takes the file rights of
		// another user. It isn't unlocked, and so it ends with the goroutine.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := errors.Join(unix.Setfsgid(65534), unix.Setfsuid(65534)); err != nil {
				t.Error(err)
				return
			}
		}
		checkReadOnly(t, dir, revision)
	}()
	<-done
}

func checkReadOnly(t *testing.T, dir string, revision store.Revision) {
	s, err := Open(dir, Options{})
	if err != nil {
		t.Error(err)
		return
	}
	if entry, err := s.Get(t.Context(), "a/b"); err != nil || string(entry.Value) != "one" {
		t.Errorf("Get = %v, %v", entry, err)
	}
	if entries, at, err := s.List(t.Context(), ""); err != nil || len(entries) != 1 || at != revision {
		t.Errorf("List = %v at %d, %v", entries, at, err)
	}
	release, err := s.lock.acquireShared(t.Context())
	if err != nil {
		t.Errorf("shared lock: %v", err)
	} else {
		release()
	}
	if err := s.Watch(soon(t), "", 0, func(store.Event) error { return errEnough }); !errors.Is(err, errEnough) {
		t.Errorf("Watch: %v", err)
	}
	_, createErr := s.Create(t.Context(), "c", nil)
	_, updateErr := s.Update(t.Context(), "a/b", nil, revision)
	_, openErr := Open(filepath.Join(dir, "new"), Options{})
	for call, err := range map[string]error{
		"Create": createErr, "Update": updateErr, "Delete": s.Delete(t.Context(), "a/b", revision), "Open": openErr,
	} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v, want a refusal", call, err)
		}
	}
}

func allow(t *testing.T, dir string, dirMode, fileMode fs.FileMode) {
	err := filepath.WalkDir(dir, func(path string, file fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if file.IsDir() {
			return os.Chmod(path, dirMode)
		}
		return os.Chmod(path, fileMode)
	})
	if err != nil {
		t.Error(err)
	}
}
