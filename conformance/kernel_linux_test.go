package conformance

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// TestSnapshot: an address that comes shows itself, and no routes which the
// kernel adds once it has looked for duplicates.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	node := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	earlier, err := snapshot(node.Host)
	if err != nil {
		t.Fatal(err)
	}
	err = node.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fd00::77"), Mask: net.CIDRMask(128, 128)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	later, err := snapshot(node.Host)
	if err != nil {
		t.Fatal(err)
	}
	diff := earlier.Diff(later)
	if !slices.ContainsFunc(diff, func(line string) bool { return strings.Contains(line, "fd00::77") }) {
		t.Errorf("the address doesn't show: %q", diff)
	}
	if slices.ContainsFunc(diff, func(line string) bool { return strings.Contains(line, "route table 255") }) {
		t.Errorf("the kernel's own routes show: %q", diff)
	}
}
