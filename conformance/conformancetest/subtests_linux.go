// Package conformancetest makes a subtest for each clause of package
// conformance, for those who test their CNI plugin with go test:
//
//	conformancetest.Run(t, conformance.Target{Conflist: conflist, Bin: []string{dir}}, conformancetest.Options{})
package conformancetest

import (
	"testing"

	"github.com/overlay-cni/overlay-cni/conformance"
)

// Options of the subtests.
type Options struct {
	conformance.Options
	// Strict fails a test for a SHOULD or MAY, too.
	Strict bool
}

// Run holds a target to the clauses, with a subtest for each. Without root the
// test fails. What isn't applicable, and a SHOULD that doesn't hold, are logged.
func Run(t *testing.T, target conformance.Target, o Options) *conformance.Report {
	t.Helper()
	report, err := conformance.Run(t.Context(), target, o.Options)
	if err != nil {
		t.Fatal(err)
	}
	for i := range report.Outcomes {
		outcome := &report.Outcomes[i]
		t.Run(outcome.Clause.ID, func(t *testing.T) {
			switch {
			case outcome.Verdict == conformance.Fail && outcome.Binding(o.Strict):
				t.Errorf("%s\n%s", &outcome.Clause, outcome.Text())
			case outcome.Verdict != conformance.Pass:
				t.Logf("%s: %s", outcome.Verdict, outcome.Why())
			}
		})
	}
	return report
}
