package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/kubetest"
)

// Nodes that agree in a real Kubernetes API, by the rights that we ask for.
const manifests = "../store/kube/manifests/"

// kubernetes is a cluster whose nodes agree in the Kubernetes API.
type kubernetes struct {
	*kubetest.Server
	t       *testing.T
	cluster *cluster.Cluster
}

func newKubernetes(t *testing.T) *kubernetes {
	t.Helper()
	c := clustertest.New(t, cluster.Options{})
	k := &kubernetes{Server: kubetest.On(t, c.Lab), t: t, cluster: c}
	for _, file := range []string{"crds.yaml", "rbac.yaml"} {
		if err := k.Apply(t.Context(), manifests+file); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// kubectl runs kubectl, as an operator.
func (k *kubernetes) kubectl(args ...string) string {
	k.t.Helper()
	out, err := k.Kubectl(k.t.Context(), args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// apply applies an object.
func (k *kubernetes) apply(object string) {
	k.t.Helper()
	file := filepath.Join(k.t.TempDir(), "object.yaml")
	if err := os.WriteFile(file, []byte(object), 0o600); err != nil {
		k.t.Fatal(err)
	}
	if err := k.Apply(k.t.Context(), file); err != nil {
		k.t.Fatal(err)
	}
}

// node starts a node, with the rights of overlayd's service account.
func (k *kubernetes) node(name, segment string) *cluster.Node {
	k.t.Helper()
	host, err := k.cluster.Lab.AddNode(name, segment)
	if err != nil {
		k.t.Fatal(err)
	}
	n := cluster.Adopt(k.cluster, host)
	n.Daemon = map[string]any{"networks": nil, "store": map[string]any{
		"type": "kubernetes", "kubeconfig": k.Kubeconfig("system:serviceaccount:overlay-cni:overlayd", "system:serviceaccounts", "system:authenticated"),
	}}
	if err := n.LaunchDaemon(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		if k.t.Failed() {
			k.t.Logf("%s:\n%s", name, n.Log())
		}
		if err := n.KillDaemon(); err != nil {
			k.t.Error(err)
		}
	})
	return n
}

func (k *kubernetes) ready(n *cluster.Node) {
	k.t.Helper()
	if err := n.WaitReady(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

// field reads a field of an object; "" where there is none.
func (k *kubernetes) field(object, path string) string {
	k.t.Helper()
	return k.kubectl("get", object, "--ignore-not-found", "--output", "jsonpath={"+path+"}")
}

// leases maps each block of a network to its node.
func (k *kubernetes) leases(network string) map[string]string {
	k.t.Helper()
	var list struct {
		Items []struct {
			Spec struct{ Network, Block, Node string }
		}
	}
	if err := json.Unmarshal([]byte(k.kubectl("get", "blockleases", "--output", "json")), &list); err != nil {
		k.t.Fatal(err)
	}
	found := map[string]string{}
	for _, item := range list.Items {
		if item.Spec.Network == network {
			found[item.Spec.Block] = item.Spec.Node
		}
	}
	return found
}

const (
	podsObject = `{apiVersion: overlay-cni.io/v1alpha1, kind: Network, metadata: {name: pods}, spec: {cidrs: [10.244.0.0/16, "fd00:10:244::/48"]}}`
	twinObject = `{apiVersion: overlay-cni.io/v1alpha1, kind: Network, metadata: {name: twin}, spec: {cidrs: [10.5.0.0/16]}}`
	nodeObject = `{apiVersion: v1, kind: Node, metadata: {name: %s, labels: {zone: %s}}, spec: {podCIDRs: [%q, %q], podCIDR: %[3]q}}`
)

// TestKubernetes: Nodes and a VM that is none share a network that is an object;
// its pods outlive the API server, and what is wrong with an object stands in it.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t)
	k.apply(podsObject)
	k.apply(fmt.Sprintf(nodeObject, "n1", "a", "10.50.1.0/24", "fd00:50:0:1::/64"))
	k.apply(fmt.Sprintf(nodeObject, "n2", "b", "10.50.2.0/24", "fd00:50:0:2::/64"))
	n1, n2, vm := k.node("n1", "a"), k.node("n2", "b"), k.node("v1", "b")
	for _, n := range []*cluster.Node{n1, n2, vm} {
		k.ready(n)
	}
	p1, p2, p3 := served(t, n1, "p1"), served(t, n2, "p2"), served(t, vm, "p3")
	everybody := func() {
		t.Helper()
		meet(t, p1, p2)
		meet(t, p2, p3)
		meet(t, p3, p1)
	}
	await(t, func() bool { return len(k.leases("pods")) == 6 })
	everybody()

	await(t, func() bool {
		return k.field("node/n1", `.status.conditions[?(@.type=="NetworkUnavailable")].status`) == "False"
	})
	await(t, func() bool {
		return k.field("network/pods", `.status.conditions[?(@.type=="Accepted")].status`) == "True"
	})
	if columns := k.kubectl("get", "blockleases", "--no-headers"); !strings.Contains(columns, n1.IPv4().String()) || strings.Count(columns, "pods") < 6 {
		t.Errorf("kubectl get blockleases shows\n%s", columns)
	}
	k.testOwners()
	k.testPeers()
	k.testRequests()

	k.apply(twinObject)
	await(t, func() bool {
		return strings.Contains(k.field("network/twin", `.status.conditions[?(@.type=="Accepted")].message`), "network twin has the VNI of network pods")
	})
	k.kubectl("delete", "network", "twin")

	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	everybody()
	p4 := served(t, n2, "p4")
	meet(t, p4, p1)
	if err := k.Start(); err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.apply(`{apiVersion: overlay-cni.io/v1alpha1, kind: Network, metadata: {name: blue}, spec: {cidrs: [10.9.0.0/16], vni: 9}}`)
	await(t, func() bool { return state(n1, "blue") != nil && state(vm, "blue") != nil })
	everybody()
}

// testOwners: a lease goes with its Node; that of a Node which comes back belongs
// to the new one, with the same block.
func (k *kubernetes) testOwners() {
	k.t.Helper()
	var block string
	for b, node := range k.leases("pods") {
		if node == "n2" && strings.Contains(b, ".") {
			block = b
		}
	}
	lease := "blocklease/pods." + strings.Replace(block, "/", "-", 1)
	uid := k.field("node/n2", ".metadata.uid")
	if owner := k.field(lease, ".metadata.ownerReferences[0].uid"); owner == "" || owner != uid {
		k.t.Errorf("%s belongs to %q, not to the Node, %s", lease, owner, uid)
	}
	k.kubectl("delete", "node", "n2")
	k.apply(fmt.Sprintf(nodeObject, "n2", "b", "10.50.2.0/24", "fd00:50:0:2::/64"))
	uid = k.field("node/n2", ".metadata.uid")
	await(k.t, func() bool { // the garbage collector does this, for there is no such owner any more
		k.kubectl("delete", lease, "--ignore-not-found", "--wait=false")
		return k.field(lease, ".metadata.ownerReferences[0].uid") == uid
	})
	await(k.t, func() bool { return k.field(lease, ".spec.node") == "n2" })
}

// testPeers: whether an external peer is used, or why not, stands in it.
func (k *kubernetes) testPeers() {
	k.t.Helper()
	for _, name := range []string{"first", "second"} {
		k.apply(fmt.Sprintf(`{apiVersion: overlay-cni.io/v1alpha1, kind: ExternalPeer, metadata: {name: %s}, spec: {network: pods, cidrs: [192.168.7.0/24], `+
			`vtep: {underlay: [172.30.1.77], mac: "0e:00:00:00:00:77"}}}`, name))
	}
	condition := func(name, field string) string {
		return k.field("externalpeer/"+name, `.status.conditions[?(@.type=="Accepted")].`+field)
	}
	await(k.t, func() bool { return condition("first", "status") == "True" && condition("second", "status") == "False" })
	if message := condition("second", "message"); !strings.Contains(message, "first") || !strings.Contains(message, "second") {
		k.t.Errorf("the second peer is refused: %s", message)
	}
	k.kubectl("delete", "externalpeer", "first")
	await(k.t, func() bool { return condition("second", "status") == "True" })
	k.kubectl("delete", "externalpeer", "second")
}

// testRequests: what another node asks of the API server when it joins: each kind
// is listed once, whatever there is, and followed.
func (k *kubernetes) testRequests() {
	k.t.Helper()
	before, err := k.Requests(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	k.ready(k.node("n3", "a"))
	listed := 0 // by us
	await(k.t, func() bool { listed++; return len(k.leases("pods")) == 8 })
	after, err := k.Requests(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	for request, most := range map[string]int{
		"LIST networks": 1, "LIST externalpeers": 1, "LIST blockleases": 1 + listed, "POST blockleases": 2,
		"GET networks": 1, "GET blockleases": 0, "PATCH networks/status": 0, "WATCH networks": 2, "WATCH blockleases": 1, "WATCH externalpeers": 1,
	} {
		if got := after[request] - before[request]; got > most {
			k.t.Errorf("one more node makes %d requests %s, want at most %d", got, request, most)
		}
	}
}

// TestPodCIDRs: the blocks are those that the cluster has allocated.
func TestPodCIDRs(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t)
	k.apply(`{apiVersion: overlay-cni.io/v1alpha1, kind: Network, metadata: {name: pods}, spec: {cidrs: [10.50.0.0/16, "fd00:50::/48"], podCIDRs: true}}`)
	k.apply(fmt.Sprintf(nodeObject, "n1", "a", "10.50.1.0/24", "fd00:50:0:1::/64"))
	n1, n2 := k.node("n1", "a"), k.node("n2", "b")
	k.ready(n1)
	await(t, func() bool { return strings.Contains(n2.Log(), "node n2 has no spec.podCIDRs in network pods") })
	k.apply(fmt.Sprintf(nodeObject, "n2", "b", "10.50.2.0/24", "fd00:50:0:2::/64"))
	k.ready(n2)
	p1, p2 := served(t, n1, "p1"), served(t, n2, "p2")
	meet(t, p1, p2)
	want := map[string]string{"10.50.1.0/24": "n1", "fd00:50:0:1::/64": "n1", "10.50.2.0/24": "n2", "fd00:50:0:2::/64": "n2"}
	if got := k.leases("pods"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("leases are %v, want %v", got, want)
	}
	if got := p1.Addresses(); !strings.HasPrefix(got[0].String(), "10.50.1.") || !strings.HasPrefix(got[1].String(), "fd00:50:0:1:") {
		t.Errorf("p1 has %v", got)
	}
}
