package kernel_test

// Every kind of object through its life: created, found as it is wanted,
// changed, removed.

import (
	"slices"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// life is an object, what it becomes, and what it stands on.
type life struct {
	base          []reconcile.Object
	first, second reconcile.Object
	with          []reconcile.Object // wanted with either of them
	// stays: removing it isn't for the target to do.
	stays bool
}

func onVXLAN(v6 bool, more ...reconcile.Object) []reconcile.Object {
	return append([]reconcile.Object{vxlan(v6), kernel.Up{Link: "vx0"}}, more...)
}

func lives() map[string]life {
	address4 := kernel.Address{Link: "vx0", Prefix: prefix("10.244.1.0/32")}
	address6 := kernel.Address{Link: "vx0", Prefix: prefix("fd00:10:244:1::/128")}
	via := func(dst, gateway string, metric uint32) kernel.Route {
		return kernel.Route{Dst: prefix(dst), Link: "vx0", Via: ip(gateway), Metric: metric}
	}
	source := func(r kernel.Route, a string) kernel.Route { r.Source = ip(a); return r }
	smaller := vxlan(false)
	smaller.MTU, smaller.MAC = 1300, macB
	otherVNI := vxlan(false)
	otherVNI.VNI = 78
	over6 := vxlan(true)
	over6.Port = 8472
	veth := kernel.Veth{Name: "ve0", MTU: 1400, MAC: macA, Group: 7, Peer: "peer0", PeerMAC: macB}
	veth2 := veth
	veth2.MTU, veth2.MAC = 1300, macC
	up := []reconcile.Object{kernel.Up{Link: "vx0"}}
	return map[string]life{
		"VXLAN, changed in place":        {first: vxlan(false), second: smaller, with: up},
		"VXLAN, made anew":               {first: vxlan(false), second: otherVNI, with: up},
		"VXLAN, over another family":     {first: vxlan(false), second: over6, with: up},
		"veth":                           {first: veth, second: veth2},
		"up":                             {base: []reconcile.Object{veth}, first: kernel.Up{Link: "ve0"}, stays: true},
		"interface":                      {first: kernel.Interface{Name: "eth0", MTU: 1400}, second: kernel.Interface{Name: "eth0", MTU: 1300, MAC: macC}, stays: true},
		"alias":                          {base: onVXLAN(false), first: kernel.Alias{Link: "vx0", Text: "one"}, second: kernel.Alias{Link: "vx0", Text: "two/2"}, stays: true},
		"sysctl IPv4":                    {first: kernel.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}, second: kernel.Sysctl{Name: "net/ipv4/ip_forward", Value: "0"}, stays: true},
		"sysctl IPv6 of a new link":      {base: onVXLAN(false), first: kernel.Sysctl{Name: "net/ipv6/conf/vx0/addr_gen_mode", Value: "1"}, second: kernel.Sysctl{Name: "net/ipv6/conf/vx0/addr_gen_mode", Value: "0"}, stays: true},
		"address IPv4":                   {base: onVXLAN(false), first: address4, second: kernel.Address{Link: "vx0", Prefix: prefix("10.244.1.0/24")}},
		"address IPv6":                   {base: onVXLAN(false), first: address6, second: kernel.Address{Link: "vx0", Prefix: prefix("fd00:10:244:2::/128")}},
		"address IPv6, other length":     {base: onVXLAN(false), first: address6, second: kernel.Address{Link: "vx0", Prefix: prefix("fd00:10:244:1::/64")}},
		"address IPv4, link-local":       {base: onVXLAN(false), first: kernel.Address{Link: "vx0", Prefix: prefix("169.254.7.1/32")}, second: address4},
		"neighbour IPv4":                 {base: onVXLAN(false), first: kernel.Neighbor{Link: "vx0", Address: ip("10.244.2.0"), MAC: macB}, second: kernel.Neighbor{Link: "vx0", Address: ip("10.244.2.0"), MAC: macC}},
		"neighbour IPv6":                 {base: onVXLAN(true), first: kernel.Neighbor{Link: "vx0", Address: ip("fd00:10:244:2::"), MAC: macB}, second: kernel.Neighbor{Link: "vx0", Address: ip("fd00:10:244:2::"), MAC: macC}},
		"neighbour IPv4 that follows":    {base: onVXLAN(false), first: kernel.Neighbor{Link: "vx0", Address: ip("10.244.2.0"), MAC: macB, Follows: true}, second: kernel.Neighbor{Link: "vx0", Address: ip("10.244.2.0"), MAC: macB}},
		"neighbour IPv6 that follows":    {base: onVXLAN(true), first: kernel.Neighbor{Link: "vx0", Address: ip("fd00:10:244:2::"), MAC: macB}, second: kernel.Neighbor{Link: "vx0", Address: ip("fd00:10:244:2::"), MAC: macB, Follows: true}},
		"neighbour IPv6, link-local":     {base: onVXLAN(true), first: kernel.Neighbor{Link: "vx0", Address: ip("fe80::1"), MAC: macB}, second: kernel.Neighbor{Link: "vx0", Address: ip("fe80::1"), MAC: macC}},
		"FDB over IPv4":                  {base: onVXLAN(false), first: kernel.FDB{Link: "vx0", MAC: macB, Remote: ip("172.30.1.11")}, second: kernel.FDB{Link: "vx0", MAC: macB, Remote: ip("172.30.1.12")}},
		"FDB over IPv6":                  {base: onVXLAN(true), first: kernel.FDB{Link: "vx0", MAC: macB, Remote: ip("fd00:30:1::b")}, second: kernel.FDB{Link: "vx0", MAC: macB, Remote: ip("fd00:30:1::c")}},
		"route IPv4":                     {base: onVXLAN(false), first: via("10.244.2.0/24", "10.244.2.0", 9), second: via("10.244.2.0/24", "10.244.2.1", 9)},
		"route IPv6":                     {base: onVXLAN(false), first: via("fd00:10:244:2::/64", "fd00:10:244:2::", 9), second: via("fd00:10:244:2::/64", "fd00:10:244:2::1", 9)},
		"route IPv4 with a source":       {base: onVXLAN(false, address4), first: source(via("10.244.2.0/24", "10.244.2.0", 9), "10.244.1.0"), second: via("10.244.2.0/24", "10.244.2.0", 9)},
		"route IPv6 with a source":       {base: onVXLAN(false, address6), first: source(via("fd00:10:244:2::/64", "fd00:10:244:2::", 9), "fd00:10:244:1::"), second: via("fd00:10:244:2::/64", "fd00:10:244:2::", 9)},
		"route IPv4 to the link":         {base: onVXLAN(false), first: kernel.Route{Dst: prefix("10.244.1.7/32"), Link: "vx0", Metric: 1024}, second: via("10.244.1.7/32", "10.244.2.0", 1024)},
		"route IPv6 to the link":         {base: onVXLAN(false), first: kernel.Route{Dst: prefix("fd00::7/128"), Link: "vx0", Metric: 1024}, second: via("fd00::7/128", "fe80::1", 1024)},
		"route IPv4 without a metric":    {base: onVXLAN(false), first: via("10.244.2.0/24", "10.244.2.0", 0), second: via("10.244.2.0/24", "10.244.2.0", 5)},
		"default route IPv4":             {base: onVXLAN(false), first: via("0.0.0.0/0", "169.254.1.1", 7000), second: via("0.0.0.0/0", "169.254.1.2", 7000)},
		"default route IPv6":             {base: onVXLAN(false), first: via("::/0", "fe80::1", 7000), second: via("::/0", "fe80::2", 7000)},
		"blackhole route IPv4":           {first: kernel.Route{Dst: prefix("10.244.1.0/24"), Metric: 1 << 31}, second: kernel.Route{Dst: prefix("10.244.1.0/24"), Metric: 5}},
		"blackhole route IPv6":           {first: kernel.Route{Dst: prefix("fd00:10:244:1::/64"), Metric: 1 << 31}, second: kernel.Route{Dst: prefix("fd00:10:244:1::/64"), Metric: 5}},
		"blackhole route becomes a link": {base: onVXLAN(false), first: kernel.Route{Dst: prefix("10.244.9.0/24"), Metric: 5}, second: via("10.244.9.0/24", "10.244.9.0", 5)},
	}
}

