package daemon_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// apply writes a network into the store, as an operator does.
func apply(t *testing.T, c *cluster.Cluster, n lease.Network) {
	t.Helper()
	n = n.Complete()
	if err := c.Operate(func(r *lease.Registry) error { return r.ApplyNetwork(t.Context(), &n) }); err != nil {
		t.Fatal(err)
	}
}

// state of a network on a node; nil: it has none.
func state(n *cluster.Node, network string) *nodestate.State {
	s, err := nodestate.Read(n.RunDir(), network)
	if err != nil {
		return nil
	}
	return s
}

// TestNetworksOfTheStore: a daemon that is configured with none serves those of
// the store, as they come, change and go.
func TestNetworksOfTheStore(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"networks": nil}})
	pods := lease.Network{Name: "pods", CIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48")}
	apply(t, c, pods)
	n1, n2 := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	meet(t, p1, p2)

	blue := lease.Network{Name: "blue", CIDRs: prefixes("10.9.0.0/16"), VNI: 9}
	apply(t, c, blue)
	await(t, func() bool { return state(n1, "blue") != nil && state(n2, "blue") != nil })
	apply(t, c, lease.Network{Name: "blue", CIDRs: blue.CIDRs, VNI: 9, MTU: 1300})
	await(t, func() bool { s := state(n1, "blue"); return s != nil && s.VTEP.MTU == 1300 })

	if err := c.Operate(func(r *lease.Registry) error { return r.RemoveNetwork(t.Context(), "blue", true) }); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return state(n1, "blue") == nil && state(n2, "blue") == nil })
	if left := strings.Join(snapshot(t, n1), "\n"); strings.Contains(left, "ovx9") || strings.Contains(left, "10.9.") {
		t.Errorf("of the removed network is left:\n%s", left)
	}
	meet(t, p1, p2)
	if err := c.Operate(func(r *lease.Registry) error { _, err := r.Network(t.Context(), "pods"); return err }); err != nil {
		t.Errorf("the network that stays: %v", err)
	}
}

// TestBadNetworkOfTheStore: what somebody wrote by hand is told by its name, and
// the other networks go on.
func TestBadNetworkOfTheStore(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{Daemon: map[string]any{"networks": nil}})
	apply(t, c, lease.Network{Name: "pods", CIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48")})
	n1 := clustertest.Node(t, c, "n1", "a")
	for name, value := range map[string]string{
		"broken": `{"cidrs": ["10.1.0.0/33"]}`, "inside": `{"cidrs": ["10.244.128.0/20"], "vni": 5}`, "twin": `{"cidrs": ["10.5.0.0/16"]}`,
	} {
		if err := c.Operate(func(r *lease.Registry) error {
			_, err := r.Store.Create(t.Context(), "networks/"+name, []byte(value))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{
		"decode networks/broken", "network inside overlaps cidrs[0] 10.244.0.0/16 of network pods", "network twin has the VNI of network pods",
	} {
		await(t, func() bool { return strings.Contains(n1.Log(), text) })
	}
	meet(t, served(t, n1, "p1"), served(t, n1, "p2"))
	if files, err := filepath.Glob(filepath.Join(n1.RunDir(), "*.json")); err != nil || len(files) != 1 {
		t.Errorf("the node has states %v (%v), want that of pods alone", files, err)
	}
	if _, err := os.Stat(nodestate.Path(n1.RunDir(), "pods")); err != nil {
		t.Error(err)
	}
}

func prefixes(all ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, text := range all {
		ps = append(ps, netip.MustParsePrefix(text))
	}
	return ps
}
