package cni_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.ok("VERSION", map[string]any{"type": "overlay-vxlan", "cniVersion": "1.1.0"})
	if got := sprint(a.result["supportedVersions"]); got != "[0.3.1 0.4.0 1.0.0 1.1.0]" {
		t.Errorf("supported versions: %s", got)
	}
}

// TestResults holds the result of each version to its schema.
func TestResults(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			conf := b.conf(map[string]any{"cniVersion": version, "dns": map[string]any{"nameservers": []string{"10.96.0.10"}}})
			r := b.ok("ADD", conf).result
			if r["cniVersion"] != version {
				t.Errorf("cniVersion %v", r["cniVersion"])
			}
			first := r["ips"].([]any)[0].(map[string]any)
			if old := version < "1.0.0"; (first["version"] == "4") != old {
				t.Errorf("ips[0].version is %v", first["version"])
			}
			if first["gateway"] != "169.254.1.1" || first["interface"] != 1.0 {
				t.Errorf("ips[0] is %v", first)
			}
			pod := r["interfaces"].([]any)[1].(map[string]any)
			if pod["name"] != "eth0" || pod["sandbox"] != b.pod.Path() {
				t.Errorf("interfaces[1] is %v", pod)
			}
			if _, has := pod["mtu"]; has != (version >= "1.0.0") {
				t.Errorf("interfaces[1].mtu is %v", pod["mtu"])
			}
			if dns := sprint(r["dns"]); dns != "map[nameservers:[10.96.0.10]]" {
				t.Errorf("dns is %s", dns)
			}
			if version != "0.3.1" {
				b.ok("CHECK", with(conf, r))
			} else {
				b.fails(1, "CHECK", with(conf, r), nil)
			}
			b.ok("DEL", conf)
			if left := b.leftovers(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestAddProgramsThePod(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.ok("ADD", b.conf(nil)).result
	addresses := ips(r)
	if len(addresses) != 2 || !strings.HasSuffix(addresses[0], "/32") || !strings.HasSuffix(addresses[1], "/128") {
		t.Fatalf("addresses %v", addresses)
	}
	for _, want := range []struct{ args, text string }{
		{"-4 -o addr show dev eth0", addresses[0]},
		{"-6 -o addr show dev eth0", addresses[1]},
		{"-4 route", "default via 169.254.1.1 dev eth0"},
		{"-6 route", "default via fe80::1 dev eth0"},
		{"-o link show dev eth0", "mtu 1450"},
	} {
		if out := b.inPod("ip", strings.Fields(want.args)...); !strings.Contains(out, want.text) {
			t.Errorf("ip %s shows no %q:\n%s", want.args, want.text, out)
		}
	}
	if out := b.inPod("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"); strings.Contains(out, "tentative") {
		t.Errorf("the address can't be used at once: %s", out)
	}
}

func TestDuplicateAddLeavesTheAttachmentAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.ok("ADD", b.conf(nil)).result
	b.fails(100, "ADD", b.conf(nil), []string{"eth0", "pods", "already"})
	b.ok("CHECK", with(b.conf(nil), r))
}

func TestAddRefusesAForeignInterface(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.inPod("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
	b.fails(100, "ADD", b.conf(nil), []string{"eth0"})
	b.inPod("ip", "link", "show", "eth0")
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	// The address wasn't spent either: the next one is the block's first.
	b.inPod("ip", "link", "del", "eth0")
	if got := ips(b.ok("ADD", b.conf(nil)).result)[0]; !strings.HasSuffix(got, ".1/32") {
		t.Errorf("the next address is %s", got)
	}
}

func TestSeveralInterfacesOfOneContainer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.ok("ADD", b.conf(nil)).result
	second := b.ok("ADD", b.conf(nil), "CNI_IFNAME=net1").result
	if slices.Equal(ips(first), ips(second)) {
		t.Errorf("both have %v", ips(first))
	}
	b.ok("CHECK", with(b.conf(nil), first))
	b.ok("CHECK", with(b.conf(nil), second), "CNI_IFNAME=net1")
	b.ok("DEL", b.conf(nil))
	b.ok("CHECK", with(b.conf(nil), second), "CNI_IFNAME=net1")
}

func TestDel(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(b *bench) []string{
		"never added":   func(*bench) []string { return nil },
		"twice":         func(b *bench) []string { b.ok("ADD", b.conf(nil)); b.ok("DEL", b.conf(nil)); return nil },
		"without netns": func(b *bench) []string { b.ok("ADD", b.conf(nil)); return []string{"CNI_NETNS="} },
		"netns is gone": func(b *bench) []string {
			b.ok("ADD", b.conf(nil))
			return []string{"CNI_NETNS=/run/netns/no-such-namespace"}
		},
		"pod is gone": func(b *bench) []string {
			b.ok("ADD", b.conf(nil))
			if err := b.pod.Close(); err != nil {
				b.tb.Fatal(err)
			}
			return nil
		},
		"node state is gone": func(b *bench) []string {
			b.ok("ADD", b.conf(nil))
			removeAll(b.tb, sprint(b.conf(nil)["runDir"]))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			env := prepare(b)
			if a := b.ok("DEL", b.conf(nil), env...); a.stdout != "" {
				t.Errorf("DEL printed %q", a.stdout)
			}
			if left := b.leftovers(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if held := b.held(); len(held) > 0 {
				t.Errorf("still held: %v", held)
			}
		})
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, where, command, message string }{
		{"address gone", "pod", "ip -4 addr flush dev eth0", "missing: address"},
		{"route gone", "pod", "ip route del default", "missing: route 0.0.0.0/0"},
		{"IPv6 route gone", "pod", "ip -6 route del default", "missing: route ::/0"},
		{"interface down", "pod", "ip link set eth0 down", "missing: link eth0 up"},
		{"MTU changed", "pod", "ip link set eth0 mtu 1400", "mtu 1400"},
		{"MAC changed", "pod", "ip link set eth0 address 02:00:00:00:00:01", "02:00:00:00:00:01"},
		{"interface renamed", "pod", "ip link set eth0 down name eth9", "missing: link eth0"},
		{"gateway's neighbour gone", "pod", "ip neigh flush dev eth0 nud permanent", "missing: neighbor 169.254.1.1"},
		{"host route gone", "node", "ip route flush proto 118 scope link", "missing: route 10.244."},
		{"host's neighbour gone", "node", "ip neigh flush dev HOST", "missing: neighbor 10.244."},
		{"host end down", "node", "ip link set HOST down", "missing: link HOST up"},
		{"alias gone", "node", "ip link set HOST alias x", "alias"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			r := b.ok("ADD", b.conf(nil)).result
			host := r["interfaces"].([]any)[0].(map[string]any)["name"].(string)
			at := b.pod.Host
			if c.where == "node" {
				at = b.node.Host
			}
			command := strings.Fields(strings.ReplaceAll(c.command, "HOST", host))
			runIn(t, at, command[0], command[1:]...)
			b.fails(102, "CHECK", with(b.conf(nil), r), []string{strings.ReplaceAll(c.message, "HOST", host)})
		})
	}
}

