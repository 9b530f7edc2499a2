package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// life is what a machine has, as a program on it sees it.
type life struct{ host, boot, run, lib string }

// TestBoot: another life has another number and an empty /run; what is kept, the
// name and /var/lib are as before.
func TestBoot(t *testing.T) {
	t.Parallel()
	kept, err := os.MkdirTemp("/run", "kept-") //nolint:usetesting // it has to be in /run
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(kept) })
	script(t, kept, "one", `hostname; cat `+bootID+`; ls -A /run | tr '\n' ' '; echo; ls -A /var/lib | tr '\n' ' '
touch /run/of-this-life /var/lib/of-all-lives`)
	p, err := read(Target{Conflist: []byte(`{"name": "n", "plugins": [{"type": "one"}]}`), Bin: []string{kept}})
	if err != nil {
		t.Fatal(err)
	}
	node := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	b, err := newBench(t.Context(), p, "1.1.0", node, site{name: "elsewhere", index: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	look := func() life {
		lines := strings.Split(b.do(t.Context(), call{command: "STATUS"}).Stdout, "\n")
		if len(lines) < 4 {
			t.Fatalf("%q", lines)
		}
		return life{host: lines[0], boot: lines[1], run: strings.TrimSpace(lines[2]), lib: strings.TrimSpace(lines[3])}
	}
	machines, err := os.ReadFile(bootID)
	if err != nil {
		t.Fatal(err)
	}
	only := filepath.Base(kept)
	first := look()
	if first.host != "elsewhere" || first.run != only || first.lib != "" || first.boot == strings.TrimSpace(string(machines)) {
		t.Errorf("a new machine: %+v", first)
	}
	if again := look(); again.boot != first.boot || again.run == only || again.lib == "" {
		t.Errorf("the same life: %+v", again)
	}
	seen := map[string]bool{first.boot: true}
	for range 2 {
		if err := b.powerOff(); err != nil {
			t.Fatal(err)
		}
		if err := b.powerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
		next := look()
		if next.host != "elsewhere" || next.run != only || next.lib != "of-all-lives" || seen[next.boot] || len(next.boot) != len(first.boot) {
			t.Errorf("another life: %+v", next)
		}
		seen[next.boot] = true
	}
	if after, err := os.ReadFile(bootID); err != nil || string(after) != string(machines) {
		t.Errorf("the number of the machine below has changed: %s, %v", after, err)
	}
}
