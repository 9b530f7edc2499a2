package conformance

// What has come of a run, and how people read it.

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A Verdict is what has come of a clause.
type Verdict string

// The verdicts.
const (
	Pass          Verdict = "pass"
	Fail          Verdict = "fail"
	NotApplicable Verdict = "not applicable"
)

// A Failure is a violation in one version.
type Failure struct {
	Version  string    `json:"cniVersion"`
	Text     string    `json:"text"`
	Exchange *Exchange `json:"exchange,omitempty"`
}

// An Outcome is the verdict on a clause.
type Outcome struct {
	Clause   Clause
	Verdict  Verdict
	Versions []string // that it was checked in
	Reason   string   // why it isn't applicable
	Failures []Failure
	Figures  []Figure // that it measured, if that is what it does
	Took     time.Duration
}

// A Report is what has come of all clauses, in their order.
type Report struct {
	Network  string
	Plugins  []string
	Versions []string
	Started  time.Time
	Took     time.Duration
	Outcomes []Outcome
}

// add takes what has come of a check in one version. A clause holds when it
// does wherever it applies. An error that isn't about the plugin is returned.
func (o *Outcome) add(version string, err error) error {
	violation, violated := errors.AsType[*Violation](err)
	switch {
	case err == nil:
		o.Versions = append(o.Versions, version)
		if o.Verdict == NotApplicable {
			o.Verdict, o.Reason = Pass, ""
		}
	case isNothing(err):
		if o.Verdict == NotApplicable {
			o.Reason = err.Error()
		}
	case violated:
		o.Versions = append(o.Versions, version)
		o.Verdict, o.Reason = Fail, ""
		o.Failures = append(o.Failures, Failure{Version: version, Text: violation.Text, Exchange: violation.Exchange})
	default:
		return err
	}
	return nil
}

// Binding says whether a failure of the outcome's clause counts: that of a
// MUST does, those of others when one is strict.
func (o *Outcome) Binding(strict bool) bool { return strict || o.Clause.Level == Must }

// Holds says whether no binding clause has failed.
func (r *Report) Holds(strict bool) bool {
	return !slices.ContainsFunc(r.Outcomes, func(o Outcome) bool { return o.Verdict == Fail && o.Binding(strict) })
}

// Count returns how many clauses of a level have a verdict.
func (r *Report) Count(level Level, v Verdict) int {
	n := 0
	for i := range r.Outcomes {
		if r.Outcomes[i].Clause.Level == level && r.Outcomes[i].Verdict == v {
			n++
		}
	}
	return n
}

// Sections returns those that clauses were chosen of, in their order.
func (r *Report) Sections() []Section {
	var all []Section
	for _, section := range sections() {
		if len(r.in(section)) > 0 {
			all = append(all, section)
		}
	}
	return all
}

// in are the outcomes of a section's clauses.
func (r *Report) in(section Section) []*Outcome {
	var all []*Outcome
	for i := range r.Outcomes {
		if r.Outcomes[i].Clause.Section == section {
			all = append(all, &r.Outcomes[i])
		}
	}
	return all
}

// Write prints a table of clauses for each section, the failures with what was
// sent and what came back, what was measured, and the sums.
func (r *Report) Write(out io.Writer) error {
	for _, section := range r.Sections() {
		if err := r.writeTable(out, section); err != nil {
			return err
		}
	}
	for i := range r.Outcomes {
		if o := &r.Outcomes[i]; len(o.Failures) > 0 {
			fmt.Fprintf(out, "%s\n%s\n", &o.Clause, o.Text())
		}
	}
	for i := range r.Outcomes {
		if o := &r.Outcomes[i]; len(o.Figures) > 0 {
			fmt.Fprintf(out, "%s\n%s\n", &o.Clause, o.Measured())
		}
	}
	for _, section := range r.Sections() {
		fmt.Fprintf(out, "%s: %s\n", section, r.sums(section))
	}
	_, err := fmt.Fprintf(out, "%s with %s in %.1f s\n", strings.Join(r.Plugins, ", "), strings.Join(r.Versions, ", "), r.Took.Seconds())
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// writeTable prints a line for each clause of a section.
func (r *Report) writeTable(out io.Writer, section Section) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tLEVEL\tVERDICT\tVERSIONS\tMS\tWHY\n", strings.ToUpper(string(section)))
	for _, o := range r.in(section) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", o.Clause.ID, o.Clause.Level, o.Verdict,
			strings.Join(o.Versions, " "), o.Took.Milliseconds(), headline(o.Why()))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	fmt.Fprintln(out)
	return nil
}

// headline is what a line of the table has room for; the whole text is below.
func headline(text string) string {
	const most = 120
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return text
}

// Why is what a line has to say of an outcome: the reason why it isn't
// applicable, or the first failure.
func (o *Outcome) Why() string {
	if len(o.Failures) > 0 {
		return o.Failures[0].Text
	}
	return o.Reason
}

// Text is all that there is to say of an outcome's failures.
func (o *Outcome) Text() string {
	var b strings.Builder
	for _, f := range o.Failures {
		fmt.Fprintf(&b, "cniVersion %s: %s\n", f.Version, f.Text)
		if f.Exchange != nil {
			b.WriteString(f.Exchange.String())
		}
	}
	return b.String()
}

// Measured is what an outcome's figures say, a line for each.
func (o *Outcome) Measured() string {
	var b strings.Builder
	for _, f := range o.Figures {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	return b.String()
}

// sums are the numbers of verdicts in a section.
func (r *Report) sums(section Section) string {
	only := &Report{}
	for _, o := range r.in(section) {
		only.Outcomes = append(only.Outcomes, *o)
	}
	var parts []string
	for _, level := range []Level{Must, Should, May} {
		parts = append(parts, fmt.Sprintf("%s %d pass, %d fail, %d not applicable", level,
			only.Count(level, Pass), only.Count(level, Fail), only.Count(level, NotApplicable)))
	}
	return strings.Join(parts, "; ")
}
