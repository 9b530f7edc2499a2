package cni_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBadConfiguration: a clear message with the field and the value, the CNI
// code, and nothing left behind.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	network := func(fields map[string]any) map[string]any {
		if _, ok := fields["cidrs"]; !ok {
			fields["cidrs"] = []string{"10.244.0.0/16"}
		}
		return map[string]any{"network": fields}
	}
	for _, c := range []struct {
		name    string
		replace map[string]any
		code    uint
		texts   []string
	}{
		{"unsupported version", map[string]any{"cniVersion": "9.9.9"}, 1, nil},
		{"old version", map[string]any{"cniVersion": "0.2.0"}, 1, nil},
		{"no name", map[string]any{"name": nil}, 7, []string{"name", "missing"}},
		{"no CIDR", network(map[string]any{"cidrs": []string{}}), 7, []string{"network.cidrs"}},
		{"malformed CIDR", network(map[string]any{"cidrs": []string{"10.244.0.0/33"}}), 7, []string{"network.cidrs[0]", "10.244.0.0/33"}},
		{"host bits", network(map[string]any{"cidrs": []string{"10.244.1.0/16"}}), 7, []string{"network.cidrs[0]", "10.244.1.0/16", "10.244.0.0/16"}},
		{"overlapping CIDRs", network(map[string]any{"cidrs": []string{"10.0.0.0/8", "10.244.0.0/16"}}), 7, []string{"network.cidrs[1]", "10.244.0.0/16", "10.0.0.0/8"}},
		{"block longer than CIDR", network(map[string]any{"blockLength": map[string]any{"ipv4": 12}}), 7, []string{"network.blockLength.ipv4", "12", "10.244.0.0/16"}},
		{"VNI 0", network(map[string]any{"vni": 0}), 7, []string{"network.vni", `"0"`, "16777215"}},
		{"VNI too large", network(map[string]any{"vni": 16777216}), 7, []string{"network.vni", "16777216"}},
		{"VNI no number", network(map[string]any{"vni": "abc"}), 7, []string{"network.vni", "abc"}},
		{"port too large", network(map[string]any{"port": 65536}), 7, []string{"network.port", "65536"}},
		{"MTU too large for the underlay", network(map[string]any{"mtu": 1451}), 7, []string{"mtu", "1451", "eth0", "1500", "1450"}},
		{"MTU too small", network(map[string]any{"mtu": 100}), 7, []string{"network.mtu", "100"}},
		{"name instead of specification", map[string]any{"network": "pods"}, 7, []string{"network", "pods", "cidrs"}},
		{"specification with a daemon", map[string]any{"daemon": true}, 7, []string{"network", "daemon"}},
		{"no such underlay", map[string]any{"underlay": map[string]any{"interface": "eth7"}}, 7, []string{"underlay.interface", "eth7"}},
		{"relative path", map[string]any{"dataDir": "lib"}, 7, []string{"dataDir", "lib"}},
		{"CIDR contains the underlay", network(map[string]any{"cidrs": []string{"fd00:1::/48", "172.30.0.0/16"}}), 7, []string{"cidrs[1]", "172.30.0.0/16", "172.30.1.10", "eth0"}},
		{"firewall", map[string]any{"firewall": "pf"}, 7, []string{"firewall", "pf"}},
		{"MAC", map[string]any{"runtimeConfig": map[string]any{"mac": "no"}}, 7, []string{"runtimeConfig.mac", "no"}},
		{"multicast MAC", map[string]any{"runtimeConfig": map[string]any{"mac": "01:00:5e:00:00:01"}}, 7, []string{"runtimeConfig.mac", "01:00:5e"}},
		{"address", map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.244.0.300"}}}, 7, []string{"runtimeConfig.ips[0]", "10.244.0.300"}},
		{"IPAM without type", map[string]any{"ipam": map[string]any{}}, 7, []string{"ipam.type"}},
		{"no such IPAM plugin", map[string]any{"ipam": map[string]any{"type": "nobody"}}, 999, []string{"nobody", "CNI_PATH"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.fails(c.code, "ADD", b.conf(c.replace), c.texts)
			if left := b.leftovers(); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if links := b.inPod("ip", "-o", "link"); strings.Contains(links, "eth0") {
				t.Errorf("left in the pod:\n%s", links)
			}
		})
	}
}

