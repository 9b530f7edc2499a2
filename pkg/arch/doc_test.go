package arch_test

import (
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPackagesSayWhatTheyAre: on every system a package has one comment, which
// begins as go doc wants it.
func TestPackagesSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	for _, system := range []string{"linux", "windows"} {
		for _, p := range list(t, system, "./...") {
			if len(p.GoFiles) == 0 {
				continue // it isn't for this system
			}
			name, comments := packageComments(t, &p)
			want := "Package " + name + " "
			if name == "main" {
				want = "Command " + filepath.Base(p.Dir) + " "
			}
			if len(comments) != 1 || !strings.HasPrefix(comments[0], want) {
				t.Errorf("%s on %s: its comments are %.60q, want one that begins with %q", p.path(), system, comments, want)
			}
		}
	}
}

func packageComments(t *testing.T, p *pkg) (name string, comments []string) {
	t.Helper()
	for _, file := range p.GoFiles {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		name = parsed.Name.Name
		if parsed.Doc != nil {
			comments = append(comments, parsed.Doc.Text())
		}
	}
	return name, comments
}

func TestPackageNames(t *testing.T) {
	t.Parallel()
	vague := regexp.MustCompile(`(^|/)(utils?|common|helpers?|managers?|misc|base|shared|types|lib)$`)
	for _, p := range list(t, "linux", "./...") {
		if vague.MatchString(p.path()) {
			t.Errorf("%s says nothing of what is in it", p.path())
		}
	}
}

// TestTopLevelFolders: where Go code is.
func TestTopLevelFolders(t *testing.T) {
	t.Parallel()
	known := []string{"plugins", "ipam", "pkg", "conformance", "scripts"}
	for _, p := range list(t, "linux", "./...") {
		top, _, _ := strings.Cut(p.path(), "/")
		if !slices.Contains(known, top) {
			t.Errorf("%s is in none of the folders %v", p.path(), known)
		}
	}
}

// TestReadmeListsPackages: a newcomer's map has every package, once, and none
// that isn't there. The parts of a program in scripts are its own business.
func TestReadmeListsPackages(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]int{}
	path := regexp.MustCompile("`((?:pkg|plugins|ipam|scripts|conformance)(?:/[a-z0-9/-]+)?)`")
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		names := path.FindAllStringSubmatch(cells[1], -1)
		for _, m := range names {
			if m[1] == "ipam" && strings.Contains(line, `"type"`) {
				continue // the field of a configuration
			}
			listed[m[1]]++
		}
	}
	packages := map[string]bool{}
	for _, p := range list(t, "linux", "./...") {
		if strings.Count(p.path(), "/") > 1 && strings.HasPrefix(p.path(), "scripts/") {
			continue
		}
		packages[p.path()] = true
		if listed[p.path()] != 1 {
			t.Errorf("%s is listed %d times, want once", p.path(), listed[p.path()])
		}
	}
	for name := range listed {
		if !packages[name] {
			t.Errorf("%s is listed and isn't there", name)
		}
	}
}
