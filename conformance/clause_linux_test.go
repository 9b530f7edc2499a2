package conformance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/conformance"
)

// wrongs are what a plugin does wrong, by its name, and the clauses that find
// it. A clause may be in several.
func wrongs() map[string][]string {
	return map[string][]string{
		"main.dns":                  {"1-conf-01"},
		"main.unknown-plain":        {"1-conf-02"},
		"main.large":                {"1-conf-03"},
		"main.ifname":               {"2.2-env-02"},
		"main.status0":              {"2.3-err-01"},
		"main.plain-errors":         {"2.3-err-02", "5.3-err-01"},
		"main.no-interface":         {"2.4-add-01", "behaviour-crowd-01"},
		"main.chatty":               {"2.4-add-02", "5.0-out-01"},
		"main.replace":              {"2.4-add-04", "2.4-add-05"},
		"main.one":                  {"2.4-add-06"},
		"main.del-nothing":          {"2.4-del-01", "4.2-exec-05"},
		"main.del-prev":             {"2.4-del-02"},
		"main.del-netns":            {"2.4-del-03", "2.4-del-04"},
		"main.del-netns-unset":      {"2.4-del-04"},
		"main.del-link":             {"2.4-del-05", "2.4-del-06", "2.4-del-07"},
		"main.del-strict":           {"2.4-del-06", "2.4-del-07", "3.1-life-02"},
		"ipam.id":                   {"2.2-env-01"},
		"ipam.del-keep":             {"2.4-del-08"},
		"main.del-no-delegate":      {"4.2-exec-05"},
		"main.del-no-delegate-gone": {"2.4-del-09"},
		"main.leak":                 {"2.4-del-10"},
		"main.check-nothing": {
			"2.4-check-01", "2.4-check-05", "2.4-check-06", "2.4-check-07", "2.4-check-08", "2.4-check-09",
			"2.4-check-10", "2.4-check-11", "4.2-exec-04",
		},
		"ipam.check-nothing":      {"2.4-check-01", "2.4-check-10"},
		"main.check-swallow":      {"2.4-check-10", "2.4-check-11", "4.2-exec-07"},
		"main.check-routes":       {"2.4-check-02"},
		"main.check-mac":          {"2.4-check-03"},
		"main.check-fails":        {"2.4-check-04"},
		"main.status-fails":       {"2.4-status-01"},
		"main.status-plain":       {"2.4-status-02"},
		"main.status-nothing":     {"2.4-status-03", "2.4-status-07", "2.4-status-08"},
		"main.code-50":            {"2.4-status-04"},
		"main.needs-status":       {"2.4-status-05"},
		"main.del-after-status":   {"2.4-status-06"},
		"main.version-plain":      {"2.4-version-01"},
		"main.version-keys":       {"5.2-version-01"},
		"main.version-fixed":      {"5.2-version-02"},
		"main.version-lies":       {"5.2-version-03"},
		"main.gc-nothing":         {"2.4-gc-01", "2.4-gc-07", "2.4-gc-08", "4.2-exec-06", "behaviour-kill-03", "behaviour-reboot-02"},
		"ipam.gc-nothing":         {"2.4-gc-01"},
		"main.gc-all":             {"2.4-gc-02"},
		"main.gc-empty":           {"2.4-gc-03", "2.4-gc-06"},
		"main.gc-valid":           {"2.4-gc-04", "2.4-gc-05"},
		"main.gc-swallow":         {"2.4-gc-07", "4.2-exec-09"},
		"main.gc-chatty":          {"2.4-gc-09"},
		"ipam.same-address":       {"3.1-life-01", "behaviour-crowd-01"},
		"main.args":               {"3.7-args-01"},
		"main.args-plain":         {"3.7-args-02"},
		"main.no-mac":             {"3.7-cap-01"},
		"ipam.no-ips":             {"3.7-cap-02"},
		"main.delegate-env":       {"4.1-del-01"},
		"main.delegate-section":   {"4.1-del-02", "4.2-exec-02"},
		"main.delegate-path":      {"4.2-exec-01"},
		"main.delegate-del":       {"4.2-exec-02"},
		"main.delegate-stderr":    {"4.2-exec-03"},
		"main.del-swallow":        {"4.2-exec-08"},
		"main.no-cleanup":         {"4.2-exec-10"},
		"main.fixed-version":      {"5.1-add-01"},
		"main.bad-interfaces":     {"5.1-add-02"},
		"main.bad-ips":            {"5.1-add-03"},
		"main.bad-index":          {"5.1-add-03"},
		"main.bad-routes":         {"5.1-add-04"},
		"main.bad-dns":            {"5.1-add-05"},
		"main.sandbox":            {"5.1-add-06"},
		"main.mac-differs":        {"5.1-add-07"},
		"main.mtu-differs":        {"5.1-add-08"},
		"main.unlisted":           {"5.1-add-09"},
		"main.no-host":            {"5.1-add-10"},
		"main.address-differs":    {"5.1-add-11"},
		"main.route-differs":      {"5.1-add-12"},
		"main.no-ip-version":      {"5.1-add-13"},
		"chain.swallow":           {"2.4-add-03", "5.1-prev-01"},
		"main.prev-swallow":       {"5.1-prev-02"},
		"chain.del-prev":          {"3.1-life-03"},
		"chain.drop-dns":          {"5.1-prev-03"},
		"ipam.interfaces":         {"5.1-ipam-01"},
		"ipam.interface-index":    {"5.1-ipam-01"},
		"ipam.nothing-determined": {"4.0-ipam-01"},
		"main.error-keys":         {"5.3-err-01"},
		"main.error-version":      {"5.3-err-02"},
		"main.code-1":             {"5.3-code-01"},
		"main.vague":              {"5.3-code-02", "5.3-code-04"},
		"main.code-4":             {"5.3-code-05"},
		"main.code-5":             {"5.3-code-06"},
		"main.code-6":             {"5.3-code-07"},
		"main.code-7":             {"5.3-code-08"},
		"main.code-reserved":      {"5.3-code-09"},
		"main.record-last":        {"behaviour-kill-01", "behaviour-reboot-01"},
		"ipam.lost":               {"behaviour-kill-01"},
		"main.orphan":             {"behaviour-kill-02"},
		"main.add-again":          {"behaviour-kill-04"},
		"main.del-record":         {"behaviour-kill-05"},
		"ipam.race":               {"behaviour-crowd-01"},
		"ipam.plain-errors":       {"behaviour-crowd-01"},
		"main.del-busy":           {"behaviour-crowd-02"},
		"main.add-del":            {"behaviour-crowd-03"},
		"main.add-busy":           {"behaviour-crowd-04"},
		"main.boot":               {"behaviour-reboot-03"},
		"main.slow":               {"behaviour-limit-01"},
		"main.add-crowd":          {"behaviour-limit-02"},
	}
}

