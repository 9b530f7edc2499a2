package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plugin answers VERSION as it should, and ADD without having done anything.
const plugin = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}';;
ADD) echo '{"cniVersion": "1.1.0", "ips": []}';;
esac
`

// arguments of a run with the plugin, and the folder they are about.
func arguments(t *testing.T, more ...string) (args []string, dir string) {
	t.Helper()
	dir = t.TempDir()
	conflist := filepath.Join(dir, "10.conflist")
	for name, text := range map[string]string{conflist: `{"name": "n", "plugins": [{"type": "sloppy"}]}`, filepath.Join(dir, "sloppy"): plugin} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return append([]string{"run", "--conflist", conflist, "--bin", dir}, more...), dir
}

func TestStatus(t *testing.T) {
	t.Parallel()
	run := func(more ...string) []string { args, _ := arguments(t, more...); return args }
	for _, c := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"nothing", nil, wrongUsage, "Exit status"},
		{"no such command", []string{"check"}, wrongUsage, `"check"`},
		{"no conflist", []string{"run", "--bin", "/"}, wrongUsage, "--conflist"},
		{"no folder", []string{"run", "--conflist", "x", "--bin", ""}, wrongUsage, "--bin"},
		{"no such conflist", []string{"run", "--conflist", "/no/such", "--bin", "/"}, wrongUsage, "/no/such"},
		{"unknown flag", run("--fast"), wrongUsage, "-fast"},
		{"no such clause", run("--clause", "9-*"), wrongUsage, "9-*"},
		{"not JSON", run("--runtime-config", "{"), wrongUsage, "--runtime-config"},
		{"no such plugin", append(run(), "--bin", "/"), wrongUsage, "sloppy"},
		{"API server without URL", run("--api", "10.0.0.1:6443"), wrongUsage, "URL of the API server"},
		{"not a time", run("--convergence", "soon"), wrongUsage, "-convergence"},
		{"one node", run("--clause", "network-pod-05"), allHold, "several nodes"},
		{"nodes", run("--clause", "network-pod-05", "--nodes"), broken, "no address of the pod"},
		{"nodes without daemon", run("--clause", "network-daemon-01", "--nodes"), allHold, "has no daemon"},
		{"daemon", run("--clause", "network-daemon-01", "--nodes", "--daemon", "exec sleep 60", "--convergence", "9s"), allHold, "network-daemon-01 fail"},
		{"help", []string{"help"}, allHold, "Exit status"},
		{"list", []string{"list"}, allHold, "2.4-add-03"},
		{"list unchecked", []string{"list", "--unchecked"}, allHold, "of the runtime"},
		{"MUST holds", run("--clause", "2.4-version-*", "--clause", "5.2-version-0[12]"), allHold, "MUST 2 pass, 0 fail"},
		{"MUST broken", run("--clause", "2.2-env-02"), broken, "sent to sloppy: CNI_COMMAND=ADD"},
		{"SHOULD broken", run("--clause", "2.4-add-01"), allHold, "SHOULD 0 pass, 1 fail"},
		{"SHOULD broken, strict", run("--clause", "2.4-add-01", "--strict"), broken, "SHOULD 0 pass, 1 fail"},
		{"time limit", run("--clause", "behaviour-limit-01", "--time-limit", "1ns"), allHold, "behaviour-limit-01 fail"},
		{"progress", run("--clause", "2.4-add-01"), allHold, "[1/1] 2.4-add-01 fail"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if status := execute(t.Context(), c.args, &out, &out); status != c.status || !strings.Contains(out.String(), c.says) {
				t.Errorf("status %d, want %d with %q:\n%s", status, c.status, c.says, out.String())
			}
		})
	}
}

// TestFiles: the report for programs has what the table has.
func TestFiles(t *testing.T) {
	t.Parallel()
	args, dir := arguments(t, "--clause", "2.*")
	jsonFile, junitFile := filepath.Join(dir, "report.json"), filepath.Join(dir, "report.xml")
	var out bytes.Buffer
	if status := execute(t.Context(), append(args, "--json", jsonFile, "--junit", junitFile), &out, &out); status != broken {
		t.Fatalf("status %d:\n%s", status, out.String())
	}
	var report struct {
		MustsHold bool
		Clauses   []struct {
			ID, Level, Quote, Verdict, Reason string
			Failures                          []struct{ Exchange struct{ Command string } }
		}
	}
	var suites junit
	read(t, jsonFile, &report, json.Unmarshal)
	read(t, junitFile, &suites, xml.Unmarshal)
	if report.MustsHold || len(report.Clauses) < 30 || len(suites.Suites) != 1 || suites.Suites[0].Tests != len(report.Clauses) {
		t.Fatalf("%+v\n%+v", report, suites)
	}
	for i, c := range report.Clauses {
		in := suites.Suites[0].Cases[i]
		if c.ID != in.Name || (in.Failure != nil) != (c.Verdict == "fail" && c.Level == "MUST") || (in.Skipped != nil) != (c.Verdict != "pass" && in.Failure == nil) {
			t.Errorf("%+v\n%+v", c, in)
		}
		if c.Quote == "" || c.Verdict == "not applicable" && c.Reason == "" || c.Verdict == "fail" && len(c.Failures) == 0 {
			t.Errorf("%+v", c)
		}
	}
}

type junit struct {
	Suites []struct {
		Tests int `xml:"tests,attr"`
		Cases []struct {
			Name    string    `xml:"name,attr"`
			Failure *struct{} `xml:"failure"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func read(t *testing.T, name string, into any, decode func([]byte, any) error) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err == nil {
		err = decode(raw, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}