func TestLifeOfEachKind(t *testing.T) {
	t.Parallel()
	for name, l := range lives() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, conn := newHost(t)
			before := snapshot(t, h)
			known := append(slices.Clone(l.base), l.first)
			if l.second != nil {
				known = append(known, l.second)
			}
			target := kernel.NewTarget(conn, known)
			// What the lab gave its host isn't ours to take away.
			scope := reconcile.Owned
			if slices.Contains(target.Links, "eth0") {
				scope = reconcile.Shared
			}
			expect := func(o reconcile.Object, n int) {
				t.Helper()
				have := observe(t, target)
				if got := count(have, o); got != n {
					t.Errorf("%d times observed, want %d: %s\nin:\n%s", got, n, o, reconcile.Format(have))
				}
			}
			expect(l.first, 0)
			settle(t, target, slices.Concat(l.base, l.with, []reconcile.Object{l.first}), scope)
			expect(l.first, 1)
			if l.second != nil {
				settle(t, target, slices.Concat(l.base, l.with, []reconcile.Object{l.second}), scope)
				expect(l.first, 0)
				expect(l.second, 1)
			}
			if l.stays {
				return
			}
			settle(t, target, l.base, scope)
			expect(l.second, 0)
			if len(l.base) == 0 {
				if diff := before.Diff(snapshot(t, h)); len(diff) > 0 {
					t.Errorf("left behind: %q", diff)
				}
			}
		})
	}
}

