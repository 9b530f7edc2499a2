package conformance_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/conformance"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
)

// A wrongNetwork is an overlay that does something wrong, and what comes of it.
type wrongNetwork struct {
	daemon string // of testdata/overlay.sh, what it does wrong
	plugin string // of testdata/bridged.sh
	conf   object // of the plugin, instead of what is right
	v4, v6 string // subnets of pods, instead of those that are right

	fails []string
	// passes are clauses that it isn't about, as near as can be to those that
	// fail: it is found by what it does wrong and by nothing else.
	passes []string
}

// network is an overlay of three nodes made of upstream's bridge and host-local,
// with what another does wrong.
func network(t *testing.T, wrong *wrongNetwork) conformance.Target {
	t.Helper()
	dir := t.TempDir()
	name := "bridged"
	if wrong.plugin != "" {
		name += "-" + wrong.plugin
	}
	bridged, err := filepath.Abs("testdata/bridged.sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bridged, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	overlay, err := filepath.Abs("testdata/overlay.sh")
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := "10.1.${INDEX}.0/24", "fd00:10:1:${INDEX}::/64"
	if wrong.v4 != "" {
		v4, v6 = wrong.v4, wrong.v6
	}
	plugin := object{
		"type": name, "bridge": "cni0", "isGateway": true, "mtu": 1350, "capabilities": object{"ips": true},
		"ipam": object{
			"type":   "host-local",
			"ranges": []any{[]any{object{"subnet": v4}}, []any{object{"subnet": v6}}},
			"routes": []any{object{"dst": "0.0.0.0/0"}, object{"dst": "::/0"}},
		},
	}
	maps.Copy(plugin, wrong.conf)
	conflist, err := json.Marshal(object{"cniVersion": "1.0.0", "name": "pods", "plugins": []any{plugin}})
	if err != nil {
		t.Fatal(err)
	}
	peers, err := filepath.Abs(clustertest.Peers(t))
	if err != nil {
		t.Fatal(err)
	}
	return conformance.Target{
		Conflist: conflist, Bin: []string{dir, peers}, Joins: true,
		Daemon: fmt.Sprintf("exec sh %s %s", overlay, wrong.daemon),
	}
}

// wrongNetworks are overlays that do one thing wrong, by what it is.
func wrongNetworks() map[string]wrongNetwork {
	return map[string]wrongNetwork{
		"pods of a node don't reach each other": {
			daemon: "drops-neighbours", fails: []string{"network-pod-01"}, passes: []string{"network-pod-02", "network-node-01"},
		},
		"no route to a node on the link": {
			daemon: "no-route-12", fails: []string{"network-pod-02"}, passes: []string{"network-pod-01", "network-pod-03"},
		},
		"no route to a node behind the router": {
			daemon: "no-route-13", fails: []string{"network-pod-03"}, passes: []string{"network-pod-01", "network-pod-02"},
		},
		"no UDP between nodes": {
			daemon: "drops-udp", fails: []string{"network-pod-02", "network-pod-03", "network-mtu-02"}, passes: []string{"network-pod-04"},
		},
		"no ICMPv6 between nodes": {
			daemon: "drops-icmp6", fails: []string{"network-pod-02", "network-pod-03"}, passes: []string{"network-pod-04"},
		},
		"pods are masqueraded to each other": {
			daemon: "masquerades-pods", fails: []string{"network-pod-04"}, passes: []string{"network-pod-02", "network-pod-03"},
		},
		"pods are masqueraded to each other on IPv6": {
			daemon: "masquerades-pods6", fails: []string{"network-pod-04"}, passes: []string{"network-pod-03"},
		},
		"all nodes give the same addresses": {
			v4: "10.1.1.0/24", v6: "fd00:10:1:1::/64", fails: []string{"network-pod-05"}, passes: []string{"network-pod-01"},
		},
		"a node has no IPv6": {
			plugin: "no6", fails: []string{"network-pod-05"}, passes: []string{"network-pod-03"},
		},
		"a node doesn't reach its own pods": {
			daemon: "drops-own-pods", fails: []string{"network-node-01"}, passes: []string{"network-node-02", "network-pod-01"},
		},
		"a node doesn't reach pods of others": {
			daemon: "drops-node-to-pods", fails: []string{"network-node-02"}, passes: []string{"network-node-01", "network-pod-02"},
		},
		"pods don't reach nodes": {
			daemon: "drops-pods-to-node", fails: []string{"network-node-03"}, passes: []string{"network-pod-02", "network-outside-01"},
		},
		"nothing is masqueraded": {
			daemon: "masquerades-nothing", fails: []string{"network-outside-01"}, passes: []string{"network-node-03"},
		},
		"IPv6 isn't masqueraded": {
			daemon: "masquerades-no6", fails: []string{"network-outside-01"}, passes: []string{"network-node-03"},
		},
		"the MTU doesn't fit the tunnel": {
			conf: object{"mtu": 1600}, fails: []string{"network-mtu-01"}, passes: []string{"network-pod-03"},
		},
		"fragments are dropped": {
			daemon: "drops-fragments", fails: []string{"network-mtu-02"}, passes: []string{"network-mtu-01", "network-mtu-03"},
		},
		"nobody hears that a packet was too big": {
			daemon: "black-hole", conf: object{"mtu": 1450}, fails: []string{"network-mtu-03"}, passes: []string{"network-mtu-01", "network-mtu-02"},
		},
		"all goes by way of the first node": {
			daemon: "hub", fails: []string{"network-loss-01"}, passes: []string{"network-pod-03", "network-loss-02"},
		},
		"a node forgets its hardware address": {
			daemon: "forgets-address", fails: []string{"network-loss-02"}, passes: []string{"network-loss-01", "network-loss-03"},
		},
		"a node's address belongs to its first owner": {
			daemon: "once-per-address", fails: []string{"network-loss-03"}, passes: []string{"network-loss-01", "network-loss-02"},
		},
		"a node without a daemon is taken for gone": {
			daemon: "falls-silent", fails: []string{"network-daemon-01"}, passes: []string{"network-loss-01"},
		},
		"a daemon makes all anew": {
			daemon: "makes-anew", fails: []string{"network-daemon-01"}, passes: []string{"network-loss-01"},
		},
		"a rule of each pod stays": {
			plugin: "rules", fails: []string{"network-stale-01"}, passes: []string{"network-stale-02"},
		},
		"nobody is told that an address has another owner": {
			plugin: "silent", fails: []string{"network-stale-02"}, passes: []string{"network-stale-01"},
		},
		"a node keeps the first owner of an address": {
			plugin: "neighbours", fails: []string{"network-stale-02"}, passes: []string{"network-node-01"},
		},
	}
}

// nearby are options for networks that come together at once or never.
func nearby(clauses ...string) conformance.Options {
	return conformance.Options{Clauses: clauses, Convergence: 15 * time.Second}
}

// TestRightNetwork: each clause passes for an overlay that is right.
func TestRightNetwork(t *testing.T) {
	t.Parallel()
	options := nearby("network-*")
	options.Convergence = 0
	for id, o := range held(t, network(t, &wrongNetwork{}), options) {
		if o.Verdict != conformance.Pass {
			t.Errorf("%s: %s %s\n%s", id, o.Verdict, o.Why(), o.Text())
		}
	}
}

// TestWrongNetworks: each clause fails for an overlay that is wrong, and those
// next to it pass. A failure is waited for, so that more of them are tested at
// once than there are processors.
func TestWrongNetworks(t *testing.T) {
	t.Parallel()
	const atOnce = 6
	var all errgroup.Group
	all.SetLimit(atOnce)
	table := wrongNetworks()
	found := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		wrong := table[name]
		for _, id := range wrong.fails {
			found[id] = true
		}
		target := network(t, &wrong)
		all.Go(func() error {
			report, err := conformance.Run(t.Context(), target, nearby(slices.Concat(wrong.fails, wrong.passes)...))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return nil
			}
			for i := range report.Outcomes {
				o, want := &report.Outcomes[i], conformance.Pass
				if slices.Contains(wrong.fails, o.Clause.ID) {
					want = conformance.Fail
				}
				if o.Verdict != want {
					t.Errorf("%s: %s: %s, want %s: %s\n%s", name, o.Clause.ID, o.Verdict, want, o.Why(), o.Text())
				}
			}
			return nil
		})
	}
	_ = all.Wait() // the errors are the test's
	for _, c := range conformance.Clauses() {
		if c.Section == conformance.Network && !found[c.ID] {
			t.Errorf("no wrong network is there for %s", c.ID)
		}
	}
}

// TestNetworkFailureTells: who reads of a failure sees how the pod was attached
// and what the daemons of both nodes said.
func TestNetworkFailureTells(t *testing.T) {
	t.Parallel()
	target := network(t, &wrongNetwork{daemon: "no-route-13"})
	target.Daemon = "echo greetings from $NODE; " + target.Daemon
	text := held(t, target, nearby("network-pod-03"))["network-pod-03"].Text()
	for _, want := range []string{"CNI_COMMAND=ADD", `"address":"10.1.`, "greetings from n1", "greetings from n3"} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
}