// target is a chain of a fake plugin and a chained one, or an IPAM plugin
// alone. One of them may be wrong.
func target(t *testing.T, wrong string, ipamAlone bool) conformance.Target {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	role, _, _ := strings.Cut(wrong, ".")
	names := map[string]string{"main": "fake-main", "chain": "fake-chain", "ipam": "fake-ipam"}
	if role != "" {
		names[role] = "fake-" + wrong
	}
	for _, name := range names {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	plugins := []any{object{"type": names["ipam"], "capabilities": object{"ips": true}, "ipam": object{"type": names["ipam"]}}}
	if !ipamAlone {
		plugins = []any{
			object{
				"type": names["main"], "capabilities": object{"mac": true, "ips": true},
				"ipam": object{"type": names["ipam"]}, "dns": object{"nameservers": []string{"10.1.0.1"}},
			},
			object{"type": names["chain"]},
		}
	}
	conflist, err := json.Marshal(object{"cniVersion": "1.1.0", "cniVersions": versions, "name": "fake", "plugins": plugins})
	if err != nil {
		t.Fatal(err)
	}
	return conformance.Target{Conflist: conflist, Bin: []string{dir}}
}

func verdicts(t *testing.T, target conformance.Target, clauses ...string) map[string]*conformance.Outcome {
	t.Helper()
	return held(t, target, conformance.Options{Clauses: clauses})
}

func held(t *testing.T, target conformance.Target, o conformance.Options) map[string]*conformance.Outcome {
	t.Helper()
	report, err := conformance.Run(t.Context(), target, o)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*conformance.Outcome{}
	for i := range report.Outcomes {
		all[report.Outcomes[i].Clause.ID] = &report.Outcomes[i]
	}
	return all
}

// TestRightPlugins: each clause passes for one that is right, in all versions
// that it is about.
func TestRightPlugins(t *testing.T) {
	t.Parallel()
	passed := map[string]bool{}
	for _, right := range []struct {
		wrong     string
		ipamAlone bool
		clauses   []string
	}{
		{}, {ipamAlone: true},
		{wrong: "main.refuse-unknown", clauses: []string{"1-conf-02", "5.3-code-02"}}, // which it may
	} {
		for id, o := range verdicts(t, target(t, right.wrong, right.ipamAlone), right.clauses...) {
			if o.Verdict == conformance.Fail {
				t.Errorf("%+v: %s\n%s", right, id, o.Text())
			}
			passed[id] = passed[id] || o.Verdict == conformance.Pass
		}
	}
	for _, c := range conformance.Clauses() {
		if !passed[c.ID] && c.Section != conformance.Network && c.ID != "behaviour-cost-03" { // see TestRightNetwork, TestCostOfAPI
			t.Errorf("%s passes for none of the right plugins", c.ID)
		}
	}
}

// TestWrongPlugins: each clause fails for one that is wrong.
func TestWrongPlugins(t *testing.T) {
	t.Parallel()
	table := wrongs()
	found := map[string]bool{}
	for _, wrong := range slices.Sorted(maps.Keys(table)) {
		for _, id := range table[wrong] {
			found[id] = true
		}
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			// An IPAM plugin's own clauses are those of it alone.
			alone := strings.HasPrefix(wrong, "ipam.")
			options := conformance.Options{Clauses: table[wrong], TimeLimit: time.Second}
			for id, o := range held(t, target(t, wrong, alone), options) {
				if o.Verdict != conformance.Fail {
					t.Errorf("%s: %s %s", id, o.Verdict, o.Why())
				}
			}
		})
	}
	for _, c := range conformance.Clauses() {
		if c.Section == conformance.Network || strings.HasPrefix(c.ID, "behaviour-cost-") {
			continue // see TestWrongNetworks; what costs judges nobody
		}
		if !found[c.ID] {
			t.Errorf("no wrong plugin is there for %s", c.ID)
		}
	}
}

