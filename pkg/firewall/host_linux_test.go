package firewall_test

// What the tests of this package have in common: hosts, rules, and the ways to
// look at a packet filter from outside.

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/firewall/xtables"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

var update = flag.Bool("update", false, "write the golden files")

func prefixes(list ...string) (found []netip.Prefix) {
	for _, s := range list {
		found = append(found, netip.MustParsePrefix(s))
	}
	return found
}

func addresses(list ...string) (found []netip.Addr) {
	for _, s := range list {
		found = append(found, netip.MustParseAddr(s))
	}
	return found
}

// dualStack are the rules of a network with all there is.
func dualStack() *firewall.Rules {
	return &firewall.Rules{
		Network: "pods", VNI: 4096, Port: 4789, Underlay: netip.MustParseAddr("172.30.1.10"),
		Peers:      addresses("172.30.1.11", "172.30.2.10"),
		CIDRs:      prefixes("10.244.0.0/16", "fd00:10:244::/48"),
		VTEPs:      []netip.Addr{netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("fd00:10:244:1::")},
		Blocks:     prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
		Masquerade: true, Exclude: prefixes("192.168.0.0/16"),
	}
}

func newHost(t testing.TB) *lab.Host {
	t.Helper()
	return labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a").Host
}

// with is the packet filter as the daemon programs it.
func with(b firewall.Backend) firewall.Firewall {
	return firewall.Firewall{Backend: b, Chains: xtables.Open}
}

// apply reconciles in the host, and checks that nothing is left to do.
func apply(t testing.TB, h *lab.Host, b firewall.Backend, r *firewall.Rules) (made []reconcile.Change) {
	t.Helper()
	if left := run(t, h, b, r, &made); len(left) > 0 {
		t.Fatalf("after reconciling %v, there is left to do: %v", made, left)
	}
	return made
}

func run(t testing.TB, h *lab.Host, b firewall.Backend, r *firewall.Rules, made *[]reconcile.Change) (left []reconcile.Change) {
	t.Helper()
	err := h.Do(func() (err error) {
		if *made, err = with(b).Reconcile(t.Context(), r); err != nil {
			return err
		}
		if left, err = with(b).Check(t.Context(), r); err != nil {
			return err
		}
		again, err := with(b).Reconcile(t.Context(), r)
		left = append(left, again...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func remove(t testing.TB, h *lab.Host, b firewall.Backend, r *firewall.Rules) {
	t.Helper()
	if err := h.Do(func() error { return with(b).Remove(t.Context(), r) }); err != nil {
		t.Fatal(err)
	}
}

// command runs a shell's line in the host and returns what it writes.
func command(t testing.TB, h *lab.Host, line string) string {
	t.Helper()
	out, err := h.Command(t.Context(), "sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// golden compares a text with a file.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("differs from %s:\n%s", file, text)
	}
}

// lines returns the lines of a text that have one of the words, without the
// white space around them.
func lines(text string, words ...string) (found []string) {
	for l := range strings.Lines(text) {
		for _, w := range words {
			if strings.Contains(l, w) {
				found = append(found, strings.TrimSpace(l))
				break
			}
		}
	}
	return found
}
