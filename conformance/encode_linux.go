package conformance

// Reports for programs.

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"time"
)

// jsonOutcome is an outcome as a program reads it.
type jsonOutcome struct {
	ID       string    `json:"id"`
	Section  Section   `json:"section"`
	Of       string    `json:"of"`
	Level    Level     `json:"level"`
	Quote    string    `json:"quote"`
	Note     string    `json:"note,omitempty"`
	Verdict  Verdict   `json:"verdict"`
	Versions []string  `json:"cniVersions,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Failures []Failure `json:"failures,omitempty"`
	Figures  []Figure  `json:"figures,omitempty"`
	Millis   int64     `json:"milliseconds"`
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(out io.Writer) error {
	document := struct {
		Network  string        `json:"network"`
		Plugins  []string      `json:"plugins"`
		Versions []string      `json:"cniVersions"`
		Started  time.Time     `json:"started"`
		Millis   int64         `json:"milliseconds"`
		Holds    bool          `json:"mustsHold"`
		Clauses  []jsonOutcome `json:"clauses"`
	}{r.Network, r.Plugins, r.Versions, r.Started, r.Took.Milliseconds(), r.Holds(false), nil}
	for i := range r.Outcomes {
		o := &r.Outcomes[i]
		c := &o.Clause
		document.Clauses = append(document.Clauses, jsonOutcome{
			c.ID, c.Section, c.Of, c.Level, c.Quote, c.Note, o.Verdict, o.Versions, o.Reason, o.Failures, o.Figures, o.Took.Milliseconds(),
		})
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	if err := e.Encode(document); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// The elements of a JUnit file.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name       string           `xml:"name,attr"`
		Class      string           `xml:"classname,attr"`
		Time       string           `xml:"time,attr"`
		Properties *junitProperties `xml:"properties"`
		Failure    *junitText       `xml:"failure"`
		Skipped    *junitText       `xml:"skipped"`
		SystemOut  string           `xml:"system-out,omitempty"`
	}
	junitProperties struct {
		All []junitProperty `xml:"property"`
	}
	junitProperty struct {
		Name  string  `xml:"name,attr"`
		Value float64 `xml:"value,attr"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit does, a suite for each section. A
// clause that isn't applicable is skipped, and so is one that failed and isn't
// binding.
func (r *Report) WriteJUnit(out io.Writer, strict bool) error {
	var all junitSuites
	for _, section := range sections() {
		suite := junitSuite{Name: "cni-conformance." + string(section)}
		var took time.Duration
		for i := range r.Outcomes {
			o := &r.Outcomes[i]
			if o.Clause.Section == section {
				suite.add(o, strict)
				took += o.Took
			}
		}
		if suite.Time = seconds(took); suite.Tests > 0 {
			all.Suites = append(all.Suites, suite)
		}
	}
	if _, err := io.WriteString(out, xml.Header); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	e := xml.NewEncoder(out)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	return nil
}

func (s *junitSuite) add(o *Outcome, strict bool) {
	c := junitCase{Name: o.Clause.ID, Class: s.Name, Time: seconds(o.Took), SystemOut: o.Clause.String()}
	s.Tests++
	if len(o.Figures) > 0 {
		c.Properties = &junitProperties{}
		for _, f := range o.Figures {
			c.Properties.All = append(c.Properties.All, junitProperty{Name: f.Name + " " + f.Unit, Value: f.Value})
		}
	}
	switch {
	case o.Verdict == Fail && o.Binding(strict):
		s.Failures++
		c.Failure = &junitText{Message: o.Why(), Text: o.Text()}
	case o.Verdict != Pass:
		s.Skipped++
		c.Skipped = &junitText{Message: fmt.Sprintf("%s, %s: %s", o.Verdict, o.Clause.Level, o.Why()), Text: o.Text()}
	}
	s.Cases = append(s.Cases, c)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
