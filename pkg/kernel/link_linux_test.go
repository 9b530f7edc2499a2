package kernel_test

// Links: what changes in place, what is made anew, and what isn't ours.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// loaded is a device with something of each kind on it.
func loaded(v kernel.VXLAN) []reconcile.Object {
	remote := ip("172.30.1.11")
	if v.Local.Is6() {
		remote = ip("fd00:30:1::b")
	}
	return []reconcile.Object{
		v, kernel.Up{Link: v.Name},
		kernel.Address{Link: v.Name, Prefix: prefix("10.244.1.0/32")},
		kernel.Address{Link: v.Name, Prefix: prefix("fd00:10:244:1::/128")},
		kernel.FDB{Link: v.Name, MAC: macB, Remote: remote},
		kernel.Neighbor{Link: v.Name, Address: ip("10.244.2.0"), MAC: macB},
		kernel.Neighbor{Link: v.Name, Address: ip("fd00:10:244:2::"), MAC: macB},
		kernel.Route{Dst: prefix("10.244.2.0/24"), Link: v.Name, Via: ip("10.244.2.0"), Metric: 9},
		kernel.Route{Dst: prefix("fd00:10:244:2::/64"), Link: v.Name, Via: ip("fd00:10:244:2::"), Metric: 9},
	}
}

func TestVXLANChanges(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*kernel.VXLAN)
		anew   bool
	}{
		"MTU":               {func(v *kernel.VXLAN) { v.MTU = 1300 }, false},
		"MAC":               {func(v *kernel.VXLAN) { v.MAC = macC }, false},
		"MTU and MAC":       {func(v *kernel.VXLAN) { v.MTU, v.MAC = 1300, macC }, false},
		"VNI":               {func(v *kernel.VXLAN) { v.VNI = 78 }, true},
		"port":              {func(v *kernel.VXLAN) { v.Port = 8472 }, true},
		"local":             {func(v *kernel.VXLAN) { v.Local = ip("172.30.1.99") }, true},
		"underlay's family": {func(v *kernel.VXLAN) { v.Local = ip("fd00:30:1::a") }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, conn := newHost(t)
			before := vxlan(false)
			want := loaded(before)
			settle(t, kernel.NewTarget(conn, want), want, reconcile.Owned)
			index := linkIndex(t, h, "vx0")
			events := watchRoutes(t, h)

			after := before
			tt.change(&after)
			want = loaded(after)
			settle(t, kernel.NewTarget(conn, want), want, reconcile.Owned)
			if anew := linkIndex(t, h, "vx0") != index; anew != tt.anew {
				t.Errorf("made anew: %t, want %t", anew, tt.anew)
			}
			if removed := events(); (removed > 0) != tt.anew {
				t.Errorf("%d routes were removed on the way, made anew: %t", removed, tt.anew)
			}
		})
	}
}

func linkIndex(t testing.TB, h *lab.Host, name string) (index int) {
	t.Helper()
	do(t, h, func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	})
	return index
}

// watchRoutes counts, until it is asked, the routes that the kernel says were
// removed. What the kernel flushes silently with a link it doesn't announce
// for IPv4; for IPv6 it does.
func watchRoutes(t testing.TB, h *lab.Host) func() int {
	t.Helper()
	var fd int
	do(t, h, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrNetlink{
				Family: unix.AF_NETLINK, Groups: 1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1),
			})
		}
		return err
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	return func() int {
		removed, b := 0, make([]byte, 1<<16)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return removed
			}
			// Only unicast routes of ours: local ones follow the address.
			if n > 24 && b[4] == unix.RTM_DELROUTE && b[16+5] == kernel.Protocol {
				removed++
			}
		}
	}
}