func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	file := filepath.Join(b.node.Dir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, env string
		code      uint
		texts     []string
	}{
		{"no netns", "CNI_NETNS=", 4, []string{"CNI_NETNS"}},
		{"missing netns", "CNI_NETNS=/run/netns/missing", 8, []string{"CNI_NETNS", "/run/netns/missing"}},
		{"netns is a file", "CNI_NETNS=" + file, 8, []string{"CNI_NETNS", file}},
		{"netns is another kind", "CNI_NETNS=/proc/self/ns/mnt", 8, []string{"CNI_NETNS", "/proc/self/ns/mnt"}},
		{"netns is the plugin's", "CNI_NETNS=/proc/self/ns/net", 8, []string{"CNI_NETNS", "own"}},
		{"interface name too long", "CNI_IFNAME=abcdefghijklmnop", 4, []string{"CNI_IFNAME", "abcdefghijklmnop", "15"}},
		{"interface name with a slash", "CNI_IFNAME=a/b", 4, []string{"CNI_IFNAME", "a/b"}},
		{"no container", "CNI_CONTAINERID=", 4, []string{"CNI_CONTAINERID"}},
		{"container ID with a slash", "CNI_CONTAINERID=../x", 4, nil},
		{"CNI_ARGS", "CNI_ARGS=nonsense", 4, []string{"CNI_ARGS", "nonsense"}},
		{"CNI_ARGS address", "CNI_ARGS=IP=10.0.0", 4, []string{"CNI_ARGS IP", "10.0.0"}},
	} {
		b.fails(c.code, "ADD", b.conf(nil), c.texts, c.env)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestMalformedJSON(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, stdin := range []string{"", "{", `{"cniVersion":"1.1.0","name":`, "[]", "null"} {
		a := b.runRaw("ADD", "overlay-vxlan", []byte(stdin))
		if a.status == 0 || (a.err.Code != 6 && a.err.Code != 7 && a.err.Code != 1) {
			t.Errorf("%q: status %d, %s", stdin, a.status, a.stdout)
		}
	}
}

func TestUnknownFieldsAreWarnedAbout(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.ok("ADD", b.conf(map[string]any{"networks": 1, "underlay": map[string]any{"iface": "eth0"}}))
	for _, field := range []string{"networks", "underlay.iface"} {
		if !strings.Contains(a.stderr, `unknown field \"`+field+`\"`) {
			t.Errorf("no warning about %s: %s", field, a.stderr)
		}
	}
}

// TestConflicts: what is in the way is named.
func TestConflicts(t *testing.T) {
	t.Parallel()
	t.Run("VNI of another device", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		runIn(t, b.node.Host, "ip", "link", "add", "theirs", "type", "vxlan", "id", "4096", "dstport", "4789", "local", "172.30.1.10")
		before, err := b.node.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		b.fails(105, "ADD", b.conf(nil), []string{"VNI 4096", "theirs"})
		after, err := b.node.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		// Having been told to forward is all that remains.
		anycast := func(line string) bool { return strings.Contains(line, " anycast ") }
		if diff := slices.DeleteFunc(before.Diff(after), anycast); len(diff) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(diff, "\n"))
		}
		// And the mistake can be mended: nothing of it was registered.
		b.ok("ADD", b.conf(map[string]any{"network": map[string]any{"cidrs": []string{"10.244.0.0/16"}, "vni": 5000}}))
	})
	t.Run("port of a process", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		err := b.node.Do(func() error {
			socket, err := net.ListenPacket("udp4", ":4789")
			if err == nil {
				t.Cleanup(func() { _ = socket.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		b.fails(105, "ADD", b.conf(nil), []string{"UDP port 4789", "process", "cni.test"})
	})
	t.Run("CIDR of another network", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.ok("ADD", b.conf(nil))
		other := b.conf(map[string]any{"name": "other", "network": map[string]any{"cidrs": []string{"10.244.8.0/21"}, "vni": 5000}})
		b.fails(105, "ADD", other, []string{"other", "pods", "10.244.8.0/21", "10.244.0.0/16"}, "CNI_IFNAME=net1")
	})
	t.Run("VNI of another network", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.ok("ADD", b.conf(nil))
		other := b.conf(map[string]any{"name": "other", "network": map[string]any{"cidrs": []string{"10.9.0.0/16"}}})
		b.fails(105, "ADD", other, []string{"other", "pods", "4096"}, "CNI_IFNAME=net1")
	})
	t.Run("specification differs", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.ok("ADD", b.conf(nil))
		b.fails(105, "ADD", b.conf(map[string]any{"network": map[string]any{"cidrs": []string{"10.9.0.0/16"}}}),
			[]string{"pods", "10.9.0.0/16", "10.244.0.0/16"}, "CNI_IFNAME=net1")
	})
}

