package cni_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// These tests execute the real binary as a runtime would: environment, standard
// input, and what comes back.

// bench is a node without a daemon, and a pod's namespace on it.
type bench struct {
	tb   testing.TB
	node *lab.Node
	pod  *lab.Pod
	path []string
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	l := labtest.New(tb, lab.Topology{})
	node := labtest.Node(tb, l, "n1", "a")
	return &bench{tb: tb, node: node, pod: labtest.Pod(tb, node, "p1"), path: []string{clustertest.Bin(tb), clustertest.Peers(tb)}}
}

// conf is a network configuration of overlay-vxlan without a daemon, with
// fields replaced; nil removes one.
func (b *bench) conf(replace map[string]any) map[string]any {
	c := map[string]any{
		"cniVersion": "1.1.0", "name": "pods", "type": "overlay-vxlan", "node": "n1", "daemon": false,
		"network": map[string]any{"cidrs": []string{"10.244.0.0/16", "fd00:10:244::/48"}},
		"runDir":  filepath.Join(b.node.Dir(), "run"), "dataDir": filepath.Join(b.node.Dir(), "lib"),
	}
	for name, value := range replace {
		c[name] = value
		if value == nil {
			delete(c, name)
		}
	}
	return c
}

// answer is what a plugin gave back.
type answer struct {
	stdout, stderr string
	status         int
	result         map[string]any
	err            types.Error
}

// run executes the configuration's plugin with a verb, for the pod unless the
// environment says otherwise.
func (b *bench) run(verb string, conf map[string]any, env ...string) answer {
	b.tb.Helper()
	stdin, err := json.Marshal(conf)
	if err != nil {
		b.tb.Fatal(err)
	}
	return b.runRaw(verb, conf["type"].(string), stdin, env...)
}

// runAs runs the plugin of the node's configuration as another user.
func (b *bench) runAs(plugin, verb string, who *syscall.Credential) answer {
	b.tb.Helper()
	stdin, err := json.Marshal(b.conf(nil))
	if err != nil {
		b.tb.Fatal(err)
	}
	cmd := b.node.Command(b.tb.Context(), b.find(plugin))
	cmd.SysProcAttr.Credential = who
	return b.finish(cmd, verb, stdin)
}

func (b *bench) runRaw(verb, plugin string, stdin []byte, env ...string) answer {
	b.tb.Helper()
	return b.finish(b.node.Command(b.tb.Context(), b.find(plugin)), verb, stdin, env...)
}

func (b *bench) finish(cmd *lab.Command, verb string, stdin []byte, env ...string) answer {
	b.tb.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Env = append([]string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + b.pod.ContainerID(), "CNI_IFNAME=eth0",
		"CNI_NETNS=" + b.pod.Path(), "CNI_PATH=" + strings.Join(b.path, ":"), "PATH=" + os.Getenv("PATH"),
	}, env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	_ = cmd.Run()
	a := answer{stdout: stdout.String(), stderr: stderr.String(), status: cmd.ProcessState.ExitCode()}
	if a.stdout != "" {
		into := any(&a.result)
		if a.status != 0 {
			into = &a.err
		}
		if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
			b.tb.Fatalf("%s: standard output isn't one JSON object: %v\n%s", verb, err, a.stdout)
		}
	}
	return a
}

func (b *bench) find(plugin string) string {
	for _, dir := range b.path {
		if file := filepath.Join(dir, plugin); fileExists(file) {
			return file
		}
	}
	b.tb.Fatalf("no plugin %q in %v", plugin, b.path)
	return ""
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// ok runs a verb that must succeed.
func (b *bench) ok(verb string, conf map[string]any, env ...string) answer {
	b.tb.Helper()
	a := b.run(verb, conf, env...)
	if a.status != 0 {
		b.tb.Fatalf("%s failed: %s%s", verb, a.stdout, a.stderr)
	}
	return a
}

// fails runs a verb that must fail with a code and a message that contains all
// of the texts.
func (b *bench) fails(code uint, verb string, conf map[string]any, texts []string, env ...string) {
	b.tb.Helper()
	a := b.run(verb, conf, env...)
	a.check(b.tb, verb, code, texts...)
}

func (a *answer) check(tb testing.TB, verb string, code uint, texts ...string) {
	tb.Helper()
	if a.status == 0 || a.err.Code != code {
		tb.Errorf("%s: exit status %d, code %d (%s), want code %d", verb, a.status, a.err.Code, a.stdout, code)
	}
	for _, text := range texts {
		if !strings.Contains(a.err.Msg, text) {
			tb.Errorf("%s: message %q doesn't contain %q", verb, a.err.Msg, text)
		}
	}
}

// with returns a configuration with the result of ADD as prevResult.
func with(conf, result map[string]any) map[string]any {
	c := maps.Clone(conf)
	c["prevResult"] = result
	return c
}

// ips returns the addresses of a result.
func ips(result map[string]any) []string {
	var found []string
	list, _ := result["ips"].([]any)
	for _, ip := range list {
		found = append(found, ip.(map[string]any)["address"].(string))
	}
	return found
}

// leftovers lists what the node has of pods: links, routes, neighbours.
func (b *bench) leftovers() []string {
	b.tb.Helper()
	snapshot, err := b.node.Snapshot()
	if err != nil {
		b.tb.Fatal(err)
	}
	return slices.DeleteFunc(snapshot, func(line string) bool { return !strings.Contains(line, "ovp") })
}

// inPod runs a command in the pod's namespace.
func (b *bench) inPod(name string, args ...string) string {
	b.tb.Helper()
	return runIn(b.tb, b.pod.Host, name, args...)
}

func runIn(tb testing.TB, h *lab.Host, name string, args ...string) string {
	tb.Helper()
	out, err := h.Command(tb.Context(), name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func sprint(v any) string { return fmt.Sprint(v) }

func removeAll(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatal(err)
	}
}

// held lists the addresses that the ledger of the network "pods" has given.
func (b *bench) held() []ipam.Allocation {
	b.tb.Helper()
	l, err := ipam.OpenLedger(filepath.Join(b.node.Dir(), "lib", "ipam", "pods.ledger"), ipam.Options{})
	if err != nil {
		b.tb.Fatal(err)
	}
	defer l.Close()
	all, err := l.All(b.tb.Context())
	if err != nil {
		b.tb.Fatal(err)
	}
	return all
}

func writeScript(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		tb.Fatal(err)
	}
}

func readFile(tb testing.TB, name string) string {
	tb.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}
