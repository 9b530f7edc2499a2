package conformancetest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/overlay-cni/overlay-cni/conformance"
	"github.com/overlay-cni/overlay-cni/conformance/conformancetest"
)

// TestRun: a SHOULD that doesn't hold fails no test, and the report has it. The
// target is tested as it is, with several nodes and a daemon if it has them.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plugin := `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}';;
ADD) echo '{"cniVersion": "1.1.0"}';;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "sloppy"), []byte(plugin), 0o700); err != nil {
		t.Fatal(err)
	}
	target := conformance.Target{Conflist: []byte(`{"name": "n", "plugins": [{"type": "sloppy"}]}`), Bin: []string{dir}, Joins: true, Daemon: "exec sleep 60"}
	options := conformancetest.Options{Options: conformance.Options{Clauses: []string{"2.4-add-0[123]", "5.2-version-01", "network-daemon-01"}}}
	report := conformancetest.Run(t, target, options)
	want := []conformance.Verdict{conformance.Fail, conformance.Pass, conformance.NotApplicable, conformance.Pass, conformance.Fail}
	for i := range report.Outcomes {
		if o := &report.Outcomes[i]; o.Verdict != want[i] {
			t.Errorf("%s: %s, want %s", o.Clause.ID, o.Verdict, want[i])
		}
	}
	if !report.Holds(false) || report.Holds(true) {
		t.Error("a SHOULD that doesn't hold counts only when one is strict")
	}
}