func TestCheckNeedsAPrevResultThatFits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.ok("ADD", b.conf(nil)).result
	b.fails(7, "CHECK", b.conf(nil), []string{"prevResult"})
	b.fails(7, "CHECK", with(b.conf(nil), r), []string{"net1"}, "CNI_IFNAME=net1")
	forgotten := with(b.conf(nil), r)
	b.ok("DEL", b.conf(nil))
	b.fails(102, "CHECK", forgotten, []string{"missing: link eth0"})
}

// TestStatusMendsTheNode: without a daemon nobody else would.
func TestStatusMendsTheNode(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fails(1, "STATUS", b.conf(map[string]any{"cniVersion": "1.0.0"}), nil)
	b.ok("STATUS", b.conf(nil))
	before, err := b.node.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, drift := range nodeDrifts() {
		for _, verb := range []string{"STATUS", "ADD"} {
			runIn(t, b.node.Host, "sh", "-c", drift.command)
			b.ok(verb, b.conf(nil))
			b.ok("STATUS", b.conf(nil))
			b.ok("DEL", b.conf(nil))
			after, err := b.node.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if diff := before.Diff(after); len(diff) > 0 {
				t.Errorf("%s after %q:\n%s", verb, drift.command, strings.Join(diff, "\n"))
			}
		}
	}
}

