package conformance

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
	"time"
)

// reported has clauses of two sections.
func reported() *Report {
	return &Report{
		Plugins: []string{"main", "chained"}, Versions: []string{"1.0.0", "1.1.0"}, Took: 1500 * time.Millisecond,
		Outcomes: []Outcome{
			{Clause: Clause{ID: "2-a", Section: Spec, Level: Must, Of: "Section 2", Quote: "It must."}, Verdict: Pass, Versions: []string{"1.1.0"}, Took: time.Millisecond},
			{
				Clause: Clause{ID: "behaviour-a", Section: Behaviour, Level: Should, Of: "Behaviour: a", Quote: "It does."}, Verdict: Fail,
				Versions: []string{"1.1.0"}, Failures: []Failure{{Version: "1.1.0", Text: "it\n doesn't", Exchange: &Exchange{Plugin: "main", Command: "ADD"}}},
			},
			{
				Clause: Clause{ID: "behaviour-b", Section: Behaviour, Level: May, Of: "Behaviour: b", Quote: "It costs."}, Verdict: Pass,
				Figures: []Figure{{"ADD", 12.345678, "ms"}, {"ADD", 1295, "system calls"}},
			},
			{Clause: Clause{ID: "behaviour-c", Section: Behaviour, Level: Should, Of: "Behaviour: c", Quote: "It has."}, Verdict: NotApplicable, Reason: "it hasn't"},
		},
	}
}

const table = `SPEC  LEVEL  VERDICT  VERSIONS  MS  WHY
2-a   MUST   pass     1.1.0     1   

BEHAVIOUR    LEVEL   VERDICT         VERSIONS  MS  WHY
behaviour-a  SHOULD  fail            1.1.0     0   it doesn't
behaviour-b  MAY     pass                      0   
behaviour-c  SHOULD  not applicable            0   it hasn't

behaviour-a SHOULD (Behaviour: a): It does.
cniVersion 1.1.0: it
 doesn't
sent to main: 
  stdin:  
came back after 0s: status 0
  stdout: 
  stderr: 

behaviour-b MAY (Behaviour: b): It costs.
  ADD 12.35 ms
  ADD 1295 system calls

spec: MUST 1 pass, 0 fail, 0 not applicable; SHOULD 0 pass, 0 fail, 0 not applicable; MAY 0 pass, 0 fail, 0 not applicable
behaviour: MUST 0 pass, 0 fail, 0 not applicable; SHOULD 0 pass, 1 fail, 1 not applicable; MAY 1 pass, 0 fail, 0 not applicable
main, chained with 1.0.0, 1.1.0 in 1.5 s
`

// TestTable: each section has its own table and its own sums.
func TestTable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := reported().Write(&out); err != nil {
		t.Fatal(err)
	}
	if out.String() != table {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), table)
	}
}

// TestFigures: programs read what was measured.
func TestFigures(t *testing.T) {
	t.Parallel()
	var asJSON, asJUnit bytes.Buffer
	if err := reported().WriteJSON(&asJSON); err != nil {
		t.Fatal(err)
	}
	if err := reported().WriteJUnit(&asJUnit, false); err != nil {
		t.Fatal(err)
	}
	var document struct{ Clauses []struct{ Figures []Figure } }
	if err := json.Unmarshal(asJSON.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	if got := document.Clauses[2].Figures; len(got) != 2 || got[0] != (Figure{"ADD", 12.345678, "ms"}) || document.Clauses[0].Figures != nil {
		t.Errorf("JSON has %+v", document.Clauses)
	}
	var suites junitSuites
	if err := xml.Unmarshal(asJUnit.Bytes(), &suites); err != nil {
		t.Fatal(err)
	}
	if len(suites.Suites) != 2 || suites.Suites[0].Cases[0].Properties != nil {
		t.Fatalf("JUnit has %+v", suites)
	}
	if got := suites.Suites[1].Cases[1].Properties; got == nil || len(got.All) != 2 || got.All[1] != (junitProperty{"ADD system calls", 1295}) {
		t.Errorf("JUnit has %+v", got)
	}
	if !strings.Contains(asJSON.String(), `"unit": "ms"`) {
		t.Errorf("JSON's names: %s", asJSON.String())
	}
}
