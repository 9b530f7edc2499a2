package daemon_test

// Two clusters on one underlay, whose networks have the same VNI, port and CIDRs.

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
)

// twoClusters share an underlay, and nothing else; store is the second one's.
func twoClusters(t *testing.T) (first, second *cluster.Cluster, store string) {
	t.Helper()
	first = clustertest.New(t, cluster.Options{})
	dir := t.TempDir()
	return first, cluster.New(first.Lab, dir, cluster.Options{Bin: clustertest.Bin(t)}), filepath.Join(dir, "store")
}

// strangersTold are the lines of a node's log about strangers.
func strangersTold(n *cluster.Node) (told []string) {
	for line := range strings.Lines(n.Log()) {
		if strings.Contains(line, "VXLAN packets of VNI") {
			told = append(told, line)
		}
	}
	return told
}

func TestTwoClustersOnOneUnderlay(t *testing.T) {
	t.Parallel()
	first, second, _ := twoClusters(t)
	nodes := []*cluster.Node{
		clustertest.Node(t, first, "a1", "a"), clustertest.Node(t, second, "b1", "a"),
		clustertest.Node(t, first, "a2", "b"), clustertest.Node(t, second, "b2", "b"),
	}
	var pods []*cluster.Pod
	for _, n := range nodes {
		pods = append(pods, served(t, n, "p"))
	}
	for i := range pods[:2] {
		meet(t, pods[i], pods[i+2])
		meet(t, pods[i+2], pods[i])
	}
	for _, n := range nodes {
		if told := strangersTold(n); len(told) > 0 {
			t.Errorf("%s tells of strangers: %q", n.Name(), told)
		}
	}
}

// TestNodeChangesClusters: the nodes that it left still send to it, as long as they
// know no better. It drops that, and says so once.
func TestNodeChangesClusters(t *testing.T) {
	t.Parallel()
	first, second, store := twoClusters(t)
	stays, moves := clustertest.Node(t, first, "n1", "a"), clustertest.Node(t, first, "n2", "b")
	p1, p2 := served(t, stays, "p1"), served(t, moves, "p2")
	meet(t, p1, p2)
	meet(t, p2, p1)
	if err := moves.StopDaemon(); err != nil {
		t.Fatal(err)
	}
	moves.Daemon = map[string]any{"store": map[string]any{"type": "local", "path": store}}
	if err := moves.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := p1.Ping(ctx, p2.Addresses()[0]); err == nil {
		t.Error("it still answers the cluster that it left")
	}
	want := fmt.Sprintf("VXLAN packets of VNI 4096 come from %s, which is no node of network pods: does another cluster use the same VNI and port?", stays.IPv4())
	met := clustertest.Node(t, second, "n3", "a") // whose coming wakes the one that moved
	await(t, func() bool { return len(strangersTold(moves)) > 0 })
	p3 := served(t, met, "p3")
	meet(t, p2, p3)
	meet(t, p3, served(t, moves, "p4"))
	meet(t, p2, served(t, clustertest.Node(t, second, "n4", "b"), "p5"))
	if told := strangersTold(moves); len(told) != 1 || !strings.Contains(told[0], want) {
		t.Errorf("it told %q, want once %q", told, want)
	}
	for _, n := range []*cluster.Node{stays, met} {
		if told := strangersTold(n); len(told) > 0 {
			t.Errorf("%s tells of strangers: %q", n.Name(), told)
		}
	}
}
