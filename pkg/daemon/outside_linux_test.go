package daemon_test

// Hosts that don't speak VXLAN, set up by the commands of docs/external-peers.md.

import (
	"net/netip"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

const allOutsideExcluded = `{"cidrs": ["10.244.0.0/16", "fd00:10:244::/48"], "masquerade": {"exclude": ["172.30.0.0/16", "fd00:30::/32"]}}`

// routePods lets a host send by a gateway what is for pods.
func routePods(t *testing.T, h *lab.Host, v4, v6 netip.Addr) {
	t.Helper()
	shell(t, h, page(t, "host"), "cidrs=10.244.0.0/16 fd00:10:244::/48", "node4="+v4.String(), "node6="+v6.String())
}

// outsiders are hosts on the segment of the node that they know, and on another:
// there it is the router that knows the node.
func outsiders(t *testing.T, c *cluster.Cluster, via *cluster.Node) []*lab.Machine {
	t.Helper()
	near, far := labtest.VM(t, c.Lab, "near", "a"), labtest.VM(t, c.Lab, "far", "b")
	for _, h := range []*lab.Machine{near, far} {
		clustertest.Serve(t, h.Host, port)
	}
	if via != nil {
		segment := far.Segment()
		routePods(t, near.Host, via.IPv4(), via.IPv6())
		routePods(t, far.Host, segment.IPv4.Addr().Next(), segment.IPv6.Addr().Next())
		routePods(t, c.Lab.Router(), via.IPv4(), via.IPv6())
	}
	return []*lab.Machine{near, far}
}

func underlayOf(m *lab.Machine) []netip.Addr { return []netip.Addr{m.IPv4(), m.IPv6()} }

// TestHostWithoutVTEPIsReached: with nothing done for it, it sees the nodes.
func TestHostWithoutVTEPIsReached(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{})
	nodes := []*cluster.Node{strictNode(t, c, "n1", "a"), strictNode(t, c, "n2", "b")}
	hosts := outsiders(t, c, nil)
	for _, n := range nodes {
		p := served(t, n, "p")
		for _, h := range hosts {
			for i, dst := range underlayOf(h) {
				talk(t, p.Host, underlayOf(n.Machine)[i], h.Host, dst)
			}
		}
	}
}

// TestHostWithoutVTEP: with routes by one node, and where the network doesn't
// masquerade to it, it and the pods of all nodes see each other's own addresses,
// and each opens connections to the other. What is for pods of another node than
// the one it knows isn't answered on the way that it came.
func TestHostWithoutVTEP(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ network, firewall string }{
		"excluded, nftables":      {allOutsideExcluded, "nftables"},
		"excluded, iptables":      {allOutsideExcluded, "iptables"},
		"not masqueraded at all":  {`{"cidrs": ["10.244.0.0/16", "fd00:10:244::/48"], "masquerade": {"enabled": false}}`, "nftables"},
		"excluded, several pools": {`{"pools": [{"cidr": "10.244.0.0/17", "blockLength": 28}, {"cidr": "fd00:10:244::/64"}], "masquerade": {"exclude": ["172.30.0.0/16", "fd00:30::/32"]}}`, "nftables"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := clustertest.New(t, cluster.Options{Network: test.network, Daemon: map[string]any{"firewall": test.firewall}})
			nodes := []*cluster.Node{strictNode(t, c, "n1", "a"), strictNode(t, c, "n2", "b")}
			hosts := outsiders(t, c, nodes[0])
			var pods []*cluster.Pod
			for _, n := range nodes {
				pods = append(pods, served(t, n, "p"))
			}
			for _, h := range hosts {
				for _, p := range pods {
					for i, pod := range p.Addresses() {
						talk(t, p.Host, pod, h.Host, underlayOf(h)[i])
						talk(t, h.Host, underlayOf(h)[i], p.Host, pod)
					}
				}
			}
			meet(t, pods[0], pods[1])
			meet(t, pods[1], pods[0])
		})
	}
}
