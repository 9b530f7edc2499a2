package kernel_test

// Many changes in one Apply, some of which the kernel refuses.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// block is the nth block of a network, either family.
func block(n int, v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 2, 0x44, byte(n >> 8), byte(n)}), 64)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + n>>8), byte(n), 0}), 24)
}

func TestThousandRoutesInOneApply(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %t", v6), func(t *testing.T) {
			t.Parallel()
			h, conn := newHost(t)
			want := onVXLAN(false)
			stranger, bad := ip("203.0.113.9"), map[string]bool{}
			if v6 {
				stranger = ip("2001:db8::9")
			}
			for n := range 1000 {
				b := block(n, v6)
				r := kernel.Route{Dst: b, Link: "vx0", Via: b.Addr(), Metric: uint32(2000 + n)}
				if n%7 == 3 || n == 999 {
					r.Source = stranger // which the kernel refuses: it isn't ours
					bad[r.String()] = true
				}
				want = append(want, r)
			}
			target := kernel.NewTarget(conn, want)
			changes, err := reconcile.Run(t.Context(), target, want, reconcile.Owned)
			if len(changes) != len(want) || !errors.Is(err, unix.EINVAL) {
				t.Fatalf("%d changes, want %d; %v", len(changes), len(want), err)
			}
			lines := strings.Split(err.Error(), "\n")
			for _, line := range lines {
				text, why, ok := strings.Cut(strings.TrimPrefix(line, "add "), ": invalid argument: ")
				if !ok || !bad[text] || why == "" {
					t.Errorf("%q, want the route and the kernel's own words", line)
				}
				delete(bad, text)
			}
			if len(bad) > 0 {
				t.Errorf("no error about %d bad routes", len(bad))
			}
			have := observe(t, target)
			if routes := len(want) - len(lines); len(have) != routes {
				t.Errorf("%d objects, want all %d good ones", len(have), routes)
			}
			// All go in one batch, too, those that never were among them.
			var all []reconcile.Change
			for _, o := range want[2:] {
				all = append(all, reconcile.Change{Have: o})
			}
			if err := target.Apply(t.Context(), all); err != nil {
				t.Errorf("remove: %v", err)
			}
			if out := command(t, h, "ip route show proto 118") + command(t, h, "ip -6 route show proto 118"); out != "" {
				t.Errorf("routes remain:\n%s", out)
			}
		})
	}
}

// One error per object, whatever is wrong with it, in the kernel's own words.
func TestErrorsNameTheirObjects(t *testing.T) {
	t.Parallel()
	_, conn := newHost(t)
	base := onVXLAN(false)
	settle(t, kernel.NewTarget(conn, base), base, reconcile.Owned)
	tests := []struct {
		o    reconcile.Object
		text string
	}{
		{kernel.Route{Dst: prefix("10.1.0.0/16"), Link: "vx0", Via: ip("127.0.0.1"), Metric: 1}, "add route 10.1.0.0/16 via 127.0.0.1 dev vx0 metric 1: invalid argument: Nexthop has invalid gateway"},
		{kernel.Route{Dst: prefix("fd01::/64"), Link: "vx0", Via: ip("::1"), Metric: 1}, "add route fd01::/64 via ::1 dev vx0 metric 1: "},
		{kernel.Route{Dst: prefix("10.3.0.0/16"), Link: "nosuch", Metric: 1}, "add route 10.3.0.0/16 dev nosuch metric 1: find link nosuch: link does not exist"},
		{kernel.Address{Link: "vx0", Prefix: prefix("ff02::1/128")}, "add address ff02::1/128 dev vx0: "},
		{kernel.Address{Link: "vx0", Prefix: prefix("255.255.255.255/32")}, ""},
		{kernel.Neighbor{Link: "vx0", Address: ip("10.9.9.9"), MAC: macB}, ""},
		{kernel.FDB{Link: "vx0", MAC: macB, Remote: ip("fd00::9")}, "add fdb 0e:00:00:00:00:0b dst fd00::9 dev vx0: "},
		{kernel.Alias{Link: "vx0", Text: strings.Repeat("x", 300)}, ""},
		{kernel.Sysctl{Name: "net/ipv4/no_such", Value: "1"}, "set sysctl net.ipv4.no_such = 1: open /proc/sys/net/ipv4/no_such: no such file"},
		{kernel.Interface{Name: "nosuch", MTU: 1400}, "change link nosuch mtu 1400: link does not exist"},
		{kernel.VXLAN{Name: "a-name-that-is-too-long", VNI: 1, Port: 1, Local: ip("172.30.1.10"), MTU: 1400, MAC: macB}, "create link a-name-that-is-too-long vxlan id 1 "},
		{kernel.VXLAN{Name: "vx9", VNI: 1 << 24, Port: 1, Local: ip("172.30.1.10"), MTU: 1400, MAC: macB}, "create link vx9 vxlan id 16777216 "},
		{kernel.VXLAN{Name: "vx8", VNI: 9, Port: 9, Local: ip("172.30.1.10"), MTU: 1400}, "create link vx8 vxlan id 9 "},
	}
	var changes []reconcile.Change
	for _, tt := range tests {
		changes = append(changes, reconcile.Change{Want: tt.o})
	}
	err := (&kernel.Target{Conn: conn}).Apply(t.Context(), changes)
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, tt := range tests {
		if tt.text != "" && !hasPrefix(lines, tt.text) {
			t.Errorf("no error %q in\n%v", tt.text, err)
		}
	}
}

func TestRemovingWhatIsGone(t *testing.T) {
	t.Parallel()
	h, conn := newHost(t)
	all := append(loaded(vxlan(false)), kernel.Route{Dst: prefix("10.244.1.0/24"), Metric: 1 << 31})
	removals := reconcile.Diff(nil, all, reconcile.Owned)
	for name, prepare := range map[string]func(*kernel.Target){
		"never was":          func(*kernel.Target) {},
		"gone with its link": func(target *kernel.Target) { observe(t, target); command(t, h, "ip link delete vx0") },
		"emptied":            func(*kernel.Target) { command(t, h, "ip link set vx0 down"); command(t, h, "ip link set vx0 up") },
		"all there":          func(*kernel.Target) {},
	} {
		if name != "never was" {
			settle(t, kernel.NewTarget(conn, all), all, reconcile.Owned)
		}
		target := kernel.NewTarget(conn, all)
		prepare(target)
		if err := target.Apply(t.Context(), removals); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := observe(t, target); len(left) > 0 {
			t.Errorf("%s: left: %v", name, left)
		}
	}
}

func hasPrefix(lines []string, text string) bool {
	for _, l := range lines {
		if strings.HasPrefix(l, text) {
			return true
		}
	}
	return false
}

func TestCanceledApplyStops(t *testing.T) {
	t.Parallel()
	_, conn := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want := onVXLAN(false)
	target := kernel.NewTarget(conn, want)
	if err := target.Apply(ctx, reconcile.Diff(want, nil, reconcile.Owned)); !errors.Is(err, context.Canceled) {
		t.Errorf("apply: %v", err)
	}
	if _, err := target.Observe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("observe: %v", err)
	}
	if have := observe(t, target); len(have) > 0 {
		t.Errorf("made although canceled: %v", have)
	}
}
