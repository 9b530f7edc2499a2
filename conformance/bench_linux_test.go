package conformance

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// script makes a plugin of a shell script.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// benchWith makes a bench for plugins that are in a folder.
func benchWith(t *testing.T, dir, plugins string) *bench {
	t.Helper()
	p, err := read(Target{
		Conflist:      []byte(`{"name": "n", "plugins": [` + plugins + `]}`),
		Bin:           []string{dir},
		RuntimeConfig: map[string]json.RawMessage{"mac": json.RawMessage(`"02:00:00:00:00:01"`), "ips": json.RawMessage(`["10.0.0.1"]`)},
		Args:          "A=1",
	})
	if err != nil {
		t.Fatal(err)
	}
	node := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	m, err := newMachine(node, "n1", append(p.bin, os.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return &bench{plan: p, version: "1.1.0", machine: m, dir: t.TempDir()}
}

// TestRequest: a plugin is given what a runtime gives it.
func TestRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "first", "env; cat")
	script(t, dir, "second", "env; cat")
	b := benchWith(t, dir, `{"type": "first", "capabilities": {"mac": true}, "own": 1, "cni.dev/x": 1}, {"type": "second"}`)
	a, err := b.prepare()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		call     call
		has, not []string
	}{
		{call{command: "VERSION"}, []string{"CNI_COMMAND=VERSION", `{"cniVersion":"1.1.0"}`}, []string{"CNI_PATH", "name"}},
		{call{command: "STATUS"}, []string{"CNI_PATH=" + dir, `"name":"n"`, `"own":1`}, []string{"CNI_NETNS", "CNI_CONTAINERID", "runtimeConfig"}},
		{
			call{command: "ADD", at: a},
			[]string{"CNI_NETNS=" + a.container.Path(), "CNI_IFNAME=eth0", "CNI_ARGS=A=1", `"runtimeConfig":{"mac":"02:00:00:00:00:01"}`},
			[]string{"prevResult", "capabilities", "ips", "cni.dev", "OVERLAY"},
		},
		{call{plugin: 1, command: "ADD", at: a, prev: json.RawMessage(`{"ips":[]}`)}, []string{`"prevResult":{"ips":[]}`}, []string{"runtimeConfig"}},
		{
			call{command: "DEL", at: a, unset: []string{"CNI_NETNS"}, conf: fields{"own": nil, "name": "other"}},
			[]string{`"name":"other"`}, []string{"CNI_NETNS", "own"},
		},
	} {
		x := b.do(t.Context(), c.call)
		for _, text := range c.has {
			if !strings.Contains(x.Stdout, text) {
				t.Errorf("%s lacks %s: %s", x.Command, text, x.Stdout)
			}
		}
		for _, text := range c.not {
			if strings.Contains(x.Stdout, text) {
				t.Errorf("%s has %s: %s", x.Command, text, x.Stdout)
			}
		}
	}
}

// TestMachineIsPrivate: plugins see neither the machine's state nor its links,
// and leave nothing with it.
func TestMachineIsPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "one", "ls -A /run /var/lib; touch /run/of-conformance-test; ip -o link")
	b := benchWith(t, dir, `{"type": "one"}`)
	first, second := b.do(t.Context(), call{command: "STATUS"}), b.do(t.Context(), call{command: "STATUS"})
	if strings.Contains(first.Stdout, "dpkg") || !strings.Contains(first.Stdout, "eth0") {
		t.Errorf("it sees %s%s", first.Stdout, first.Stderr)
	}
	if !strings.Contains(second.Stdout, "of-conformance-test") {
		t.Errorf("what it writes is gone: %s", second.Stdout)
	}
	if _, err := os.Stat("/run/of-conformance-test"); err == nil {
		t.Error("it has written to the machine's /run")
	}
}

