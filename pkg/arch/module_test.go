package arch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/overlay-cni/overlay-cni"

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Imports    []string
	Deps       []string
	Standard   bool
	Module     *struct{ Path string }

	GoFiles, IgnoredGoFiles, TestGoFiles, XTestGoFiles []string
}

// path of a package within the module.
func (p *pkg) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// runGo runs the go command in the module's root, for a system.
func runGo(t *testing.T, goos string, args ...string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", args...)
	c.Dir = root(t)
	c.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0", "GOFLAGS=")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// list returns what go list says for a system.
func list(t *testing.T, goos string, args ...string) []pkg {
	t.Helper()
	const fields = "-json=ImportPath,Dir,Imports,Deps,Standard,Module,GoFiles,IgnoredGoFiles,TestGoFiles,XTestGoFiles"
	d := json.NewDecoder(bytes.NewReader(runGo(t, goos, append([]string{"list", fields}, args...)...)))
	var all []pkg
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// root is the module's folder: the nearest above with a go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above")
		}
		dir = filepath.Dir(dir)
	}
}

// goFiles returns the module's own Go files but tests, for all systems.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, p := range list(t, "linux", "./...") {
		for _, name := range append(p.GoFiles, p.IgnoredGoFiles...) {
			if !strings.HasSuffix(name, "_test.go") {
				files = append(files, filepath.Join(p.Dir, name))
			}
		}
	}
	if len(files) < 50 {
		t.Fatalf("found %d Go files only", len(files))
	}
	return files
}

// build returns the size of a stripped static binary.
func build(ctx context.Context, t *testing.T, path string) int64 {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(path))
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./"+path)
	c.Dir = root(t)
	c.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", path, err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
