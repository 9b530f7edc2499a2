//go:build linux

package main

// What was measured, as tables for people and as JSON.

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/overlay-cni/overlay-cni/scripts/bench/sample"
)

// series are the values of each contender's metrics, one of each round.
type series map[string]map[string][]float64

func (s series) add(contender, metric string, value float64) {
	if s[contender] == nil {
		s[contender] = make(map[string][]float64)
	}
	s[contender][metric] = append(s[contender][metric], value)
}

// metric is something that is measured of every contender.
type metric struct {
	name   string // with its unit
	digits int    // after the point
	tail   bool   // the 99th percentile is shown, too
}

// bound is a target.
type bound struct {
	limit   float64
	atLeast bool
}

func atMost(limit float64) *bound  { return &bound{limit: limit} }
func atLeast(limit float64) *bound { return &bound{limit: limit, atLeast: true} }

func (b *bound) String() string {
	switch {
	case b == nil:
		return "no target"
	case b.atLeast:
		return fmt.Sprintf(">= %.2f", b.limit)
	}
	return fmt.Sprintf("<= %.2f", b.limit)
}

// met says whether a value is within the bound.
func (b *bound) met(value float64) string {
	switch {
	case b == nil:
		return ""
	case math.IsNaN(value):
		return "not measured"
	case (b.atLeast && value >= b.limit) || (!b.atLeast && value <= b.limit):
		return "met"
	}
	return "missed"
}

// question is a comparison that a section answers.
type question struct {
	contender, reference, metric string
	target                       *bound
}

// section is a part of the benchmark, measured.
type section struct {
	name       string
	notes      []string
	contenders []string
	metrics    []metric
	questions  []question
	measured   series
}

// answer is a question with what was measured.
type answer struct {
	Contender string `json:"contender"`
	Reference string `json:"reference"`
	Metric    string `json:"metric"`
	Rounds    int    `json:"rounds"`
	sample.Ratio
	Target  string `json:"target"`
	Verdict string `json:"verdict"`
}

// answers leaves out the questions about contenders that didn't take part.
func (s *section) answers() []answer {
	var found []answer
	for _, q := range s.questions {
		values, reference := s.measured[q.contender][q.metric], s.measured[q.reference][q.metric]
		if len(values) == 0 || len(reference) == 0 {
			continue
		}
		r := sample.Compare(values, reference)
		found = append(found, answer{
			Contender: q.contender, Reference: q.reference, Metric: q.metric, Rounds: min(len(values), len(reference)),
			Ratio: r, Target: q.target.String(), Verdict: q.target.met(r.OfPairs),
		})
	}
	return found
}

// print writes the section as two tables: values and comparisons.
func (s *section) print(w io.Writer) error {
	fmt.Fprintf(w, "\n== %s\n", s.name)
	for _, n := range s.notes {
		fmt.Fprintln(w, n)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row(t, append([]string{""}, s.columns()...)...)
	for _, c := range s.contenders {
		row(t, append([]string{c}, s.cells(c)...)...)
	}
	row(t)
	row(t, "compared with", "", "metric", "ratio of medians", "median of ratios", "95 %", "n", "target", "")
	for _, a := range s.answers() {
		row(t, a.Contender, a.Reference, a.Metric,
			fmt.Sprintf("%.3f", a.OfMedians), fmt.Sprintf("%.3f", a.OfPairs), fmt.Sprintf("%.3f-%.3f", a.Low, a.High),
			fmt.Sprint(a.Rounds), a.Target, a.Verdict)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print section %s: %w", s.name, err)
	}
	return nil
}

func row(w io.Writer, cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")) }

func (s *section) columns() []string {
	var columns []string
	for _, m := range s.metrics {
		columns = append(columns, m.name)
		if m.tail {
			columns = append(columns, "p99")
		}
	}
	return columns
}

func (s *section) cells(contender string) []string {
	var cells []string
	for _, m := range s.metrics {
		values := s.measured[contender][m.name]
		cells = append(cells, m.format(sample.Median(values)))
		if m.tail {
			cells = append(cells, m.format(sample.Percentile(values, 99)))
		}
	}
	return cells
}

func (m metric) format(value float64) string {
	if math.IsNaN(value) {
		return "-"
	}
	return fmt.Sprintf("%.*f", m.digits, value)
}

// value is a metric of a contender, for machines.
type value struct {
	Contender string  `json:"contender"`
	Metric    string  `json:"metric"`
	Rounds    int     `json:"rounds"`
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
}

// MarshalJSON has what print shows, in numbers.
func (s *section) MarshalJSON() ([]byte, error) {
	var values []value
	for _, c := range s.contenders {
		for _, m := range s.metrics {
			v := s.measured[c][m.name]
			if len(v) > 0 {
				values = append(values, value{c, m.name, len(v), sample.Median(v), sample.Percentile(v, 99)})
			}
		}
	}
	data, err := json.Marshal(map[string]any{
		"name": s.name, "notes": s.notes, "values": values, "comparisons": s.answers(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode section %s: %w", s.name, err)
	}
	return data, nil
}

// complete says which contender lacks values.
func (s *section) complete() error {
	for _, c := range s.contenders {
		for _, m := range s.metrics {
			if v := s.measured[c][m.name]; len(v) == 0 || slices.ContainsFunc(v, math.IsNaN) {
				return fmt.Errorf("%s: %s of %s could not be measured", s.name, m.name, c)
			}
		}
	}
	return nil
}
