package cni_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// TestChain puts upstream's plugins behind ours, calls them through the CNI
// library, and uses what they set up.
func TestChain(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{
		Path: []string{clustertest.Peers(t)},
		Chain: []string{
			`{"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}`,
			`{"type": "bandwidth", "ingressRate": 80000000, "ingressBurst": 8000000}`,
			`{"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"}, "capabilities": {"mac": true}}`,
			`{"type": "firewall", "backend": "iptables"}`,
		},
	})
	n := clustertest.Node(t, c, "n1", "a")
	vm := labtest.VM(t, c.Lab, "v1", "a")
	pod, err := n.NewPod("p1")
	if err != nil {
		t.Fatal(err)
	}
	p := cluster.Attach(n, pod)
	mapping := map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
	if err := p.Add(t.Context(), mapping); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if out := runIn(t, p.Host, "cat", "/proc/sys/net/ipv4/conf/eth0/arp_notify"); strings.TrimSpace(out) != "1" {
		t.Errorf("tuning did not set the sysctl: %q", out)
	}
	if out := runIn(t, n.Host, "tc", "qdisc", "show", "dev", p.Result.Interfaces[0].Name); !strings.Contains(out, "tbf") {
		t.Errorf("bandwidth did not shape the host's end: %s", out)
	}
	if out := runIn(t, n.Host, "iptables-save"); !strings.Contains(out, "CNI-FORWARD") || !strings.Contains(out, p.Addresses()[0].String()) {
		t.Errorf("firewall has no rule for the pod:\n%s", out)
	}
	clustertest.Serve(t, p.Host, 80)
	x, err := vm.TCP(t.Context(), netip.AddrPortFrom(n.IPv4(), 8080))
	if err != nil {
		t.Errorf("hostPort: %v", err)
	} else if x.Source.Addr() != vm.IPv4() {
		t.Errorf("hostPort: the pod saw %s instead of %s", x.Source.Addr(), vm.IPv4())
	}
	if err := p.Del(t.Context()); err != nil {
		t.Fatal(err)
	}
	rules := runIn(t, n.Host, "sh", "-c", "iptables-save; nft list ruleset")
	for _, text := range []string{"dport 8080", "dports 8080", p.Addresses()[0].String()} {
		if strings.Contains(rules, text) {
			t.Errorf("after DEL there are still rules with %q:\n%s", text, rules)
		}
	}
}

// TestHostPortFromAnotherNode: a translated flow between pods on two nodes
// finds its way back, though others between pods aren't tracked.
func TestHostPortFromAnotherNode(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{
		Path:  []string{clustertest.Peers(t)},
		Chain: []string{`{"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}`},
	})
	server, client := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	pod, err := server.NewPod("p1")
	if err != nil {
		t.Fatal(err)
	}
	p := cluster.Attach(server, pod)
	mapping := map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
	if err := p.Add(t.Context(), mapping); err != nil {
		t.Fatal(err)
	}
	clustertest.Serve(t, p.Host, 80)
	from := clustertest.Pod(t, client, "p2")
	for _, host := range []netip.Addr{server.IPv4()} {
		if _, err := from.TCP(t.Context(), netip.AddrPortFrom(host, 8080)); err != nil {
			t.Errorf("hostPort at %s: %v", host, err)
		}
	}
	local := clustertest.Pod(t, server, "p3")
	if _, err := local.TCP(t.Context(), netip.AddrPortFrom(server.IPv4(), 8080)); err != nil {
		t.Errorf("hostPort from a pod of the same node: %v", err)
	}
	if _, err := p.TCP(t.Context(), netip.AddrPortFrom(server.IPv4(), 8080)); err != nil {
		t.Errorf("hostPort from the pod itself: %v", err)
	}
}