func TestVethIntoAnotherNamespace(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	pod := labtest.Pod(t, node, "p1")
	conn, peer := open(t, node.Host), open(t, pod.Host)
	veth := kernel.Veth{Name: "ve0", MTU: 1400, MAC: macA, Group: 4711, Peer: "eth7", PeerMAC: macB}
	mark := kernel.Alias{Link: "ve0", Text: "overlay-cni/pods/" + strings.Repeat("x", 200) + "/eth7"}
	want := []reconcile.Object{veth, mark}
	target := kernel.NewTarget(conn, want)
	target.Peer = peer
	settle(t, target, want, reconcile.Owned)

	there := []reconcile.Object{kernel.Interface{Name: "eth7", MTU: 1400, MAC: macB}, kernel.Up{Link: "eth7"}}
	in := kernel.NewTarget(peer, there)
	if changes, err := reconcile.Run(t.Context(), in, there, reconcile.Shared); err != nil || len(changes) != 1 {
		t.Errorf("only being up should be missing: %v, %v", changes, err)
	}
	if have := observe(t, &kernel.Target{Conn: conn, Links: []string{"eth7"}}); len(have) > 0 {
		t.Errorf("the pod's end is on the node: %v", have)
	}
	veths, err := conn.Veths(4711)
	if err != nil || len(veths) != 1 || !veth.Matches(veths[0]) {
		t.Errorf("veths of the group: %v, %v", veths, err)
	}
	if veths, err := conn.Veths(4712); err != nil || len(veths) > 0 {
		t.Errorf("veths of another group: %v, %v", veths, err)
	}
	err = target.Apply(t.Context(), []reconcile.Change{{Have: veth}, {Have: veth}})
	if err != nil {
		t.Errorf("remove twice: %v", err)
	}
	if have := observe(t, in); len(have) > 0 {
		t.Errorf("the pod's end remains: %v", have)
	}
}

// A runtime's interface may be in a link group, or a VXLAN device.
func TestInterfaceOfAnyKind(t *testing.T) {
	t.Parallel()
	h, conn := newHost(t)
	command(t, h, "ip link add vg0 group 9 type veth peer name vg1")
	command(t, h, "ip link add vy0 type vxlan id 5 dstport 4790")
	for _, name := range []string{"vg0", "vy0"} {
		want := []reconcile.Object{kernel.Interface{Name: name, MTU: 1300, MAC: macA}, kernel.Up{Link: name}}
		settle(t, kernel.NewTarget(conn, want), want, reconcile.Shared)
	}
}

func TestLinkOfAnotherKind(t *testing.T) {
	t.Parallel()
	foreign := map[string]func(testing.TB, *lab.Host){
		"bridge": func(t testing.TB, h *lab.Host) { bridge(t, h, "vx0") },
		"veth of another group": func(t testing.TB, h *lab.Host) {
			command(t, h, "ip link add vx0 up group 9 type veth peer name other")
			command(t, h, "ip address add 192.0.2.1/24 dev vx0")
		},
		"bridge with the name as its second": func(t testing.TB, h *lab.Host) {
			bridge(t, h, "br7")
			command(t, h, "ip link property add dev br7 altname vx0")
		},
		"VXLAN device with the name as its second": func(t testing.TB, h *lab.Host) {
			command(t, h, "ip link add vy0 up type vxlan id 5 dstport 4790 local 172.30.1.10")
			command(t, h, "ip address add 192.0.2.1/24 dev vy0")
			command(t, h, "ip link property add dev vy0 altname vx0")
		},
	}
	wanted := map[string][]reconcile.Object{
		"VXLAN": loaded(vxlan(false)),
		"veth": {
			kernel.Veth{Name: "vx0", MTU: 1300, MAC: macA, Group: 7, Peer: "peer0", PeerMAC: macB}, kernel.Up{Link: "vx0"},
			kernel.Alias{Link: "vx0", Text: "mark"}, kernel.Sysctl{Name: "net/ipv6/conf/vx0/addr_gen_mode", Value: "1"},
		},
	}
	for what, add := range foreign {
		for kind, want := range wanted {
			t.Run(kind+" wanted, "+what+" there", func(t *testing.T) {
				t.Parallel()
				h, conn := newHost(t)
				add(t, h)
				before := snapshot(t, h)
				target := kernel.NewTarget(conn, want)
				for _, scope := range []reconcile.Scope{reconcile.Shared, reconcile.Owned} {
					if _, err := reconcile.Settle(t.Context(), target, want, scope); !errors.Is(err, kernel.ErrLinkExists) {
						t.Errorf("owned %t: %v, want %v", scope, err, kernel.ErrLinkExists)
					}
				}
				if what != "veth of another group" { // a group is all that tells veths apart
					if _, err := reconcile.Run(t.Context(), target, nil, reconcile.Owned); !errors.Is(err, kernel.ErrLinkExists) {
						t.Errorf("remove: %v, want %v", err, kernel.ErrLinkExists)
					}
				}
				if diff := before.Diff(snapshot(t, h)); len(diff) > 0 {
					t.Errorf("touched: %q", diff)
				}
			})
		}
	}
}

