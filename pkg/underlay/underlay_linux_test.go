package underlay_test

// Which interface a node's VXLAN goes over, and by which addresses.

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// find looks in a host of its own, after some commands.
func find(t *testing.T, name, commands string) (intent.Underlay, error) {
	t.Helper()
	h := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a").Host
	if out, err := h.Command(t.Context(), "sh", "-ec", commands).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, out)
	}
	var found intent.Underlay
	var failed error
	err := h.Do(func() error {
		found, failed = underlay.Find(name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, failed
}

// second adds another interface, eth1, with addresses.
const second = `ip link add eth1 up mtu 1400 type veth peer name far; ip link set far up
	ip address add 192.0.2.10/24 dev eth1; ip -6 address add 2001:db8:7::a/64 nodad dev eth1
	`

func TestFind(t *testing.T) {
	t.Parallel()
	const v4, v6 = "172.30.1.10", "fd00:30:1::a"
	tests := map[string]struct {
		name, commands string
		want           string // interface, MTU, addresses
	}{
		"default route":              {"", "", "eth0 1500 [" + v4 + " " + v6 + "]"},
		"by its name":                {"eth1", second, "eth1 1400 [192.0.2.10 2001:db8:7::a]"},
		"by its second name":         {"uplink", second + "ip link property add dev eth1 altname uplink", "eth1 1400 [192.0.2.10 2001:db8:7::a]"},
		"only IPv6 default route":    {"", "ip route delete default", "eth0 1500 [" + v4 + " " + v6 + "]"},
		"IPv4 before IPv6":           {"", second + "ip -6 route delete default; ip -6 route add default via 2001:db8:7::1 metric 1", "eth0 1500 [" + v4 + " " + v6 + "]"},
		"IPv6 elsewhere":             {"", second + "ip route delete default; ip -6 route delete default; ip -6 route add default via 2001:db8:7::1 metric 1", "eth1 1400 [192.0.2.10 2001:db8:7::a]"},
		"no IPv6 address":            {"", "ip -6 address flush dev eth0 scope global", "eth0 1500 [" + v4 + "]"},
		"no IPv4 address":            {"eth0", "ip address delete " + v4 + "/24 dev eth0", "eth0 1500 [" + v6 + "]"},
		"best metric wins":           {"", second + "ip route add default via 192.0.2.1 metric 5; ip route delete default metric 0; ip route add default via 172.30.1.1 metric 6", "eth1 1400 [192.0.2.10 2001:db8:7::a]"},
		"worse metric loses":         {"", second + "ip route add default via 192.0.2.1 metric 5", "eth0 1500 [" + v4 + " " + v6 + "]"},
		"unreachable isn't a route":  {"", second + "ip route delete default; ip route add unreachable default; ip route add default via 192.0.2.1 metric 5; ip -6 route delete default", "eth1 1400 [192.0.2.10 2001:db8:7::a]"},
		"two next hops":              {"", second + "ip route replace default nexthop via 192.0.2.1 nexthop via 172.30.1.1", "eth1 1400 [192.0.2.10 2001:db8:7::a]"},
		"other tables don't count":   {"", second + "ip route add default via 192.0.2.1 table 77 metric 0", "eth0 1500 [" + v4 + " " + v6 + "]"},
		"link-local addresses don't": {"", "ip address add 169.254.3.4/16 scope link dev eth0", "eth0 1500 [" + v4 + " " + v6 + "]"},
		"deprecated IPv6":            {"", "ip -6 address change " + v6 + "/64 dev eth0 preferred_lft 0; ip -6 address add fd00:30:1::bb/64 nodad dev eth0", "eth0 1500 [" + v4 + " fd00:30:1::bb]"},
		"deprecated IPv4":            {"", "ip address change " + v4 + "/24 dev eth0 preferred_lft 0; ip address add 172.30.1.77/24 dev eth0", "eth0 1500 [172.30.1.77 " + v6 + "]"},
		"secondary IPv4":             {"", "ip address add 172.30.1.77/24 dev eth0; ip address add 172.30.1.5/24 dev eth0", "eth0 1500 [" + v4 + " " + v6 + "]"},
		"tentative IPv6":             {"", "sysctl -qw net.ipv6.conf.eth0.accept_dad=1 net.ipv6.conf.eth0.dad_transmits=200; ip -6 address flush dev eth0 scope global; ip -6 address add fd00:30:1::cc/64 dev eth0; ip -6 address add fd00:30:1::dd/64 nodad dev eth0", "eth0 1500 [" + v4 + " fd00:30:1::dd]"},
		"temporary IPv6":             {"", "sysctl -qw net.ipv6.conf.eth0.use_tempaddr=2; ip -6 address flush dev eth0 scope global; ip -6 address add fd00:30:1::ee/64 mngtmpaddr valid_lft 3600 preferred_lft 1800 nodad dev eth0; ip -6 address show dev eth0 | grep -q temporary", "eth0 1500 [" + v4 + " fd00:30:1::ee]"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := find(t, tt.name, tt.commands)
			if got := fmt.Sprintf("%s %d %v", u.Interface, u.MTU, u.Addresses); err != nil || got != tt.want {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestFindFails(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		name, commands string
		text           string
	}{
		"no default route":   {"", "ip route delete default; ip -6 route delete default", "set underlay.interface"},
		"only a blackhole":   {"", "ip route delete default; ip -6 route delete default; ip route add blackhole default; ip -6 route add unreachable default", "set underlay.interface"},
		"no address":         {"", "ip address flush dev eth0 scope global; ip route replace default dev eth0", "eth0 has no global address"},
		"only link-local":    {"eth0", "ip address flush dev eth0 scope global", "eth0 has no global address"},
		"loopback by name":   {"lo", "", "lo has no global address"},
		"missing by name":    {"eth7", "", "eth7"},
		"name that can't be": {"a-name-that-is-far-too-long", "", "a-name-that-is-far-too-long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := find(t, tt.name, tt.commands)
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("%+v, %v; want %q", u, err, tt.text)
			}
			var field *lease.FieldError
			if missing := strings.Contains(name, "name that") || strings.Contains(name, "missing"); missing {
				if !errors.As(err, &field) || field.Field != "underlay.interface" || field.Value != tt.name {
					t.Errorf("%#v, want a *lease.FieldError about underlay.interface", err)
				}
			} else if !errors.Is(err, underlay.ErrNone) {
				t.Errorf("%v, want %v", err, underlay.ErrNone)
			}
		})
	}
}

func TestAcceptsRA(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{"0": false, "1": true, "2": true} {
		u, err := find(t, "", "sysctl -qw net.ipv6.conf.eth0.accept_ra="+value)
		if err != nil || u.AcceptsRA != want {
			t.Errorf("accept_ra %s: %t, %v", value, u.AcceptsRA, err)
		}
	}
}

func TestStrictSources(t *testing.T) {
	t.Parallel()
	for values, want := range map[[2]string]bool{
		{"0", "0"}: false, {"1", "0"}: true, {"0", "1"}: true, {"2", "0"}: false, {"0", "2"}: false,
	} {
		u, err := find(t, "", "sysctl -qw net.ipv4.conf.all.rp_filter="+values[0]+" net.ipv4.conf.default.rp_filter="+values[1])
		if err != nil || u.StrictSources != want {
			t.Errorf("rp_filter %v: %t, %v", values, u.StrictSources, err)
		}
	}
}