// TestCleanUp: what was added is deleted by all plugins, the last one first,
// with the result.
func TestCleanUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(t.TempDir(), "log")
	for _, name := range []string{"first", "second"} {
		script(t, dir, name, "in=$(cat); echo "+name+` $CNI_COMMAND $in >> `+log+`; [ $CNI_COMMAND = DEL ] || echo '{"ips": []}'`)
	}
	b := benchWith(t, dir, `{"type": "first"}, {"type": "second"}`)
	if _, err := b.attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.cleanUp(context.WithoutCancel(t.Context()))
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		calls = append(calls, words[0]+" "+words[1])
		if words[1] == "DEL" && !strings.Contains(line, `"prevResult"`) {
			t.Errorf("DEL without prevResult: %s", line)
		}
	}
	if want := []string{"first ADD", "second ADD", "second DEL", "first DEL"}; !slices.Equal(calls, want) {
		t.Errorf("calls %v, want %v", calls, want)
	}
}

// TestCleanUpInterrupted: nobody who has interrupted a run waits for plugins
// that hang.
func TestCleanUpInterrupted(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	script(t, dir, "one", "echo $CNI_COMMAND >>"+log+"; exec sleep 1000")
	b := benchWith(t, dir, `{"type": "one"}`)
	for range 2 {
		if _, err := b.prepare(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.cleanUp(ctx)
	calls, err := os.ReadFile(log)
	if n := strings.Count(string(calls), "DEL"); err != nil || n != 1 {
		t.Errorf("%d plugins were waited for, %v", n, err)
	}
}

// TestFlood: what a plugin prints without end is cut.
func TestFlood(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "one", `echo '{}'; head -c 10000000 /dev/zero | tr '\0' ' '; echo x >&2`)
	b := benchWith(t, dir, `{"type": "one"}`)
	x := b.do(t.Context(), call{command: "STATUS"})
	if len(x.Stdout) > 5_000_000 || !strings.HasSuffix(x.Stdout, "... and 5805699 bytes more") || x.Stderr != "x\n" || x.Status != 0 {
		t.Errorf("%d bytes, status %d, %s", len(x.Stdout), x.Status, x.Stderr)
	}
	if _, err := x.object(); err == nil {
		t.Error("what was cut is taken for a whole object")
	}
}

// TestShim: what is delegated is seen as it was, and fails when it is told to.
func TestShim(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "main", `exec $(echo $CNI_PATH | cut -d: -f1)/sub`)
	script(t, dir, "sub", `cat; exit 0`)
	b := benchWith(t, dir, `{"type": "main", "ipam": {"type": "sub"}}`)
	if err := b.shim(0); err != nil {
		t.Fatal(err)
	}
	x := b.do(t.Context(), call{command: "STATUS", env: map[string]string{"ODD": "two words"}})
	all, err := b.delegations()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].command != "STATUS" || all[0].stdin != x.Stdin || !slices.Contains(all[0].env, "ODD=two words") {
		t.Errorf("%+v of %+v", all, x)
	}
	if x.Stdout != x.Stdin || !strings.Contains(x.Stderr, shimStderr) || x.Status != 0 {
		t.Errorf("%+v", x)
	}
	if err := b.fail("GC", "STATUS"); err != nil {
		t.Fatal(err)
	}
	if x := b.do(t.Context(), call{command: "STATUS"}); x.Status == 0 || x.code() != 50 {
		t.Errorf("told to fail: %+v", x)
	}
	if x := b.do(t.Context(), call{command: "DEL"}); x.Status != 0 {
		t.Errorf("not told to fail: %+v", x)
	}
}

// TestOutcome: a clause holds when it does in all versions that it applies to.
func TestOutcome(t *testing.T) {
	t.Parallel()
	violation, none := (&Exchange{}).violated("wrong"), nothing("no reason")
	for _, c := range []struct {
		errs []error
		want Verdict
	}{
		{nil, NotApplicable},
		{[]error{none, none}, NotApplicable},
		{[]error{none, nil}, Pass},
		{[]error{nil, none}, Pass},
		{[]error{nil, violation}, Fail},
		{[]error{violation, nil, none}, Fail},
	} {
		o := Outcome{Verdict: NotApplicable}
		for _, err := range c.errs {
			if err := o.add("1.1.0", err); err != nil {
				t.Error(err)
			}
		}
		if o.Verdict != c.want {
			t.Errorf("%v: %s, want %s", c.errs, o.Verdict, c.want)
		}
	}
	if err := (&Outcome{}).add("1.1.0", os.ErrPermission); err == nil {
		t.Error("an error that isn't about the plugin became a verdict")
	}
}