// TestDelegatedIPAM: any other IPAM plugin is called for all verbs.
func TestDelegatedIPAM(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	data := filepath.Join(b.node.Dir(), "host-local")
	conf := b.conf(map[string]any{"ipam": map[string]any{
		"type": "host-local", "dataDir": data,
		"ranges": []any{[]any{map[string]any{"subnet": "10.244.192.0/24", "rangeStart": "10.244.192.40"}}},
	}})
	r := b.ok("ADD", conf).result
	if got := ips(r); !slices.Equal(got, []string{"10.244.192.40/32"}) {
		t.Fatalf("addresses %v", got)
	}
	if out := b.inPod("ip", "-4", "-o", "addr", "show", "dev", "eth0"); !strings.Contains(out, "10.244.192.40/32") {
		t.Errorf("the pod has %s", out)
	}
	b.ok("CHECK", with(conf, r))
	b.ok("STATUS", conf)
	b.ok("GC", b.conf(map[string]any{"ipam": conf["ipam"], "cni.dev/valid-attachments": []any{
		map[string]any{"containerID": b.pod.ContainerID(), "ifname": "eth0"},
	}}))
	b.ok("CHECK", with(conf, r))
	b.ok("DEL", conf)
	if fileExists(filepath.Join(data, "pods", "10.244.192.40")) {
		t.Error("host-local still holds the address after DEL")
	}
}

// TestDelegatedIPAMFails: its error reaches the runtime with its code, and what
// was done is undone.
func TestDelegatedIPAMFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	bin := t.TempDir()
	b.path = append([]string{bin}, b.path...)
	record := filepath.Join(bin, "record")
	for _, c := range []struct {
		name, script string
		code         uint
		verb         string
		texts        []string
		calls        string
	}{
		{"refuses", `echo '{"code": 120, "msg": "out of order"}'; exit 1`, 120, "ADD", []string{"fake", "ADD", "out of order"}, "ADD DEL"},
		{"dies", `echo nonsense; exit 3`, 999, "ADD", []string{"fake", "nonsense"}, "ADD DEL"},
		{"gives no address", `[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "1.1.0", "ips": []}'; exit 0`, 999, "ADD", []string{"fake", "no address"}, "ADD DEL"},
		{"prints nonsense", `[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "1.1.0", "ips": 7}'; exit 0`, 999, "ADD", []string{"fake"}, "ADD DEL"},
		{"isn't available", `[ $CNI_COMMAND = STATUS ] && { echo '{"code": 50, "msg": "no pool"}'; exit 1; }; exit 0`, 50, "STATUS", []string{"fake", "no pool"}, "STATUS"},
		{"has limited connectivity", `[ $CNI_COMMAND = STATUS ] && { echo '{"code": 51, "msg": "half a pool"}'; exit 1; }; exit 0`, 51, "STATUS", []string{"fake", "half a pool"}, "STATUS"},
		{"can't collect", `[ $CNI_COMMAND = GC ] && { echo '{"code": 121, "msg": "busy"}'; exit 1; }; exit 0`, 121, "GC", []string{"fake", "busy"}, "GC"},
	} {
		writeScript(t, filepath.Join(bin, "fake"), fmt.Sprintf("#!/bin/sh\ncat >/dev/null; echo $CNI_COMMAND >> %s\n%s\n", record, c.script))
		removeAll(t, record)
		b.fails(c.code, c.verb, b.conf(map[string]any{"ipam": map[string]any{"type": "fake"}}), c.texts)
		if calls := strings.Join(strings.Fields(readFile(t, record)), " "); calls != c.calls {
			t.Errorf("%s: it was called for %q, want %q", c.name, calls, c.calls)
		}
		if left := b.leftovers(); len(left) > 0 {
			t.Errorf("%s: left behind: %q", c.name, left)
		}
	}
}

// TestUndo: when a later step of ADD fails, the earlier ones are undone.
func TestUndo(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("ADD", b.conf(nil), "CNI_IFNAME=net1") // brings the node up
	b.ok("DEL", b.conf(nil), "CNI_IFNAME=net1")
	// An address that the kernel gives no interface: multicast.
	bin := t.TempDir()
	b.path = append([]string{bin}, b.path...)
	record := filepath.Join(bin, "record")
	writeScript(t, filepath.Join(bin, "fake"), fmt.Sprintf(`#!/bin/sh
cat >/dev/null; echo $CNI_COMMAND >> %s
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.244.192.9/24"}, {"address": "ff02::5/64"}]}'
exit 0
`, record))
	b.fails(999, "ADD", b.conf(map[string]any{"ipam": map[string]any{"type": "fake"}}), []string{"ff02::5"})
	if calls := strings.Join(strings.Fields(readFile(t, record)), " "); calls != "ADD DEL" {
		t.Errorf("IPAM was called for %q", calls)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if links := b.inPod("ip", "-o", "link"); strings.Contains(links, "eth0") {
		t.Errorf("left in the pod:\n%s", links)
	}
}