// What the target says of an object, ip(8) and bridge(8) say too.
func TestToolsAgree(t *testing.T) {
	t.Parallel()
	h, conn := newHost(t)
	want := onVXLAN(false,
		kernel.Alias{Link: "vx0", Text: "mark"},
		kernel.Address{Link: "vx0", Prefix: prefix("10.244.1.0/32")},
		kernel.FDB{Link: "vx0", MAC: macB, Remote: ip("172.30.1.11")},
		kernel.Neighbor{Link: "vx0", Address: ip("10.244.2.0"), MAC: macB},
		kernel.Route{Dst: prefix("10.244.2.0/24"), Link: "vx0", Via: ip("10.244.2.0"), Metric: 9},
		kernel.Route{Dst: prefix("fd00:10:244:2::/64"), Link: "vx0", Via: ip("fd00:10:244:2::"), Metric: 9},
		kernel.Route{Dst: prefix("10.244.1.0/24"), Metric: 1 << 31},
	)
	settle(t, kernel.NewTarget(conn, want), want, reconcile.Owned)
	for line, wanted := range map[string][]string{
		"ip -d link show vx0":       {"vxlan id 77 local 172.30.1.10", "dstport 4789 nolearning", "mtu 1400", "alias mark", "link/ether 0e:00:00:00:00:0a", ",UP"},
		"ip address show vx0":       {"inet 10.244.1.0/32 scope global"},
		"bridge fdb show dev vx0":   {"0e:00:00:00:00:0b dst 172.30.1.11 self permanent"},
		"ip neighbour show dev vx0": {"10.244.2.0 lladdr 0e:00:00:00:00:0b PERMANENT"},
		"ip route show proto 118":   {"blackhole 10.244.1.0/24 metric 2147483648", "10.244.2.0/24 via 10.244.2.0 dev vx0 metric 9 onlink"},
		"ip -6 route show dev vx0":  {"fd00:10:244:2::/64 via fd00:10:244:2:: proto 118 metric 9 onlink"},
	} {
		expectLines(t, line, command(t, h, line), wanted)
	}
}