// TestBrokenFiles: a ledger or store that is locked or corrupt.
func TestBrokenFiles(t *testing.T) {
	t.Parallel()
	t.Run("corrupt ledger", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.ok("ADD", b.conf(nil))
		ledger := sprint(b.conf(nil)["dataDir"]) + "/ipam/pods.ledger"
		if err := os.WriteFile(ledger, []byte(strings.Repeat("garbage!", 10000)), 0o600); err != nil {
			t.Fatal(err)
		}
		b.fails(104, "ADD", b.conf(nil), []string{ledger, "corrupt"}, "CNI_IFNAME=net1")
		if links := b.inPod("ip", "-o", "link"); strings.Contains(links, "net1") {
			t.Errorf("left in the pod:\n%s", links)
		}
		b.fails(50, "STATUS", b.conf(nil), []string{ledger})
	})
	t.Run("corrupt store", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.ok("ADD", b.conf(nil))
		data := sprint(b.conf(nil)["dataDir"])
		entries, err := filepath.Glob(data + "/store/keys/leases/pods/*")
		if err != nil || len(entries) == 0 {
			t.Fatal(entries, err)
		}
		if err := os.WriteFile(entries[0], []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		removeAll(t, sprint(b.conf(nil)["runDir"]))
		b.fails(104, "ADD", b.conf(nil), []string{entries[0], "corrupt"}, "CNI_IFNAME=net1")
	})
	t.Run("locked store", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.ok("ADD", b.conf(nil))
		data := sprint(b.conf(nil)["dataDir"])
		lock, err := os.Open(data + "/store/lock")
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		conf := b.conf(map[string]any{"name": "other", "network": map[string]any{"cidrs": []string{"10.9.0.0/16"}, "vni": 5000}})
		b.fails(11, "ADD", conf, []string{data + "/store", "locked"}, "CNI_IFNAME=net1")
	})
}

// TestNoPrivileges: an ordinary user gets told so.
func TestNoPrivileges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("ADD", b.conf(nil))
	b.ok("DEL", b.conf(nil))
	bin := filepath.Join(t.TempDir(), "overlay-vxlan")
	data, err := os.ReadFile(b.find("overlay-vxlan"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(bin); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := b.asNobody("ADD", bin)
	a.check(t, "ADD", 103, "permission denied")
}

// asNobody runs the plugin as an ordinary user, with the daemon's state given.
func (b *bench) asNobody(verb, bin string) answer {
	b.tb.Helper()
	b.path = append([]string{filepath.Dir(bin)}, b.path...)
	return b.runAs("overlay-vxlan", verb, &syscall.Credential{Uid: 65534, Gid: 65534})
}
