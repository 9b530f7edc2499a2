package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ctl"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

func TestRun(t *testing.T) {
	t.Parallel()
	empty := "--run-dir=" + t.TempDir()
	config := " --config " + writeConfig(t)
	for name, test := range map[string]struct {
		args  string
		err   error  // nil: it did what it should
		says  string // what the error or else the output says
		never string
	}{
		"nothing":            {"", errUsage, "no command", ""},
		"unknown":            {"ipan show", errUsage, `unknown command "ipan show": there is ipam show, ipam audit, ipam rebuild, network list,`, ""},
		"half":               {"ipam", errUsage, `unknown command "ipam": there is ipam show, ipam audit, ipam rebuild, ipam claims, ipam release; see overlayctl help`, ""},
		"half with a flag":   {"ipam --network pods", errUsage, `unknown command "ipam": there is ipam show, ipam audit, ipam rebuild, ipam claims, ipam release; see`, ""},
		"half, help":         {"help ipam", errUsage, `unknown command "ipam": there is ipam show, ipam audit, ipam rebuild, ipam claims, ipam release; see`, ""},
		"other half":         {"lab", errUsage, `unknown command "lab": there is lab demo; see`, ""},
		"only a flag":        {"--network pods", errUsage, `unknown command "--network pods": there is ipam show`, ""},
		"unknown half":       {"ipam shew --network pods", errUsage, `unknown command "ipam shew": there is ipam show, ipam audit, ipam rebuild, ipam claims, ipam release; see`, ""},
		"argument":           {"ipam show pods", errUsage, `ipam show: unknown argument "pods"`, ""},
		"argument, version":  {"--version now", errUsage, `version: unknown argument "now"`, ""},
		"unknown flag":       {"ipam audit --all", errUsage, "ipam audit: flag provided but not defined: -all", ""},
		"flag of another":    {"ipam rebuild -o json", errUsage, "not defined: -o", ""},
		"format":             {"ipam show -o xml", errUsage, `"xml" must be table or json`, ""},
		"help":               {"help", nil, "ipam rebuild  ", ""},
		"-h":                 {"-h", nil, "ipam rebuild  ", ""},
		"--help":             {"--help", nil, "ipam rebuild  ", ""},
		"help of a command":  {"help ipam show", nil, "(default \"/run/overlay-cni\")", "rebuild"},
		"command's own help": {"ipam audit -h", nil, "(default \"/var/lib/overlay-cni\")", "rebuild"},
		"help of unknown":    {"help me", errUsage, `unknown command "me`, ""},
		"version":            {"version", nil, "overlayctl ", ""},
		"--version":          {"--version", nil, "overlayctl ", ""},
		"help of an operand": {"help network show", nil, "usage: overlayctl network show NAME [FLAGS]", ""},
		"no operand":         {"peer remove", errUsage, "peer remove: NAME is missing", ""},
		"two operands":       {"network show a b", errUsage, `network show: unknown argument "b"`, ""},
		"operand before":     {"network show pods -o json" + config, store.ErrNotFound, "network pods: ", ""},
		"operand after":      {"network show -o json" + config + " pods", store.ErrNotFound, "network pods: ", ""},
		"operand of others":  {"lease list pods", errUsage, `lease list: unknown argument "pods"`, ""},
		"apply nothing":      {"network apply", errUsage, "-f is missing", ""},
		"apply no file":      {"peer apply -f /no/such/file" + config, fs.ErrNotExist, "/no/such/file", ""},
		"release nobody":     {"lease release" + config, errUsage, "lease release: --node is missing", ""},
		"release unknown":    {"lease release --node a" + config, ctl.ErrNoLease, "no lease of node a", ""},
		"claims of nothing":  {"ipam claims", errUsage, "--network is missing", ""},
		"free for nobody":    {"ipam release --network lan" + config, errUsage, "ipam release: --node is missing", ""},
		"no configuration":   {"network list --config /no/such/file", fs.ErrNotExist, "read configuration: open /no/such/file", ""},
		"where it is":        {"help network list", nil, `(default "/etc/overlay-cni/overlayd.yaml")`, ""},
		"networks":           {"network list" + config, nil, "NETWORK  CIDRS", ""},
		"peers":              {"peer list -o json" + config, nil, "[]", ""},
		"leases":             {"lease list" + config, nil, "NETWORK  BLOCK", ""},
		"claims":             {"ipam claims --network lan" + config, nil, "ADDRESS  NODE", ""},
		"show":               {"ipam show " + empty, nodestate.ErrNotReady, "no state of any network", ""},
		"audit":              {"ipam audit -o json " + empty, nodestate.ErrNotReady, "no state of any network", ""},
		"rebuild":            {"ipam rebuild --network pods " + empty, nodestate.ErrNotReady, "network pods", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			err := run(t.Context(), strings.Fields(test.args), &out)
			if !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			said := out.String()
			if err != nil {
				said = err.Error()
			}
			if !strings.Contains(said, test.says) || test.never != "" && strings.Contains(said, test.never) {
				t.Errorf("it says\n%s\nwant %q", said, test.says)
			}
		})
	}
}

// writeConfig writes a configuration of overlayd with a store of its own.
func writeConfig(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "overlayd.yaml")
	if err := os.WriteFile(path, []byte("networks: [{name: pods, cidrs: [10.244.0.0/16]}]\nstore: {path: "+dir+"/store}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCommandsAreListed: the overview has each command, and each explains itself.
func TestCommandsAreListed(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	if err := run(t.Context(), []string{"help"}, &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		var one strings.Builder
		err := run(t.Context(), append([]string{"help"}, strings.Fields(c.name)...), &one)
		if err != nil || !strings.Contains(one.String(), c.about) || !strings.Contains(all.String(), c.about) {
			t.Errorf("%s: %v\n%s", c.name, err, one.String())
		}
	}
}