// nodeDrifts are ways to break a node behind everybody's back, each with what
// STATUS says of it.
func nodeDrifts() []struct{ command, message string } {
	return []struct{ command, message string }{
		{"ip link set ovx4096 down", "missing: link ovx4096 up"},
		{"ip link set ovx4096 mtu 1400", "mtu 1400"},
		{"ip link set ovx4096 address 02:00:00:00:00:01", "02:00:00:00:00:01"},
		{"ip addr flush dev ovx4096 scope global", "missing: address 10.244."},
		{"ip link del ovx4096", "missing: link ovx4096"},
		{"nft delete table inet overlay-cni-pods", "missing: table inet overlay-cni-pods"},
	}
}

func TestStatusWithoutADaemon(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	daemon := b.conf(map[string]any{"network": "pods", "daemon": true})
	b.fails(50, "STATUS", daemon, []string{"overlayd", "pods"})
	b.fails(11, "ADD", daemon, []string{"overlayd", "pods"})
	b.ok("DEL", daemon)
	b.ok("GC", daemon)
}

func TestFullBlock(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conf := b.conf(map[string]any{"network": map[string]any{
		"cidrs": []string{"10.244.0.0/28"}, "blockLength": map[string]any{"ipv4": 30},
	}})
	b.ok("ADD", conf)
	b.ok("ADD", conf, "CNI_IFNAME=net1")
	b.fails(11, "ADD", conf, []string{"no free address"}, "CNI_IFNAME=net2")
	b.fails(50, "STATUS", conf, []string{"no free address"})
	if links := b.inPod("ip", "-o", "link"); strings.Contains(links, "net2") {
		t.Errorf("left in the pod:\n%s", links)
	}
	b.ok("DEL", conf)
	b.ok("STATUS", conf)
	b.ok("ADD", conf, "CNI_IFNAME=net2")
}