// TestCost: what a plugin executes is counted, that of what it delegates to as
// well.
func TestCost(t *testing.T) {
	t.Parallel()
	all := verdicts(t, target(t, "", false), "behaviour-cost-*")
	values := map[string]float64{}
	for _, o := range all {
		for _, f := range o.Figures {
			values[f.Name+" "+f.Unit] = f.Value
		}
	}
	for _, name := range []string{"VERSION ms", "STATUS ms", "ADD ms", "CHECK ms", "GC ms", "DEL ms", "ADD netlink messages", "DEL netlink messages", "ADD system calls"} {
		if values[name] <= 0 {
			t.Errorf("%s: %v", name, values[name])
		}
	}
	// The interface plugin, its IPAM plugin and the chained one.
	if values["ADD programs"] != 3 || values["DEL programs"] != 3 {
		t.Errorf("%v programs for ADD and %v for DEL, want 3", values["ADD programs"], values["DEL programs"])
	}
}

// TestCostOfAPI: requests are counted for each command.
func TestCostOfAPI(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	dir := t.TempDir()
	// Three requests for an ADD, one for a DEL.
	script := `#!/bin/bash
ask() { exec 3<>"/dev/tcp/$1/$2" && printf 'GET /%s HTTP/1.0\r\n\r\n' "$CNI_COMMAND" >&3 && read -r _ <&3; }
[[ $(cat) =~ http://([0-9.]+):([0-9]+) ]] && at=("${BASH_REMATCH[@]:1}")
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}';;
ADD) ask "${at[@]}" && ask "${at[@]}" && ask "${at[@]}" && echo '{"cniVersion": "1.1.0", "ips": []}';;
DEL) ask "${at[@]}";;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "asking"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	report, err := conformance.Run(t.Context(), conformance.Target{
		Conflist: []byte(`{"name": "n", "plugins": [{"type": "asking", "at": "${API}"}]}`), Bin: []string{dir}, API: server.URL,
	}, conformance.Options{Clauses: []string{"behaviour-cost-03"}})
	if err != nil {
		t.Fatal(err)
	}
	o := &report.Outcomes[0]
	want := []conformance.Figure{{Name: "ADD", Value: 3, Unit: "API requests"}, {Name: "DEL", Value: 1, Unit: "API requests"}}
	if o.Verdict != conformance.Pass || !slices.Equal(o.Figures, want) {
		t.Errorf("%s %s: %v, want %v", o.Verdict, o.Why(), o.Figures, want)
	}
}

// TestVacuous: a clause about something that the target hasn't doesn't pass.
func TestVacuous(t *testing.T) {
	t.Parallel()
	for id, o := range verdicts(t, target(t, "", true),
		"2.4-add-01", "2.4-add-03", "2.4-check-05", "2.4-gc-08", "3.7-cap-01", "4.2-exec-05", "5.1-prev-01", "behaviour-kill-02") {
		if o.Verdict != conformance.NotApplicable || o.Reason == "" {
			t.Errorf("%s: %s, %q", id, o.Verdict, o.Reason)
		}
	}
	chained := verdicts(t, target(t, "", false), "5.1-ipam-01")
	if o := chained["5.1-ipam-01"]; o.Verdict != conformance.NotApplicable {
		t.Errorf("%s: %s", o.Clause.ID, o.Verdict)
	}
}

// TestDisabled: what the conflist forbids isn't called.
func TestDisabled(t *testing.T) {
	t.Parallel()
	one := target(t, "", false)
	one.Conflist = bytes.Replace(one.Conflist, []byte("{"), []byte(`{"disableCheck": true, "disableGC": true, `), 1)
	for id, o := range verdicts(t, one, "2.4-check-*", "2.4-gc-*") {
		if o.Verdict != conformance.NotApplicable || !strings.Contains(o.Reason, "disable") {
			t.Errorf("%s: %s, %q", id, o.Verdict, o.Reason)
		}
	}
}

func TestClauses(t *testing.T) {
	t.Parallel()
	ids := map[string]bool{}
	for _, c := range conformance.Clauses() {
		if ids[c.ID] {
			t.Errorf("there are two clauses %s", c.ID)
		}
		ids[c.ID] = true
		if c.Quote == "" || c.Of == "" || c.Section == "" || c.Level == "" {
			t.Errorf("%s is incomplete: %+v", c.ID, fmt.Sprint(c))
		}
	}
}
