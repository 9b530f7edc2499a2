package compare

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/conformance"
)

var update = flag.Bool("update", false, "write what is printed to testdata")

// folder writes a target's files.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "one")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	list = `{"name": "n", "plugins": [{"type": "one", "ipam": {"type": "two"}}]}`
	said = `{"title": "T", "about": "A"`
)

// TestReadRefuses: what is wrong with a target is said by name.
func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, target, says string
		conflists          []string
	}{
		{"no target.json", "", "target.json", []string{list}},
		{"not JSON", "{", "target.json", []string{list}},
		{"unknown field", said + `, "ours": true}`, `"ours"`, []string{list}},
		{"no title", `{"about": "A"}`, "title", []string{list}},
		{"finding without command", said + `, "findings": [{"clauses": ["2.4-add-01"], "text": "T"}]}`, "findings[0]", []string{list}},
		{"finding of no clause", said + `, "findings": [{"clauses": ["9.9"], "text": "T", "command": "C"}]}`, `"9.9"`, []string{list}},
		{"clause twice", said + `, "findings": [{"clauses": ["2.4-add-01", "2.4-add-01"], "text": "T", "command": "C"}]}`, `"2.4-add-01" has been mentioned before`, []string{list}},
		{"no conflist", said + "}", "0 files", nil},
		{"two conflists", said + "}", "2 files", []string{list, list}},
		{"bad conflist", said + "}", "conflist", []string{"["}},
		{"own without plugins", said + `, "own": true}`, "[one two]", []string{list}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"target.json": c.target}
			if c.target == "" {
				delete(files, "target.json")
			}
			for i, text := range c.conflists {
				files[string(rune('a'+i))+".conflist"] = text
			}
			if _, err := Read(folder(t, files), []string{t.TempDir()}); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want something about %s", err, c.says)
			}
		})
	}
}

// TestRead: a target knows what is missing.
func TestRead(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "two"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{
		"target.json": said + `, "nodes": true, "programs": ["sh", "three"]}`, "10.conflist": list, "daemon.sh": "exec true",
	})
	target, err := Read(dir, []string{bin})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(target.Missing, " "); got != "three one" {
		t.Errorf("missing: %q", got)
	}
	if target.Name != "one" || !target.Joins || !strings.Contains(target.Daemon, filepath.Join(dir, "daemon.sh")) || string(target.Conflist) != list {
		t.Errorf("%+v", target)
	}
	c, err := Run(t.Context(), []*Target{target}, conformance.Options{}, func(*Target) { t.Error("it was run") })
	if err != nil || len(c.Sides) != 1 || c.Sides[0].Report != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestReadPlugin: a plugin isn't a program of the system that is called as it is.
func TestReadPlugin(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"target.json": said + "}", "10.conflist": `{"name": "n", "plugins": [{"type": "sh"}]}`})
	if target, err := Read(dir, []string{t.TempDir()}); err != nil || strings.Join(target.Missing, " ") != "sh" {
		t.Errorf("%+v, %v", target, err)
	}
}

// TestChosen: clauses that weren't run have no outcome to show.
func TestChosen(t *testing.T) {
	t.Parallel()
	c := sides("pp", "pf")
	for i := range c.Sides[:2] {
		report := c.Sides[i].Report
		report.Outcomes = report.Outcomes[1:2]
	}
	var out strings.Builder
	if err := c.Markdown(&out); err != nil {
		t.Fatal(err)
	}
	id := conformance.Clauses()[1].ID
	if got := out.String(); !strings.Contains(got, "| "+id+" |") || strings.Count(got, "✗ |") != 1 {
		t.Errorf("want one line, of %s:\n%s", id, got)
	}
}

// TestTargets: those of the project can be read, but for the programs.
func TestTargets(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../targets/*/target.json")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if _, err := Read(filepath.Dir(file), nil); err != nil && !strings.Contains(err.Error(), "aren't in []") {
			t.Error(err)
		}
	}
}

// sides are an own target and a peer, with outcomes: p passes, f fails, and
// anything else isn't applicable, in the order of the clauses.
func sides(own, peer string, findings ...Finding) *Comparison {
	side := func(title, verdicts string, isOwn bool, findings ...Finding) Side {
		report := &conformance.Report{Versions: []string{"1.0.0", "1.1.0"}}
		for i, clause := range conformance.Clauses() {
			o := conformance.Outcome{Clause: clause, Verdict: conformance.NotApplicable}
			switch {
			case i < len(verdicts) && verdicts[i] == 'p':
				o.Verdict = conformance.Pass
			case i < len(verdicts) && verdicts[i] == 'f':
				o.Verdict, o.Failures = conformance.Fail, []conformance.Failure{{Version: "1.1.0", Text: "it is wrong"}}
			}
			report.Outcomes = append(report.Outcomes, o)
		}
		report.Outcomes[0].Figures = []conformance.Figure{{Name: "ADD, programs", Value: 4, Unit: "count"}}
		return Side{&Target{Name: title, Description: Description{Title: title, About: "about " + title, Own: isOwn, Findings: findings}}, report}
	}
	return &Comparison{Sides: []Side{
		side("ours", own, true), side("peer", peer, false, findings...),
		{Target: &Target{Name: "far", Description: Description{Title: "far", About: "not here"}, Missing: []string{"fard"}}},
	}}
}

// TestSurprises: a failure that nobody looked at is one, and a known failure
// that isn't there any more.
func TestSurprises(t *testing.T) {
	t.Parallel()
	ids := conformance.Clauses()
	first := Finding{Clauses: []string{ids[0].ID}}
	sometimes := Finding{Clauses: []string{ids[0].ID}, Sometimes: true}
	for _, c := range []struct {
		name, own, peer string
		findings        []Finding
		says            []string
	}{
		{"all hold", "pp", "pp", nil, nil},
		{"ours fails", "pf", "pp", nil, []string{"ours: nobody has looked at this yet"}},
		{"known", "pp", "fp", []Finding{first}, nil},
		{"another one", "pp", "ff", []Finding{first}, []string{ids[1].ID}},
		{"mended", "pp", "pp", []Finding{first}, []string{"is known to fail, and is: pass"}},
		{"no longer about it", "pp", "-p", []Finding{first}, []string{"not applicable"}},
		{"sometimes, now", "pp", "fp", []Finding{sometimes}, nil},
		{"sometimes, not now", "pp", "pp", []Finding{sometimes}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			surprises := sides(c.own, c.peer, c.findings...).Surprises()
			if len(surprises) != len(c.says) {
				t.Fatalf("%v, want %v", surprises, c.says)
			}
			for i, s := range surprises {
				if !strings.Contains(s.String(), c.says[i]) {
					t.Errorf("%s, want %s", s, c.says[i])
				}
			}
		})
	}
}

// TestMarkdown: what people read.
func TestMarkdown(t *testing.T) {
	t.Parallel()
	clauses := conformance.Clauses()
	c := sides(strings.Repeat("p", len(clauses)-1), "fp-f",
		Finding{Clauses: []string{clauses[0].ID}, Text: "It is so.", Command: "one\ntwo"},
		Finding{Clauses: []string{clauses[1].ID, clauses[3].ID}, Text: "It is luck.", Command: "three", Sometimes: true})
	var out, lines strings.Builder
	if err := c.Markdown(&out); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(&lines); err != nil || !strings.Contains(lines.String(), "not run: fard not given") {
		t.Errorf("%v: %s", err, lines.String())
	}
	const golden = "testdata/comparison.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("go test -update shows what is new:\n%s", out.String())
	}
}
