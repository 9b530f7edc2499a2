//go:build linux

package main

// Files: where state is kept, and programs that are built for the measurement.

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

//go:embed programs
var programs embed.FS

// stateDir makes a directory for the state of both sides: in memory where that
// is possible, as /run is on most nodes.
func stateDir(parent string) (string, error) {
	for _, dir := range []string{"/run", "/dev/shm"} {
		if parent == "" && inMemory(dir) {
			parent = dir
		}
	}
	dir, err := os.MkdirTemp(parent, "overlay-bench-")
	if err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	return dir, nil
}

func inMemory(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC
}

// about says where the state is.
func about(dir string) string {
	kind := "disk"
	if inMemory(dir) {
		kind = "memory"
	}
	return fmt.Sprintf("State of both sides in %s (%s).", filepath.Dir(dir), kind)
}

// buildProgram builds one of the programs as the binaries are built, and
// returns the directory it is in.
func buildProgram(ctx context.Context, dir, name string) (string, error) {
	source, err := programs.ReadFile("programs/" + name + "/main.go")
	if err != nil {
		return "", fmt.Errorf("read source of %s: %w", name, err)
	}
	dir = filepath.Join(dir, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	file := filepath.Join(dir, name+".go")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	//nolint:gosec // the folder is our own
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, name), file)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return dir, nil
}

// executables says which are missing.
func executables(files ...string) error {
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("no program %s: %w", file, err)
		}
	}
	return nil
}

// absolute makes folders absolute, for processes elsewhere.
func absolute(dirs ...*string) error {
	for _, dir := range dirs {
		if *dir == "" {
			continue
		}
		full, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("find folder %s: %w", *dir, err)
		}
		*dir = full
	}
	return nil
}
