package cni_test

import (
	"context"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
)

// What the node knows of its pods' Ethernet addresses, and how it goes on when
// somebody else changes one.

// atOnce is less than the kernel takes to find out by itself that a neighbour no
// longer answers: five seconds until it asks, and three of asking.
const atOnce = 4 * time.Second

// expectReached pings addresses from a host.
func expectReached(t *testing.T, from *lab.Host, within time.Duration, addresses ...netip.Addr) {
	t.Helper()
	for _, a := range addresses {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		if _, err := from.Ping(ctx, a); err != nil {
			t.Errorf("%v; it knows:\n%s", err, runIn(t, from, "ip", "-s", "neighbor"))
		}
		cancel()
	}
}

// TestTuningChangesTheMAC: the pod is reached from its node and from elsewhere
// as soon as ADD is over, reaches others, and CHECK succeeds at once.
func TestTuningChangesTheMAC(t *testing.T) {
	t.Parallel()
	const mac = "02:00:5e:10:00:01"
	c := clustertest.New(t, cluster.Options{
		Path:  []string{clustertest.Peers(t)},
		Chain: []string{`{"type": "tuning", "mac": "` + mac + `"}`},
	})
	near, far := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	p, other := clustertest.Pod(t, near, "p1"), clustertest.Pod(t, far, "p2")
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if got := p.Result.Interfaces[1].Mac; got != mac {
		t.Fatalf("tuning gave the pod %s", got)
	}
	expectReached(t, near.Host, atOnce, p.Addresses()...)
	expectReached(t, other.Host, atOnce, p.Addresses()...)
	expectReached(t, p.Host, atOnce, other.Addresses()...)
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("CHECK of a pod that was used: %v", err)
	}
	if err := p.Del(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestMACChangesInSilence: even a pod that announces nothing, and sends nothing,
// is found again. CHECK lets it say nothing.
func TestMACChangesInSilence(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.ok("ADD", b.conf(nil)).result
	b.askEarly(r)
	b.inPod("sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_notify; echo 0 >/proc/sys/net/ipv6/conf/eth0/ndisc_notify")
	b.ok("CHECK", with(b.conf(nil), r))
	b.inPod("ip", "link", "set", "eth0", "address", "02:00:5e:10:00:01")
	r["interfaces"].([]any)[1].(map[string]any)["mac"] = "02:00:5e:10:00:01"
	expectReached(t, b.node.Host, atOnce, b.addresses(r)...)
	b.ok("CHECK", with(b.conf(nil), r))
}

// TestPodThatDoesNotAnswer: a pod may answer no question for its Ethernet
// address, and is reached all the same.
func TestPodThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.ok("ADD", b.conf(nil)).result
	b.askEarly(r)
	b.inPod("sh", "-c", `echo 8 >/proc/sys/net/ipv4/conf/eth0/arp_ignore
		nft add table ip6 deaf; nft add chain ip6 deaf in '{ type filter hook input priority 0; }'
		nft add rule ip6 deaf in icmpv6 type nd-neighbor-solicit drop`)
	for _, a := range b.addresses(r) {
		expectReached(t, b.node.Host, atOnce, a)
		// More often than the kernel would before it gave up.
		await(t, func() bool { return b.asked(a) > 10 })
		expectReached(t, b.node.Host, atOnce, a)
	}
	b.ok("CHECK", with(b.conf(nil), r))
}

// askEarly makes the node doubt its entries as soon as they are used, and ask
// fifty times a second, so that tests need not wait for it.
func (b *bench) askEarly(result map[string]any) {
	b.tb.Helper()
	host := result["interfaces"].([]any)[0].(map[string]any)["name"].(string)
	for _, family := range []string{"ipv4", "ipv6"} {
		dir := "/proc/sys/net/" + family + "/neigh/" + host
		runIn(b.tb, b.node.Host, "sh", "-c", "echo 0 >"+dir+"/delay_first_probe_time; echo 20 >"+dir+"/retrans_time_ms")
	}
}

// asked says how often the node has asked for an address in vain; not at all
// where it has no entry that can be used.
func (b *bench) asked(a netip.Addr) int {
	b.tb.Helper()
	entry := runIn(b.tb, b.node.Host, "ip", "-s", "neighbor", "show", "nud", "probe", "to", a.String())
	found := regexp.MustCompile(`probes (\d+)`).FindStringSubmatch(entry)
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		b.tb.Fatal(err)
	}
	return n
}

// addresses of a result.
func (b *bench) addresses(result map[string]any) []netip.Addr {
	b.tb.Helper()
	var all []netip.Addr
	for _, text := range ips(result) {
		a, err := netip.ParseAddr(text[:strings.IndexByte(text, '/')])
		if err != nil {
			b.tb.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}
