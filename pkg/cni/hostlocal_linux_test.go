package cni_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTakeOverFromHostLocal: replacing the type is all that a user does; what
// host-local gave stays given.
func TestTakeOverFromHostLocal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conf := func(plugin string) map[string]any {
		c := b.ipamConf(plugin, nil)
		ipam := maps.Clone(c["ipam"].(map[string]any))
		ipam["type"] = plugin
		c["ipam"], c["name"] = ipam, "My_Net.1"
		return c
	}
	old, ours := conf("host-local"), conf("overlay-ipam")
	for i := range 3 {
		b.ok("ADD", old, fmt.Sprintf("CNI_CONTAINERID=old%d", i))
	}
	dir := filepath.Join(b.node.Dir(), "ipam", "My_Net.1")
	if err := os.WriteFile(filepath.Join(dir, "10.1.0.77"), nil, 0o600); err != nil { // left by a killed host-local
		t.Fatal(err)
	}
	if got := ips(b.ok("ADD", ours, "CNI_CONTAINERID=new").result); !slices.Equal(got, []string{"10.1.0.5/24", "fd00:1::5/64"}) {
		t.Errorf("after three of host-local's the next are %v", got)
	}
	b.fails(101, "ADD", ours, []string{"10.1.0.3", "old1"}, "CNI_CONTAINERID=x", "CNI_ARGS=IP=10.1.0.3")
	b.ok("ADD", ours, "CNI_CONTAINERID=y", "CNI_ARGS=IP=10.1.0.77")
	b.ok("DEL", ours, "CNI_CONTAINERID=old1")
	b.ok("ADD", ours, "CNI_CONTAINERID=x", "CNI_ARGS=IP=10.1.0.3")
}

// TestAgainstHostLocal runs both plugins through the same cases and compares
// what they answer. Where ours differs on purpose, the case says why.
func TestAgainstHostLocal(t *testing.T) {
	t.Parallel()
	ranges := func(sets ...any) map[string]any { return map[string]any{"ranges": sets} }
	r := func(fields ...string) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(fields); i += 2 {
			m[fields[i]] = fields[i+1]
		}
		return m
	}
	plain := ranges([]any{r("subnet", "10.1.0.0/29")})
	for _, c := range []struct {
		name    string
		section map[string]any
		calls   []string // VERB container [environment]
		differs string   // why ours isn't like upstream's; "": it is
	}{
		{"one range", plain, []string{"ADD a", "ADD b", "DEL a", "ADD c"}, ""},
		{"old single range", r("subnet", "10.1.0.0/29"), []string{"ADD a", "ADD b"}, ""},
		{"start and end", ranges([]any{r("subnet", "10.1.0.0/24", "rangeStart", "10.1.0.9", "rangeEnd", "10.1.0.10")}), []string{"ADD a", "ADD b", "ADD c"}, ""},
		{"gateway within", ranges([]any{r("subnet", "10.1.0.0/29", "gateway", "10.1.0.3")}), []string{"ADD a", "ADD b", "ADD c"}, ""},
		{"dual stack", ranges([]any{r("subnet", "10.1.0.0/29")}, []any{r("subnet", "fd00:1::/125")}), []string{"ADD a", "ADD b"}, ""},
		{"two ranges of a set", ranges([]any{r("subnet", "10.1.0.0/30"), r("subnet", "10.2.0.0/29")}), []string{"ADD a", "ADD b", "ADD c"}, ""},
		{"full", ranges([]any{r("subnet", "10.1.0.0/30")}), []string{"ADD a", "ADD b", "DEL a", "ADD b"}, ""},
		{"fixed address", plain, []string{"ADD a IP=10.1.0.4", "ADD b IP=10.1.0.4", "ADD c"}, "after a fixed address upstream goes on behind it; ours takes the lowest that was never used"},
		{"fixed address outside", plain, []string{"ADD a IP=10.9.0.4"}, ""},
		{"DEL of nobody", plain, []string{"DEL a", "ADD b"}, ""},
		{"ADD twice", plain, []string{"ADD a", "ADD a"}, "upstream refuses; ours gives the same again, so that the ADD after a killed one succeeds"},
		{"least recently freed", ranges([]any{r("subnet", "10.1.0.0/29")}), []string{"ADD a", "ADD b", "ADD c", "DEL b", "DEL a", "ADD d", "ADD e", "ADD f", "ADD g"}, "upstream goes round by number; ours gives what was freed longest ago"},
		{"malformed subnet", ranges([]any{r("subnet", "10.1.0")}), []string{"ADD a"}, ""},
		{"host bits", ranges([]any{r("subnet", "10.1.0.1/24")}), []string{"ADD a"}, ""},
		{"too small", ranges([]any{r("subnet", "10.1.0.0/31")}), []string{"ADD a"}, ""},
		{"end before start", ranges([]any{r("subnet", "10.1.0.0/24", "rangeStart", "10.1.0.9", "rangeEnd", "10.1.0.8")}), []string{"ADD a"}, ""},
		{"overlapping sets", ranges([]any{r("subnet", "10.1.0.0/24")}, []any{r("subnet", "10.1.0.0/25")}), []string{"ADD a"}, ""},
		{"families mixed in a set", ranges([]any{r("subnet", "10.1.0.0/24"), r("subnet", "fd00:1::/64")}), []string{"ADD a"}, ""},
		{"no range", map[string]any{}, []string{"ADD a"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			answers := map[string]string{}
			for _, plugin := range []string{"host-local", "overlay-ipam"} {
				section := map[string]any{"type": plugin, "dataDir": filepath.Join(b.node.Dir(), plugin)}
				maps.Copy(section, c.section)
				conf := map[string]any{"cniVersion": "1.0.0", "name": "plain", "type": plugin, "ipam": section}
				answers[plugin] = b.replay(conf, c.calls)
			}
			same := answers["host-local"] == answers["overlay-ipam"]
			if same != (c.differs == "") {
				t.Errorf("expected difference: %q\nhost-local:\n%soverlay-ipam:\n%s", c.differs, answers["host-local"], answers["overlay-ipam"])
			}
		})
	}
}

// replay makes calls and writes down what each is answered: addresses, or that
// it was refused.
func (b *bench) replay(conf map[string]any, calls []string) string {
	b.tb.Helper()
	var lines strings.Builder
	for _, call := range calls {
		f := strings.Fields(call)
		env := []string{"CNI_CONTAINERID=" + f[1]}
		if len(f) > 2 {
			env = append(env, "CNI_ARGS="+f[2])
		}
		a := b.run(f[0], conf, env...)
		text := "refused"
		if a.status == 0 {
			text = sprint(a.result["ips"])
		}
		fmt.Fprintf(&lines, "  %s: %s\n", call, text)
	}
	return lines.String()
}
