package conformance_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/overlay-cni/overlay-cni/conformance"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
)

// upstream are the clauses that each of upstream's plugins fails: their library
// answers VERSION with its own version, leaves cniVersion out of errors, and
// takes a missing CNI_COMMAND for a question.
func upstream(more ...string) []string {
	return append([]string{"5.2-version-02", "5.3-err-01", "5.3-err-02", "5.3-code-05"}, more...)
}

// TestPlugins holds plugins that are in use to the clauses. What is known to
// fail, and nothing else, fails.
func TestPlugins(t *testing.T) {
	t.Parallel()
	// Upstream's main plugins don't pass GC on, and don't call a delegated
	// plugin's DEL when its ADD has failed. As second in a chain they forget
	// about prevResult.
	delegating := []string{"2.4-gc-01", "2.4-gc-07", "2.4-gc-08", "4.2-exec-06", "4.2-exec-10", "5.1-prev-02"}
	for _, c := range []struct {
		name, conflist string
		fails          []string
	}{
		{
			"overlay-vxlan",
			`{"type": "overlay-vxlan", "daemon": false, "capabilities": {"mac": true, "ips": true},
				"network": {"cidrs": ["10.244.0.0/16", "fd00:10:244::/48"]}}`,
			// A later plugin that changes the pod's hardware address cuts it
			// off: CHECK finds that the node's neighbour entry has the old one.
			[]string{"2.4-check-03", "5.2-version-02"},
		},
		{
			"overlay-ipam",
			`{"type": "overlay-ipam", "ipam": {"type": "overlay-ipam", "subnet": "10.1.0.0/29", "routes": [{"dst": "0.0.0.0/0"}]}}`,
			[]string{"5.2-version-02"},
		},
		{
			"bridge with overlay-ipam",
			`{"type": "bridge", "isGateway": true, "ipam": {"type": "overlay-ipam", "subnet": "10.1.0.0/29", "routes": [{"dst": "10.96.0.0/12"}]}}`,
			upstream(delegating...),
		},
		{
			"ptp with host-local",
			`{"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "subnet": "10.1.0.0/29", "routes": [{"dst": "0.0.0.0/0"}]}}`,
			// Masquerading rules stay when the namespace is gone; a second
			// interface in the same subnet is refused by the kernel.
			upstream(append(delegating, "2.4-add-06", "2.4-del-10", "2.4-status-03")...),
		},
		{
			"bridge with host-local, tuning and portmap",
			`{"type": "bridge", "isGateway": true, "capabilities": {"mac": true, "ips": true}, "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}},
				{"type": "tuning", "mtu": 1400}, {"type": "portmap", "capabilities": {"portMappings": true}}`,
			upstream(delegating...),
		},
		{
			"host-local",
			`{"type": "host-local", "ipam": {"type": "host-local", "subnet": "10.1.0.0/29", "routes": [{"dst": "0.0.0.0/0"}]}}`,
			upstream("2.4-check-01", "2.4-gc-01", "2.4-status-03"),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			report, err := conformance.Run(t.Context(), conformance.Target{
				Conflist: []byte(`{"cniVersion": "1.1.0", "name": "pods", "plugins": [` + c.conflist + `]}`),
				Bin:      bins(t),
			}, conformance.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d clauses in %s", len(report.Outcomes), report.Took)
			for i := range report.Outcomes {
				o := &report.Outcomes[i]
				known := slices.Contains(c.fails, o.Clause.ID)
				if o.Verdict == conformance.Fail && !known {
					t.Errorf("%s\n%s", &o.Clause, o.Text())
				} else if o.Verdict != conformance.Fail && known {
					t.Errorf("%s is said to fail, and is: %s %s", o.Clause.ID, o.Verdict, o.Reason)
				}
			}
		})
	}
}

func bins(t *testing.T) []string {
	t.Helper()
	var dirs []string
	for _, dir := range []string{clustertest.Bin(t), clustertest.Peers(t)} {
		absolute, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, absolute)
	}
	return dirs
}
