package compare

// Targets, as folders have them.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/overlay-cni/overlay-cni/conformance"
)

// A Target is one side of a comparison.
type Target struct {
	conformance.Target
	// Name is the folder's.
	Name string
	Description
	// Missing are the programs of the description that are in none of the
	// folders of binaries. With any the target isn't run.
	Missing []string
}

// A Description is the file target.json of a target.
type Description struct {
	// Title heads the column of a table.
	Title string `json:"title"`
	// About says what it is, with versions, in Markdown.
	About string `json:"about"`
	// Own targets must be there, and hold to every clause.
	Own bool `json:"own"`
	// Nodes says that it joins the pods of several nodes.
	Nodes bool `json:"nodes"`
	// Programs are needed besides the plugins.
	Programs []string `json:"programs"`
	// RuntimeConfig and CNIArgs are as in a conformance.Target.
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"`
	CNIArgs       string                     `json:"cniArgs"`
	// Findings are what is known not to hold.
	Findings []Finding `json:"findings"`
}

// A Finding is why some clauses don't hold, checked by hand.
type Finding struct {
	Clauses []string `json:"clauses"`
	Text    string   `json:"text"`
	// Command shows it, in a shell of root that targets/by-hand.sh has prepared.
	Command string `json:"command"`
	// Sometimes says that it doesn't show in every run, as where a kill has to
	// fall into a small gap.
	Sometimes bool `json:"sometimes"`
}

// Read reads a target from its folder. bin are the folders with plugins and
// programs.
func Read(dir string, bin []string) (*Target, error) {
	t := &Target{Name: filepath.Base(dir)}
	raw, err := os.ReadFile(filepath.Join(dir, "target.json"))
	if err != nil {
		return nil, fmt.Errorf("read target: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&t.Description); err != nil {
		return nil, fmt.Errorf("read target %s: target.json: %w", t.Name, err)
	}
	if err := t.validate(); err != nil {
		return nil, fmt.Errorf("read target %s: target.json: %w", t.Name, err)
	}
	t.Target = conformance.Target{Bin: bin, RuntimeConfig: t.Description.RuntimeConfig, Args: t.CNIArgs, Joins: t.Nodes}
	if t.Conflist, err = conflist(dir); err != nil {
		return nil, fmt.Errorf("read target %s: %w", t.Name, err)
	}
	script, err := filepath.Abs(filepath.Join(dir, "daemon.sh"))
	if err != nil {
		return nil, fmt.Errorf("read target %s: %w", t.Name, err)
	}
	if _, err := os.Stat(script); err == nil {
		t.Daemon = fmt.Sprintf("exec sh %q", script)
	}
	return t, t.look(bin)
}

// validate says what target.json lacks.
func (d *Description) validate() error {
	if d.Title == "" || d.About == "" {
		return errors.New("it needs title and about")
	}
	mentions := map[string]int{}
	for _, c := range conformance.Clauses() {
		mentions[c.ID] = 0
	}
	for i, f := range d.Findings {
		if f.Text == "" || f.Command == "" || len(f.Clauses) == 0 {
			return fmt.Errorf("findings[%d] needs clauses, text and command", i)
		}
		for _, id := range f.Clauses {
			earlier, known := mentions[id]
			switch {
			case !known:
				return fmt.Errorf("findings[%d]: there is no clause %q", i, id)
			case earlier > 0:
				return fmt.Errorf("findings[%d]: clause %q has been mentioned before", i, id)
			}
			mentions[id]++
		}
	}
	return nil
}

// conflist reads the only one of a folder.
func conflist(dir string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.conflist"))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("there are %d files *.conflist, not one", len(files))
	}
	return os.ReadFile(files[0])
}

// look finds out what is missing of the target's plugins and programs.
func (t *Target) look(bin []string) error {
	var list struct {
		Plugins []struct {
			Type string `json:"type"`
			IPAM struct {
				Type string `json:"type"`
			} `json:"ipam"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(t.Conflist, &list); err != nil {
		return fmt.Errorf("read target %s: conflist: %w", t.Name, err)
	}
	var plugins []string
	for _, p := range list.Plugins {
		plugins = append(plugins, p.Type)
		if p.IPAM.Type != "" && p.IPAM.Type != p.Type {
			plugins = append(plugins, p.IPAM.Type)
		}
	}
	t.need(t.Programs, slices.Concat(bin, filepath.SplitList(os.Getenv("PATH"))))
	t.need(plugins, bin) // some are called as a program of the system: bridge
	if t.Own && len(t.Missing) > 0 {
		return fmt.Errorf("target %s: %v aren't in %v", t.Name, t.Missing, bin)
	}
	return nil
}

// need writes down which files are in none of some folders.
func (t *Target) need(names, dirs []string) {
	for _, name := range names {
		there := func(dir string) bool {
			info, err := os.Stat(filepath.Join(dir, name))
			return err == nil && info.Mode().IsRegular()
		}
		if !slices.ContainsFunc(dirs, there) {
			t.Missing = append(t.Missing, name)
		}
	}
}

// finding returns what is known of a clause.
func (d *Description) finding(id string) *Finding {
	for i := range d.Findings {
		for _, one := range d.Findings[i].Clauses {
			if one == id {
				return &d.Findings[i]
			}
		}
	}
	return nil
}
