package firewall_test

import (
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

// TestForwardIsIPTablesOwn: what is written without iptables, iptables lists as
// if it had written it; and it goes without a trace.
func TestForwardIsIPTablesOwn(t *testing.T) {
	t.Parallel()
	h, r := newHost(t), dualStack()
	command(t, h, "iptables -P FORWARD DROP; iptables -A FORWARD -s 192.0.2.1 -j DROP; ip6tables -P FORWARD DROP")
	before := command(t, h, "iptables -S; ip6tables -S")
	made := apply(t, h, firewall.Nftables, r)
	if len(made) != 3+len(r.Peers) {
		t.Errorf("made %v", made)
	}
	for line, want := range map[string]string{
		"iptables -S FORWARD":            "-P FORWARD DROP\n-A FORWARD -s 192.0.2.1/32 -j DROP\n-A FORWARD -j OVERLAY-FWD-pods\n",
		"iptables -S OVERLAY-FWD-pods":   "-N OVERLAY-FWD-pods\n-A OVERLAY-FWD-pods -s 10.244.0.0/16 -j ACCEPT\n-A OVERLAY-FWD-pods -d 10.244.0.0/16 -j ACCEPT\n",
		"ip6tables -S OVERLAY-FWD-pods":  "-N OVERLAY-FWD-pods\n-A OVERLAY-FWD-pods -s fd00:10:244::/48 -j ACCEPT\n-A OVERLAY-FWD-pods -d fd00:10:244::/48 -j ACCEPT\n",
		"ip6tables -S FORWARD | tail -1": "-A FORWARD -j OVERLAY-FWD-pods\n",
	} {
		if got := command(t, h, line); got != want {
			t.Errorf("%s:\n%s", line, got)
		}
	}
	for _, drift := range []string{
		"iptables -F OVERLAY-FWD-pods", "iptables -D FORWARD 2", "iptables -A OVERLAY-FWD-pods -j DROP",
		"iptables -F; iptables -X", "ip6tables -R OVERLAY-FWD-pods 1 -j DROP",
	} {
		command(t, h, drift)
		if made := apply(t, h, firewall.Nftables, r); len(made) != 1 || !strings.Contains(made[0].String(), "OVERLAY-FWD-pods") {
			t.Errorf("after %q: %v", drift, made)
		}
	}
	command(t, h, "iptables -A FORWARD -s 192.0.2.1 -j DROP") // which a flush above took
	remove(t, h, firewall.Nftables, r)
	if after := command(t, h, "iptables -S; ip6tables -S"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
