package compare

// The comparison as people read it.

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/overlay-cni/overlay-cni/conformance"
)

// Markdown prints the comparison.
func (c *Comparison) Markdown(out io.Writer) error {
	var b bytes.Buffer
	b.WriteString("# Plugins compared\n\nMade by `make conformance`: the same machine, the same run. [conformance.md](conformance.md) says what is checked, and how.\n\n")
	c.sums(&b)
	c.clauses(&b)
	c.figures(&b)
	c.untold(&b)
	c.findings(&b)
	if _, err := out.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write comparison: %w", err)
	}
	return nil
}

// Write prints a line for each target.
func (c *Comparison) Write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tSPEC\tBEHAVIOUR\tNETWORK\tSECONDS\t(hold / don't)")
	for i := range c.Sides {
		s := &c.Sides[i]
		if s.Report == nil {
			fmt.Fprintf(w, "%s\tnot run: %s not given\n", s.Name, strings.Join(s.Missing, ", "))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t\n", s.Name, s.sum(conformance.Spec), s.sum(conformance.Behaviour), s.sum(conformance.Network), s.Report.Took.Seconds())
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write comparison: %w", err)
	}
	return nil
}

// ran are the sides that were run.
func (c *Comparison) ran() []*Side {
	var all []*Side
	for i := range c.Sides {
		if c.Sides[i].Report != nil {
			all = append(all, &c.Sides[i])
		}
	}
	return all
}

// sums are what each target is, and how many clauses hold.
func (c *Comparison) sums(b *bytes.Buffer) {
	fmt.Fprintf(b, "## Targets\n\n| target | what it is | cniVersion | spec: hold / don't | behaviour | network |\n|---|---|---|---|---|---|\n")
	for i := range c.Sides {
		s := &c.Sides[i]
		if s.Report == nil {
			fmt.Fprintf(b, "| %s | %s | not run: %s not given | | | |\n", s.Title, s.About, strings.Join(s.Missing, ", "))
			continue
		}
		versions := s.Report.Versions
		fmt.Fprintf(b, "| %s | %s | %s to %s |", s.Title, s.About, versions[0], versions[len(versions)-1])
		for _, section := range []conformance.Section{conformance.Spec, conformance.Behaviour, conformance.Network} {
			fmt.Fprintf(b, " %s |", s.sum(section))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// sum is how many clauses of a section hold, and how many don't.
func (s *Side) sum(section conformance.Section) string {
	var pass, fail int
	for _, o := range s.outcomes() {
		if o.Clause.Section == section {
			switch o.Verdict {
			case conformance.Pass:
				pass++
			case conformance.Fail:
				fail++
			case conformance.NotApplicable:
			}
		}
	}
	if pass+fail == 0 {
		return "–"
	}
	return fmt.Sprintf("%d / %d", pass, fail)
}

// clauses are those that don't hold everywhere.
func (c *Comparison) clauses(b *bytes.Buffer) {
	ran := c.ran()
	b.WriteString("## What doesn't hold everywhere\n\n✓ holds, ✗ doesn't, (✗) doesn't in some runs, – says nothing about this target. All other clauses hold wherever they apply.\n\n| clause | level | what |")
	for _, s := range ran {
		fmt.Fprintf(b, " %s |", s.Title)
	}
	b.WriteString("\n|---|---|---|" + strings.Repeat("---|", len(ran)) + "\n")
	for _, clause := range conformance.Clauses() {
		row, fails := "", false
		for _, s := range ran {
			cell := s.mark(clause.ID)
			row += " " + cell + " |"
			fails = fails || strings.Contains(cell, "✗")
		}
		if fails {
			fmt.Fprintf(b, "| %s | %s | %s |%s\n", clause.ID, clause.Level, what(&clause), row)
		}
	}
	b.WriteString("\n")
}

// mark is the outcome of a clause in a cell of a table. One that wasn't chosen
// says nothing, as one that isn't applicable.
func (s *Side) mark(id string) string {
	all := s.outcomes()
	i := slices.IndexFunc(all, func(o *conformance.Outcome) bool { return o.Clause.ID == id })
	if i < 0 {
		return "–"
	}
	if known := s.finding(id); known != nil && known.Sometimes {
		return "(✗)"
	}
	switch all[i].Verdict {
	case conformance.Pass:
		return "✓"
	case conformance.Fail:
		return "✗"
	case conformance.NotApplicable:
	}
	return "–"
}

// what is a clause in a cell of a table.
func what(c *conformance.Clause) string {
	text := strings.Join(strings.Fields(c.Quote), " ")
	if c.Note != "" {
		text += " *(" + c.Note + ")*"
	}
	return strings.ReplaceAll(text, "|", "\\|")
}

// figures are what calls cost, where it was counted.
func (c *Comparison) figures(b *bytes.Buffer) {
	ran := c.ran()
	type row struct{ name, unit string }
	var rows []row
	cells := map[row][]string{}
	for column, s := range ran {
		for _, o := range s.outcomes() {
			for _, f := range o.Figures {
				r := row{f.Name, f.Unit}
				if cells[r] == nil {
					rows, cells[r] = append(rows, r), make([]string, len(ran))
				}
				cells[r][column] = fmt.Sprintf("%.4g", f.Value)
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	b.WriteString("## What calls cost\n\nEach target was measured by itself, so times are to be compared in orders of magnitude only; counts are exact.\n\n| |")
	for _, s := range ran {
		fmt.Fprintf(b, " %s |", s.Title)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(ran)) + "\n")
	for _, r := range rows {
		fmt.Fprintf(b, "| %s, %s | %s |\n", r.name, r.unit, strings.Join(cells[r], " | "))
	}
	b.WriteString("\n")
}

// findings are what was found by hand about clauses that don't hold.
func (c *Comparison) findings(b *bytes.Buffer) {
	b.WriteString("## What was found by hand\n\nThe commands are for the shell that `unshare --net --mount bash --rcfile conformance/targets/by-hand.sh` makes, each in a new one.\n\n")
	for _, s := range c.ran() {
		if len(s.Findings) == 0 {
			continue
		}
		fmt.Fprintf(b, "### %s\n\n", s.Title)
		for _, f := range s.Findings {
			fmt.Fprintf(b, "- %s: %s\n\n  ```sh\n  %s\n  ```\n", strings.Join(f.Clauses, ", "), f.Text, strings.ReplaceAll(f.Command, "\n", "\n  "))
		}
		b.WriteString("\n")
	}
}

// untold are the clauses that say nothing about our own targets.
func (c *Comparison) untold(b *bytes.Buffer) {
	clauses := c.unexercised()
	if len(clauses) == 0 {
		return
	}
	b.WriteString("## Clauses that none of our own targets exercises\n\n")
	for i := range clauses {
		fmt.Fprintf(b, "- %s: %s\n", clauses[i].ID, what(&clauses[i]))
	}
	b.WriteString("\n")
}
