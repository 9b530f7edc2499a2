package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
)

const roleVariable = "OVERLAYCTL_TEST_ROLE"

// TestMain lets the test binary be overlayctl itself.
func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "overlayctl" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// overlayctl runs it on a node, and returns its output and exit status.
func overlayctl(t *testing.T, n *cluster.Node, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return overlayctlIn(t, n.Host, n, args...)
}

// overlayctlIn runs it in the network namespace of some host.
func overlayctlIn(t *testing.T, h *lab.Host, n *cluster.Node, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), self, append(args, "--run-dir", n.RunDir(), "--data-dir", n.DataDir())...)
	var out, errs bytes.Buffer
	cmd.Env = append(os.Environ(), roleVariable+"=overlayctl")
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		status = exit.ExitCode()
	}
	return out.String(), errs.String(), status
}

// TestOnANode: pods of the real plugin, a ledger that leaks, is corrupted and
// lost, and the way back each time.
func TestOnANode(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{NoDaemon: true})
	n := clustertest.Node(t, c, "a", "a")
	want := func(status int, says string, args ...string) string {
		t.Helper()
		stdout, stderr, got := overlayctl(t, n, args...)
		if got != status || !strings.Contains(stdout+stderr, says) {
			t.Fatalf("%v: status %d, want %d and %q\n%s%s", args, got, status, says, stdout, stderr)
		}
		return stdout
	}
	want(1, "no state of any network", "ipam", "audit")
	pods := []*cluster.Pod{clustertest.Pod(t, n, "web"), clustertest.Pod(t, n, "db")}
	all := want(0, "network pods on node a", "ipam", "show")
	for _, p := range pods {
		for _, a := range p.Addresses() {
			if !strings.Contains(all, a.String()+" ") {
				t.Errorf("%s isn't shown:\n%s", a, all)
			}
		}
	}
	want(2, "unknown argument", "ipam", "show", "--network", "pods", "also")
	if stdout := want(0, "", "ipam", "audit"); stdout != "" {
		t.Errorf("the audit says %s", stdout)
	}
	for _, verb := range []string{"audit", "rebuild"} { // where no interface of the node is to be seen
		stdout, stderr, status := overlayctlIn(t, pods[0].Host, n, "ipam", verb)
		if status != 1 || !strings.Contains(stderr, "isn't the node's network namespace") {
			t.Errorf("%s in a pod: status %d\n%s%s", verb, status, stdout, stderr)
		}
	}
	want(0, "", "ipam", "audit")
	// The interface goes without a DEL, and with it the node's end of it.
	if err := pods[1].Command(t.Context(), "ip", "link", "delete", "eth0").Run(); err != nil {
		t.Fatal(err)
	}
	leaked := want(1, "ledger and node differ in network pods", "ipam", "audit")
	for _, a := range pods[1].Addresses() {
		if !strings.Contains(leaked, "pods: leaked "+a.String()+" of container "+pods[1].ContainerID()) {
			t.Errorf("the audit doesn't say that %s leaked:\n%s", a, leaked)
		}
	}
	if err := pods[1].Del(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"corrupt": func() error { return os.WriteFile(n.LedgerPath(), bytes.Repeat([]byte("?"), 9000), 0o600) },
		"lost":    func() error { return os.Remove(n.LedgerPath()) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		want(1, map[string]string{"corrupt": "ipam rebuild --network pods", "lost": "orphaned"}[name], "ipam", "audit")
		want(0, "is rebuilt: 2 addresses of live interfaces", "ipam", "rebuild", "--network", "pods")
		want(0, "", "ipam", "audit", "--network", "pods")
		if err := pods[0].Check(t.Context()); err != nil {
			t.Errorf("%s and rebuilt: %v", name, err)
		}
	}
	next := clustertest.Pod(t, n, "next")
	for _, a := range next.Addresses() {
		if slices.Contains(pods[0].Addresses(), a) {
			t.Errorf("%s is given twice", a)
		}
	}
}
