package local_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/filelock"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
	"github.com/overlay-cni/overlay-cni/pkg/store/storetest"
)

// TestFaults: what can happen to a directory that processes share.
func TestFaults(t *testing.T) {
	t.Parallel()
	var dir string
	backend := func(t *testing.T) func() store.Store {
		t.Helper()
		dir = t.TempDir()
		return func() store.Store {
			s, err := local.Open(dir, local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	var held *os.File
	storetest.RunFaults(t, backend, []storetest.Fault{
		{Name: "a writer hangs", Break: func() error {
			f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
			if err != nil {
				return err
			}
			held = f
			return filelock.Wait(t.Context(), f, filelock.Exclusive)
		}, Mend: func() error { return held.Close() }},
		{Name: "a writer died and left what it wrote", Break: func() error {
			return errors.Join(
				os.WriteFile(filepath.Join(dir, "scratch", "dead"), []byte("half"), 0o600),
				os.WriteFile(filepath.Join(dir, "lock"), []byte("999999 dead\n"), 0o600))
		}},
	})
}