func TestGC(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	kept := b.ok("ADD", b.conf(nil)).result
	stale := labtest.Pod(t, b.node, "p2")
	b.ok("ADD", b.conf(nil), "CNI_CONTAINERID="+stale.ContainerID(), "CNI_NETNS="+stale.Path())
	other := b.conf(map[string]any{"name": "other", "network": map[string]any{"cidrs": []string{"10.9.0.0/16"}, "vni": 77}})
	foreign := b.ok("ADD", other, "CNI_IFNAME=net1").result
	b.ok("GC", b.conf(map[string]any{"cni.dev/valid-attachments": []any{
		map[string]any{"containerID": b.pod.ContainerID(), "ifname": "eth0"},
		map[string]any{"containerID": "unknown", "ifname": "eth0"},
	}}))
	b.ok("CHECK", with(b.conf(nil), kept))
	b.ok("CHECK", with(other, foreign), "CNI_IFNAME=net1") // another network's
	if out := runIn(t, stale.Host, "ip", "-o", "link"); strings.Contains(out, "eth0") {
		t.Errorf("the stale pod still has:\n%s", out)
	}
	if held := b.held(); len(held) != 2 {
		t.Errorf("held after GC: %v", held)
	}
	b.ok("GC", b.conf(map[string]any{"cni.dev/valid-attachments": []any{}}))
	b.ok("DEL", other, "CNI_IFNAME=net1")
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestLostLedger: what the interfaces say is believed before anything is given.
func TestLostLedger(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.ok("ADD", b.conf(nil)).result
	removeAll(t, sprint(b.conf(nil)["dataDir"])+"/ipam")
	second := b.ok("ADD", b.conf(nil), "CNI_IFNAME=net1").result
	for i := range ips(first) {
		if ips(first)[i] == ips(second)[i] {
			t.Errorf("%s was given twice", ips(first)[i])
		}
	}
	b.ok("CHECK", with(b.conf(nil), first))
	b.ok("DEL", b.conf(nil))
	b.ok("DEL", b.conf(nil), "CNI_IFNAME=net1")
	if held := b.held(); len(held) > 0 {
		t.Errorf("still held: %v", held)
	}
}

// TestWrongLedger: an address that the ledger gives though a pod has it isn't
// taken from that pod.
func TestWrongLedger(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.ok("ADD", b.conf(nil)).result
	has := b.addresses(r)
	l, err := ipam.OpenLedger(filepath.Join(b.node.Dir(), "lib", "ipam", "pods.ledger"), ipam.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Release(t.Context(), ipam.Attachment{ContainerID: b.pod.ContainerID(), Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before := b.leftovers()

	second := labtest.Pod(t, b.node, "p2")
	for _, a := range has {
		host := r["interfaces"].([]any)[0].(map[string]any)["name"].(string)
		b.fails(101, "ADD", b.conf(nil), []string{"address " + a.String() + " is already routed to interface " + host},
			"CNI_CONTAINERID="+second.ContainerID(), "CNI_NETNS="+second.Path(), "CNI_ARGS=IP="+a.String())
	}
	if after := b.leftovers(); !slices.Equal(before, after) {
		t.Errorf("of pods the node now has\n%s\nbefore\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	if links := runIn(t, second.Host, "ip", "-o", "link"); strings.Contains(links, "eth0") {
		t.Errorf("left in the second pod:\n%s", links)
	}
	if held := b.held(); len(held) > 0 {
		t.Errorf("the second pod holds %v", held)
	}
	expectReached(t, b.node.Host, atOnce, has...)
}

func TestRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	block := strings.TrimSuffix(ips(b.ok("ADD", b.conf(nil)).result)[0], ".1/32")
	b.ok("DEL", b.conf(nil))
	wanted := block + ".77"
	mac := "0e:00:00:00:00:77"
	for _, c := range []struct {
		name string
		conf map[string]any
		env  string
	}{
		{"CNI_ARGS", nil, "CNI_ARGS=IgnoreUnknown=1;IP=" + wanted + ";MAC=" + mac},
		{"runtimeConfig", map[string]any{"runtimeConfig": map[string]any{"ips": []string{wanted + "/24"}, "mac": mac}}, "CNI_ARGS="},
		{"args", map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{wanted}}}}, "CNI_ARGS=MAC=" + mac},
	} {
		conf := b.conf(c.conf)
		r := b.ok("ADD", conf, c.env).result
		if got := ips(r)[0]; got != wanted+"/32" {
			t.Errorf("%s: address %s, want %s", c.name, got, wanted)
		}
		if out := b.inPod("ip", "link", "show", "eth0"); !strings.Contains(out, mac) {
			t.Errorf("%s: no MAC address %s:\n%s", c.name, mac, out)
		}
		b.fails(101, "ADD", conf, []string{wanted, "taken"}, c.env, "CNI_IFNAME=net1")
		b.ok("DEL", conf)
	}
	b.fails(101, "ADD", b.conf(nil), []string{"192.0.2.1"}, "CNI_ARGS=IP=192.0.2.1")
}

// TestPrevResultIsExtended: a plugin before ours in the chain loses nothing.
func TestPrevResultIsExtended(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var previous map[string]any
	if err := json.Unmarshal([]byte(`{"cniVersion":"1.1.0","interfaces":[{"name":"first"}],
		"ips":[{"address":"192.0.2.7/24","interface":0}],"dns":{"domain":"example.org"}}`), &previous); err != nil {
		t.Fatal(err)
	}
	r := b.ok("ADD", with(b.conf(nil), previous)).result
	if got := ips(r); len(got) != 3 || got[0] != "192.0.2.7/24" {
		t.Errorf("addresses %v", got)
	}
	if n := r["ips"].([]any)[1].(map[string]any)["interface"]; n != 2.0 {
		t.Errorf("our address is of interface %v", n)
	}
	b.ok("CHECK", with(b.conf(nil), r))
}
