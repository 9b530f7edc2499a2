package conformance

// What a plugin is held to.

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// A Level is how much a clause binds, as in RFC 2119.
type Level string

// The levels. Where the words leave room for more than one reading a clause is
// held to a weaker level than they have, and its note says so.
const (
	Must   Level = "MUST"
	Should Level = "SHOULD"
	May    Level = "MAY"
)

// A Section is a part of the suite.
type Section string

// The sections of the suite.
const (
	Spec      Section = "spec"      // what SPEC.md says
	Behaviour Section = "behaviour" // what a runtime relies on besides
	Network   Section = "network"   // what pods rely on
)

// sections returns all, in the order of reports.
func sections() []Section { return []Section{Spec, Behaviour, Network} }

// A Clause is one thing that a plugin is held to.
type Clause struct {
	// ID stays the same from release to release: a clause that goes takes its
	// number along.
	ID      string
	Section Section
	// Of names the part of SPEC.md, or of the section.
	Of    string
	Level Level
	// Quote is literal in the section Spec. In others it says in our own words
	// what is expected.
	Quote string
	// Note says what is looked at, or why the level isn't that of the words.
	Note string
	// Since is the first cniVersion that has this clause; empty for all.
	Since string
	// Each is whether the clause is checked in each version that the target
	// supports, as its outcome depends on it, and not in the newest alone.
	Each bool

	alone   bool               // nothing else is checked meanwhile
	applies func(*plan) string // why not, or nothing
	check   func(context.Context, *bench) error
	network func(context.Context, *mesh) error // instead of check, on several nodes
	mtus    []int                              // of the links between them, if not the usual ones
}

// Clauses returns all clauses, ordered by ID.
func Clauses() []Clause {
	all := slices.Concat(
		configClauses(), parameterClauses(), addClauses(), delClauses(), checkClauses(), tamperClauses(),
		statusClauses(), versionClauses(), gcClauses(), executionClauses(), delegationClauses(),
		resultClauses(), prevResultClauses(), errorClauses(), behaviourClauses(), networkClauses(),
	)
	slices.SortFunc(all, func(a, b Clause) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// choose returns the clauses whose ID matches one of the patterns of
// [path.Match]; without patterns all.
func choose(patterns []string) ([]Clause, error) {
	all := Clauses()
	if len(patterns) == 0 {
		return all, nil
	}
	for _, p := range patterns {
		matches := func(c Clause) bool { ok, err := path.Match(p, c.ID); return ok && err == nil }
		if !slices.ContainsFunc(all, matches) {
			return nil, fmt.Errorf("no clause matches %q", p)
		}
	}
	return slices.DeleteFunc(all, func(c Clause) bool {
		return !slices.ContainsFunc(patterns, func(p string) bool { ok, err := path.Match(p, c.ID); return ok && err == nil })
	}), nil
}

// knownVersions are those that clauses are checked in, oldest first. Before
// 0.3.0 results had another form.
func knownVersions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// before says whether one of the known versions is older than another.
func before(version, other string) bool {
	return slices.Index(knownVersions(), version) < slices.Index(knownVersions(), other)
}

// versions returns those in which the clause is checked, of those that the
// target supports.
func (c *Clause) versions(supported []string, every bool) []string {
	var fit []string
	for _, v := range supported {
		if c.Since == "" || !before(v, c.Since) {
			fit = append(fit, v)
		}
	}
	if len(fit) > 1 && !c.Each && !every {
		fit = fit[len(fit)-1:]
	}
	return fit
}

// spec makes a clause of SPEC.md. Its ID has the number of the section, what it
// is about, and a number within that.
func spec(id string, level Level, of, quote string, check func(context.Context, *bench) error) Clause {
	return Clause{ID: id, Section: Spec, Of: of, Level: level, Quote: quote, check: check}
}

// since returns the clause for targets of at least a version.
func (c Clause) since(version string) Clause { c.Since = version; return c }

// each returns the clause to be checked in each version.
func (c Clause) each() Clause { c.Each = true; return c }

// note returns the clause with a note.
func (c Clause) note(text string) Clause { c.Note = text; return c }

// where returns the clause for targets that have what it is about.
func (c Clause) where(applies func(*plan) string) Clause { c.applies = applies; return c }

// String returns the clause as one reads it in a list.
func (c *Clause) String() string {
	return fmt.Sprintf("%s %s (%s): %s", c.ID, c.Level, c.Of, strings.Join(strings.Fields(c.Quote), " "))
}