// What isn't on the link that is in the way is done all the same.
func TestLinkOfAnotherKindStopsNothingElse(t *testing.T) {
	t.Parallel()
	h, conn := newHost(t)
	bridge(t, h, "vx0")
	other := vxlan(false)
	other.Name, other.VNI = "vx1", 78
	blackhole := kernel.Route{Dst: prefix("10.244.1.0/24"), Metric: 1 << 31}
	want := append(loaded(vxlan(false)), other, kernel.Up{Link: "vx1"}, blackhole)
	target := kernel.NewTarget(conn, want)
	_, err := reconcile.Run(t.Context(), target, want, reconcile.Owned)
	if !errors.Is(err, kernel.ErrLinkExists) || strings.Count(err.Error(), kernel.ErrLinkExists.Error()) != 1 {
		t.Errorf("%v, want %v once", err, kernel.ErrLinkExists)
	}
	have := observe(t, target)
	for _, o := range []reconcile.Object{other, kernel.Up{Link: "vx1"}, blackhole} {
		if count(have, o) != 1 {
			t.Errorf("not made: %s", o)
		}
	}
}

func TestConflictsAreNamed(t *testing.T) {
	t.Parallel()
	process := fmt.Sprintf("process %d (%s)", os.Getpid(), processName(t))
	tests := map[string]struct {
		prepare func(testing.TB, *lab.Host)
		want    error
		text    string
	}{
		"VNI": {
			device("type vxlan id 77 dstport 4789 nolearning"), kernel.ErrVNIInUse,
			"VNI 77: create link vx0 vxlan id 77 local 172.30.1.10 dstport 4789 nolearning mtu 1400 address 0e:00:00:00:00:0a: " +
				kernel.ErrVNIInUse.Error() + ": file exists: A VXLAN device with the specified VNI already exists: it is used by device other",
		},
		"port, UDP over IPv4": {listen("udp4"), kernel.ErrPortInUse, ": it is used by " + process},
		"port, UDP over both": {listen("udp"), kernel.ErrPortInUse, ": it is used by " + process},
		"another VNI":         {device("type vxlan id 78 dstport 4789 nolearning"), nil, ""},
		"another port":        {device("type vxlan id 77 dstport 8472 nolearning"), nil, ""},
		"only IPv6":           {listen("udp6"), nil, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, conn := newHost(t)
			tt.prepare(t, h)
			before := snapshot(t, h)
			v := vxlan(false)
			want := []reconcile.Object{v, kernel.Up{Link: v.Name}}
			_, err := reconcile.Settle(t.Context(), kernel.NewTarget(conn, want), want, reconcile.Owned)
			do(t, h, func() error { err = kernel.Explain(err, v); return nil })
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v\nwant %q with %q", err, tt.want, tt.text)
			}
			if diff := before.Diff(snapshot(t, h)); len(diff) > 0 {
				t.Errorf("left behind: %q", diff)
			}
		})
	}
}

func processName(t testing.TB) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

// device adds another VXLAN device and brings it up.
func device(kind string) func(testing.TB, *lab.Host) {
	return func(t testing.TB, h *lab.Host) {
		t.Helper()
		command(t, h, "ip link add other up "+kind)
	}
}

// listen opens a UDP socket on the port.
func listen(network string) func(testing.TB, *lab.Host) {
	return func(t testing.TB, h *lab.Host) {
		t.Helper()
		do(t, h, func() error {
			c, err := net.ListenPacket(network, ":4789")
			if err == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
			return err
		})
	}
}
