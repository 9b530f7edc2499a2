package conformance_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/conformance"
)

// specification reads SPEC.md of the module that go.mod names.
func specification(t *testing.T) string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/containernetworking/cni").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "SPEC.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestQuotesAreLiteral: what a clause of SPEC.md or a reason quotes is there.
func TestQuotesAreLiteral(t *testing.T) {
	t.Parallel()
	text := specification(t)
	if !strings.Contains(text, "This is CNI **spec** version **1.1.0**.") {
		t.Error("this is another version of the specification")
	}
	for _, c := range conformance.Clauses() {
		if c.Section == conformance.Spec && !strings.Contains(text, c.Quote) {
			t.Errorf("%s: SPEC.md hasn't %q", c.ID, c.Quote)
		}
	}
	for _, u := range conformance.Unchecked() {
		if !strings.Contains(text, u.Quote) || u.Reason == "" {
			t.Errorf("SPEC.md hasn't %q, or there is no reason", u.Quote)
		}
	}
}

// TestSpecificationIsCovered: each sentence with must, should or may is quoted
// by a clause, or there is a reason why it isn't.
func TestSpecificationIsCovered(t *testing.T) {
	t.Parallel()
	keyword := regexp.MustCompile(`(?i)\b(must|should|may)\b`)
	ends := regexp.MustCompile(`([.:])\s+`)
	begins := regexp.MustCompile(`^[-*\s]+`)
	var quotes []string
	for _, c := range conformance.Clauses() {
		if c.Section == conformance.Spec {
			quotes = append(quotes, c.Quote)
		}
	}
	for _, u := range conformance.Unchecked() {
		quotes = append(quotes, u.Quote)
	}
	sentences := 0
	for number, line := range strings.Split(specification(t), "\n") {
		line = strings.ReplaceAll(line, "e.g. ", "e.g.\x01")
		for _, sentence := range strings.Split(ends.ReplaceAllString(line, "$1\x00"), "\x00") {
			sentence = begins.ReplaceAllString(strings.ReplaceAll(sentence, "\x01", " "), "")
			if !keyword.MatchString(sentence) {
				continue
			}
			sentences++
			if !covered(sentence, quotes) {
				t.Errorf("SPEC.md:%d: nobody quotes %q", number+1, sentence)
			}
		}
	}
	if sentences < 80 {
		t.Errorf("SPEC.md has %d such sentences only", sentences)
	}
}

// covered says whether a quote has the sentence, or is a part of it.
func covered(sentence string, quotes []string) bool {
	for _, q := range quotes {
		if strings.Contains(q, sentence) || strings.Contains(sentence, q) {
			return true
		}
	}
	return false
}
