package lab

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestSweepSparesTheLiving(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for range 200 {
				if err := sweep(t.Context(), parent); err != nil {
					t.Error(err)
				}
			}
		})
		work.Go(func() {
			for range 200 {
				d, err := newDirectory(parent)
				if err != nil {
					t.Error(err)
					return
				}
				file := filepath.Join(d.path, "file")
				if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Remove(file)); err != nil {
					t.Errorf("directory was swept away: %v", err)
				}
				if err := d.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSweepTakesOnlyLeftovers(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	leftover := filepath.Join(parent, directoryPrefix+"1-2")
	foreign := filepath.Join(parent, "something-else")
	target := filepath.Join(t.TempDir(), "target")
	link := filepath.Join(parent, directoryPrefix+"link")
	for _, dir := range []string{filepath.Join(leftover, "host", "n1"), foreign, target} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := sweep(t.Context(), parent); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("leftover: %v, want %v", err, os.ErrNotExist)
	}
	for _, kept := range []string{foreign, target, link} {
		if _, err := os.Lstat(kept); err != nil {
			t.Error(err)
		}
	}
}
