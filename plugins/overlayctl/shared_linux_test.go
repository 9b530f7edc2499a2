package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// operator runs overlayctl on a node, with the node's own configuration.
type operator struct {
	t    *testing.T
	node *cluster.Node
}

// run runs it with a standard input, and returns what it wrote, to both.
func (o *operator) run(stdin string, args ...string) (output string, status int) {
	o.t.Helper()
	self, err := os.Executable()
	if err != nil {
		o.t.Fatal(err)
	}
	cmd := o.node.Command(o.t.Context(), self, append(args, "--config", filepath.Join(o.node.Dir(), "overlayd.yaml"))...)
	cmd.Env, cmd.Stdin = append(os.Environ(), roleVariable+"=overlayctl"), strings.NewReader(stdin)
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.t.Fatal(err)
	}
	if exit != nil {
		status = exit.ExitCode()
	}
	return both.String(), status
}

// want runs it, and checks its exit status and a part of what it wrote.
func (o *operator) want(status int, says, stdin string, args ...string) string {
	o.t.Helper()
	output, got := o.run(stdin, args...)
	if got != status || !strings.Contains(output, says) {
		o.t.Errorf("%v: status %d, want %d and %q\n%s", args, got, status, says, output)
	}
	return output
}

// TestOnAnEtcd: what an operator does with networks, peers and leases of nodes that
// agree in an etcd.
func TestOnAnEtcd(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	etcd := etcdtest.On(t, c.Lab, 1)
	store := map[string]any{"store": map[string]any{"type": "etcd", "endpoints": etcd.Endpoints()}}
	var nodes []*cluster.Node
	for i, name := range []string{"n1", "n2"} {
		n := cluster.Adopt(c, labtest.Node(t, c.Lab, name, string("ab"[i])))
		n.Daemon = store
		if err := n.StartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	o := &operator{t, nodes[0]}
	pod := clustertest.Pod(t, nodes[0], "p")

	o.want(0, "pods     10.244.0.0/16, fd00:10:244::/48  4096  4789  2      0", "", "network", "list")
	o.want(0, "nodes           n1, n2", "", "network", "show", "pods")
	o.want(1, "network pods has leases of nodes: n1, n2", "", "network", "remove", "pods")
	o.want(1, "vni 4096, not 7; these nodes must leave it before it changes: n1, n2",
		"{name: pods, cidrs: [10.244.0.0/16, 'fd00:10:244::/48'], vni: 7}", "network", "apply", "-f", "-")
	o.want(1, `cidrs[0]: "10.244.0.0"`, "{name: other, cidrs: [10.244.0.0]}", "network", "apply", "-f", "-")
	o.want(0, "network spare is as it should be", "{name: spare, cidrs: [10.70.0.0/16], vni: 70}", "network", "apply", "-f", "-")
	o.want(0, "network spare is removed", "", "network", "remove", "spare")
	o.want(1, "network spare", "", "network", "remove", "spare")

	o.want(0, "external peer vm1 is as it should be", documented(t), "peer", "apply", "-f", "-")
	o.want(0, "vm1   pods     192.0.2.50  0e:00:00:00:00:50  10.50.0.0/24, fd00:50::/64", "", "peer", "list")
	o.want(1, "external peer vm2 overlaps cidrs[0] 10.50.0.0/24 of external peer vm1",
		strings.NewReplacer("vm1", "vm2", "192.0.2.50", "192.0.2.51", ":50\n", ":51\n").Replace(documented(t)), "peer", "apply", "-f", "-")
	awaitRoute(t, nodes[1], "10.50.0.0/24 via 10.50.0.0 dev ovx4096", true)
	o.want(0, "external peer vm1 is removed", "", "peer", "remove", "vm1")
	awaitRoute(t, nodes[1], "10.50.0.0/24", false)
	o.want(1, "remove external peer vm1: get peers/vm1: key not found", "", "peer", "remove", "vm1")

	listed := o.want(0, "", "", "lease", "list", "--network", "pods", "--node", "n2")
	if !regexp.MustCompile(`pods +10\.244\.\d+\.0/24 +n2 +172\.30\.2\.\d+, fd00:30:2::\w+ +0e:[0-9a-f:]+ +in 23h\d+m\n`).MatchString(listed) || strings.Contains(listed, "n1") {
		t.Errorf("lease list says\n%s", listed)
	}
	o.want(1, "node n2 may still be running", "", "lease", "release", "--node", "n2")
	if err := nodes[1].PowerOff(); err != nil {
		t.Fatal(err)
	}
	state, err := nodes[0].State()
	if err != nil {
		t.Fatal(err)
	}
	o.want(0, "node n2 has no lease any more", "", "lease", "release", "--node", "n2", "--force")
	o.want(1, "no lease of node n2", "", "lease", "release", "--node", "n2")
	awaitRoute(t, nodes[0], "dev ovx4096 proto 118", false) // the way to n2
	o.want(0, "[]", "", "lease", "list", "--node", "n2", "-o", "json")
	o.want(0, state.Blocks()[0].String(), "", "lease", "list", "-o", "json")
	if err := pod.Check(t.Context()); err != nil {
		t.Error(err)
	}
	o.want(2, "unknown argument", "", "lease", "release", "n2")
	if err := etcd.Members[0].Kill(); err != nil {
		t.Fatal(err)
	}
	o.want(1, etcd.Members[0].IPv4().String(), "", "lease", "list") // who doesn't answer is named
}

// documented is the external peer that the documentation shows.
func documented(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/external-peers.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(apiVersion.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("docs/external-peers.md shows no ExternalPeer")
	}
	return string(block[1])
}

// awaitRoute waits until a node has a route, or hasn't.
func awaitRoute(t *testing.T, n *cluster.Node, route string, there bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := n.Command(ctx, "ip", "route").CombinedOutput()
		if err == nil && strings.Contains(string(out), route) == there {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: route %q: want %t in\n%s", n.Name(), route, there, out)
		}
	}
}
