package cni_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// on is a bench on a node of a cluster.
func on(t *testing.T, n *cluster.Node) *bench {
	t.Helper()
	return &bench{
		tb: t, node: n.Node, pod: labtest.Pod(t, n.Node, "p1"), path: []string{clustertest.Bin(t), clustertest.Peers(t)},
	}
}

// networkConf is a configuration of another main plugin for the cluster's network.
func networkConf(plugin string, n *cluster.Node) map[string]any {
	return map[string]any{
		"cniVersion": "1.1.0", "name": cluster.Network, "type": plugin, "mtu": 1400,
		"ipam": map[string]any{"type": "overlay-ipam", "network": cluster.Network, "runDir": n.RunDir(), "dataDir": n.DataDir()},
	}
}

// TestNetworkUnderPtp: pods that upstream's ptp makes on two nodes reach each
// other, and pods of overlay-vxlan, over the overlay network; and they don't get
// the addresses of these.
func TestNetworkUnderPtp(t *testing.T) {
	t.Parallel()
	c := clustertest.NewOn(t, lab.Topology{}, cluster.Options{})
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	own := clustertest.Pod(t, n2, "own")
	b1, b2 := on(t, n1), on(t, n2)
	r1, r2 := b1.ok("ADD", networkConf("ptp", n1)).result, b2.ok("ADD", networkConf("ptp", n2)).result
	targets := targetsOf(r2)
	for _, a := range own.Addresses() {
		if slices.Contains(targets, a.String()) {
			t.Errorf("%s was given twice", a)
		}
		targets = append(targets, a.String())
	}
	if len(targets) != 4 {
		t.Fatalf("addresses are %v", targets)
	}
	for _, target := range targets {
		b1.inPod("ping", "-c1", "-W5", target)
	}
	b1.ok("CHECK", with(networkConf("ptp", n1), r1))
	b2.ok("CHECK", with(networkConf("ptp", n2), r2))
	b1.ok("STATUS", networkConf("ptp", n1))
	state, err := n1.State()
	if err != nil {
		t.Fatal(err)
	}
	first := r1["ips"].([]any)[0].(map[string]any)
	if block := state.Blocks()[0]; first["gateway"] != block.Addr().String() || !strings.HasSuffix(ips(r1)[0], fmt.Sprintf("/%d", block.Bits())) {
		t.Errorf("of block %s came %v", block, first)
	}
	b1.ok("DEL", networkConf("ptp", n1))
	b1.ok("DEL", networkConf("ptp", n1))
	b1.fails(102, "CHECK", with(networkConf("overlay-ipam", n1), r1), []string{targetsOf(r1)[0]})
	// GC knows the attachments of both plugins, which are of one CNI network.
	gc := networkConf("overlay-ipam", n2)
	gc["cni.dev/valid-attachments"] = []any{}
	b2.ok("GC", gc)
	if held := heldBy(t, n2); !slices.Equal(held, []string{own.ContainerID(), own.ContainerID()}) {
		t.Errorf("after GC addresses are held by %v", held)
	}
}

func targetsOf(r map[string]any) []string {
	var all []string
	for _, ip := range ips(r) {
		address, _, _ := strings.Cut(ip, "/")
		all = append(all, address)
	}
	return all
}

// heldBy lists the containers of a node's ledger, once for each address.
func heldBy(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	var all []string
	for _, a := range heldIn(t, n.LedgerPath()) {
		all = append(all, a.ContainerID)
	}
	return all
}

// TestNetworkNotReady: without the daemon's word nothing is given.
func TestNetworkNotReady(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conf := map[string]any{"cniVersion": "1.1.0", "name": "pods", "type": "overlay-ipam", "ipam": map[string]any{
		"type": "overlay-ipam", "network": "pods",
		"runDir": filepath.Join(b.node.Dir(), "run"), "dataDir": filepath.Join(b.node.Dir(), "lib"),
	}}
	b.fails(11, "ADD", conf, []string{"pods", "overlayd"})
	b.fails(50, "STATUS", conf, []string{"pods"})
	b.ok("DEL", conf)
	conf["name"] = "other"
	b.fails(7, "ADD", conf, []string{"ipam.network", "pods", "other"})
	conf["name"] = "pods"
	conf["ipam"].(map[string]any)["subnet"] = "10.0.0.0/24"
	b.fails(7, "ADD", conf, []string{"ipam.subnet", "10.0.0.0/24"})
}

// TestNetworkExpired: a lease that wasn't renewed gives no more addresses.
func TestNetworkExpired(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("STATUS", b.conf(nil)) // brings the node up
	run := filepath.Join(b.node.Dir(), "run")
	conf := map[string]any{"cniVersion": "1.1.0", "name": "pods", "type": "overlay-ipam", "ipam": map[string]any{
		"type": "overlay-ipam", "network": "pods", "runDir": run, "dataDir": filepath.Join(b.node.Dir(), "lib"),
		"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
	}}
	r := b.ok("ADD", conf).result
	if got := sprint(r["routes"]); got != "[map[dst:0.0.0.0/0] map[dst:10.244.0.0/16] map[dst:fd00:10:244::/48]]" {
		t.Errorf("routes: %s", got)
	}
	b.ok("CHECK", with(conf, r))
	expire(t, run, "pods")
	b.fails(11, "ADD", conf, []string{"expired"}, "CNI_IFNAME=net1")
	b.fails(50, "STATUS", conf, []string{"expired"})
	b.ok("CHECK", with(conf, r))
	b.ok("DEL", conf)
	if held := b.held(); len(held) > 0 {
		t.Errorf("still held: %v", held)
	}
}

// expire ends a node's lease.
func expire(t *testing.T, dir, network string) {
	t.Helper()
	s, err := nodestate.Read(dir, network)
	if err != nil {
		t.Fatal(err)
	}
	s.Expires = time.Now().Add(-time.Second)
	if err := nodestate.Write(dir, s); err != nil {
		t.Fatal(err)
	}
}

// heldIn lists what a ledger says is held.
func heldIn(t *testing.T, path string) []ipam.Allocation {
	t.Helper()
	l, err := ipam.OpenLedger(path, ipam.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, err := l.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}
