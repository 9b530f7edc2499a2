package cni_test

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/cni"
)

// TestVersionIsThatOfTheInput: VERSION is answered in the version in which it is
// asked, and asked in none, or in one that isn't ours, in the newest.
func TestVersionIsThatOfTheInput(t *testing.T) {
	t.Parallel()
	supported := []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}
	for _, c := range []struct{ name, stdin, want string }{
		{"oldest", `{"cniVersion": "0.3.1"}`, "0.3.1"},
		{"newest", `{"cniVersion": "1.1.0"}`, "1.1.0"},
		{"in a whole configuration", `{"name": "pods", "cniVersion": "1.0.0", "type": "overlay-vxlan"}`, "1.0.0"},
		{"nothing", "", "1.1.0"},
		{"no version", `{}`, "1.1.0"},
		{"empty version", `{"cniVersion": ""}`, "1.1.0"},
		{"too old", `{"cniVersion": "0.2.0"}`, "1.1.0"},
		{"unknown", `{"cniVersion": "9.9.9"}`, "1.1.0"},
		{"no text", `{"cniVersion": 1}`, "1.1.0"},
		{"no JSON", `cniVersion`, "1.1.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := askVersion(t, strings.NewReader(c.stdin))
			if got.CNIVersion != c.want || !slices.Equal(got.SupportedVersions, supported) {
				t.Errorf("%s: answered %+v, want version %s and supported %v", c.stdin, got, c.want, supported)
			}
		})
	}
}

// TestVersionNeedsNoEndOfInput: who asks may keep the input open.
func TestVersionNeedsNoEndOfInput(t *testing.T) {
	t.Parallel()
	open, asker := io.Pipe()
	t.Cleanup(func() { _ = asker.Close() })
	go func() { _, _ = asker.Write([]byte(`{"cniVersion":"0.4.0"}`)) }()
	if got := askVersion(t, open); got.CNIVersion != "0.4.0" {
		t.Errorf("answered in version %q", got.CNIVersion)
	}
}

// version is an answer to VERSION.
type version struct {
	CNIVersion        string   `json:"cniVersion"`
	SupportedVersions []string `json:"supportedVersions"`
}

func askVersion(t *testing.T, stdin io.Reader) (v version) {
	t.Helper()
	var stdout, stderr strings.Builder
	p := &cni.Process{
		Getenv: func(name string) string { return map[string]string{"CNI_COMMAND": "VERSION"}[name] },
		Stdin:  stdin, Stdout: &stdout, Stderr: &stderr,
	}
	if status := p.Run("a plugin", cni.Verbs{}); status != 0 || stderr.String() != "" {
		t.Fatalf("exit status %d: %s%s", status, &stdout, &stderr)
	}
	if err := json.Unmarshal([]byte(stdout.String()), &v); err != nil {
		t.Fatalf("%v: %s", err, &stdout)
	}
	return v
}
