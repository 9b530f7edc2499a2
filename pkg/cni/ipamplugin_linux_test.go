package cni_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// ipamConf is a configuration as bridge or ptp hands it to overlay-ipam, in
// the format of host-local.
func (b *bench) ipamConf(plugin string, section map[string]any) map[string]any {
	ipam := map[string]any{"type": "overlay-ipam", "dataDir": filepath.Join(b.node.Dir(), "ipam")}
	if _, ok := section["subnet"]; !ok {
		ipam["ranges"] = []any{[]any{map[string]any{"subnet": "10.1.0.0/24"}}, []any{map[string]any{"subnet": "fd00:1::/64"}}}
		ipam["routes"] = []any{map[string]any{"dst": "0.0.0.0/0"}, map[string]any{"dst": "::/0"}}
	}
	for name, value := range section {
		ipam[name] = value
	}
	return map[string]any{"cniVersion": "1.1.0", "name": "plain", "type": plugin, "ipam": ipam}
}

// TestIPAMUnderOtherPlugins: overlay-ipam serves upstream's main plugins.
func TestIPAMUnderOtherPlugins(t *testing.T) {
	t.Parallel()
	for _, plugin := range []string{"bridge", "ptp"} {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			conf := b.ipamConf(plugin, nil)
			if plugin == "bridge" {
				conf["isGateway"] = true
			}
			r := b.ok("ADD", conf).result
			if got := ips(r); !slices.Equal(got, []string{"10.1.0.2/24", "fd00:1::2/64"}) {
				t.Fatalf("addresses %v", got)
			}
			if out := b.inPod("ip", "route"); !strings.Contains(out, "default via 10.1.0.1") {
				t.Errorf("no default route:\n%s", out)
			}
			b.inPod("ping", "-c1", "-W2", "10.1.0.1")
			b.ok("CHECK", with(conf, r))
			b.ok("STATUS", conf)
			b.ok("DEL", conf)
			b.ok("DEL", conf)
			// Never used addresses come before those just freed.
			if got := ips(b.ok("ADD", conf).result); !slices.Equal(got, []string{"10.1.0.3/24", "fd00:1::3/64"}) {
				t.Errorf("the next addresses are %v", got)
			}
			if err := b.pod.Close(); err != nil {
				t.Fatal(err)
			}
			// Upstream's main plugins don't pass GC on, so it is called directly.
			gc := b.ipamConf("overlay-ipam", nil)
			gc["cni.dev/valid-attachments"] = []any{}
			b.ok("GC", gc)
			again := labtest.Pod(t, b.node, "p2")
			args := []string{"CNI_CONTAINERID=" + again.ContainerID(), "CNI_NETNS=" + again.Path(), "CNI_ARGS=IgnoreUnknown=1;IP=10.1.0.3"}
			if got := ips(b.ok("ADD", conf, args...).result)[0]; got != "10.1.0.3/24" {
				t.Errorf("GC did not free the address: %s", got)
			}
		})
	}
}

func TestIPAMVerbs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	resolv := filepath.Join(b.node.Dir(), "resolv.conf")
	text := "# comment\nnameserver 192.0.2.53\nsearch a.example b.example\ndomain example\noptions ndots:5\n"
	if err := os.WriteFile(resolv, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := b.ipamConf("overlay-ipam", map[string]any{
		"subnet": "10.1.0.0/29", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.5", "gateway": "10.1.0.4", "resolvConf": resolv,
	})
	r := b.ok("ADD", conf).result
	if got := sprint(r["ips"]); got != "[map[address:10.1.0.2/29 gateway:10.1.0.4]]" {
		t.Errorf("ips: %s", got)
	}
	if got := sprint(r["dns"]); got != "map[domain:example nameservers:[192.0.2.53] options:[ndots:5] search:[a.example b.example]]" {
		t.Errorf("dns: %s", got)
	}
	b.ok("CHECK", with(conf, r))
	for i, want := range []string{"10.1.0.3/29", "10.1.0.5/29"} { // the gateway is left out
		if got := ips(b.ok("ADD", conf, fmt.Sprintf("CNI_IFNAME=net%d", i)).result)[0]; got != want {
			t.Errorf("address %s, want %s", got, want)
		}
	}
	b.fails(11, "ADD", conf, []string{"no free address", "10.1.0.2", "10.1.0.5"}, "CNI_IFNAME=net9")
	b.fails(50, "STATUS", conf, []string{"no free address"})
	b.ok("DEL", conf)
	b.fails(102, "CHECK", with(conf, r), []string{"10.1.0.2"})
	b.ok("STATUS", conf)
	b.fails(101, "ADD", conf, []string{"10.1.0.3", "taken"}, "CNI_ARGS=IP=10.1.0.3")
	b.fails(101, "ADD", conf, []string{"10.1.0.6"}, "CNI_ARGS=IP=10.1.0.6")
}

func TestIPAMBadInput(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct {
		name    string
		section map[string]any
		texts   []string
	}{
		{"no range", map[string]any{"ranges": nil}, []string{"ipam.ranges"}},
		{"empty set", map[string]any{"ranges": []any{[]any{}}}, []string{"ipam.ranges[0]"}},
		{"malformed subnet", map[string]any{"ranges": []any{[]any{map[string]any{"subnet": "10.1.0.0"}}}}, []string{"ipam.ranges[0][0].subnet", "10.1.0.0"}},
		{"subnet too small", map[string]any{"subnet": "10.1.0.0/31"}, []string{"ipam.subnet", "10.1.0.0/31"}},
		{"gateway outside", map[string]any{"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}, []string{"ipam.gateway", "10.2.0.1", "10.1.0.0/24"}},
		{"range reversed", map[string]any{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.5"}, []string{"ipam.rangeEnd", "10.1.0.5", "10.1.0.9"}},
		{"relative path", map[string]any{"dataDir": "x"}, []string{"ipam.dataDir", "x"}},
		{"exclusion outside", map[string]any{"subnet": "10.1.0.0/24", "exclude": []string{"10.1.0.9", "10.2.0.0/30"}}, []string{"ipam.exclude[1]", "10.2.0.0/30", "10.1.0.0/24"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.tb = t
			b.fails(7, "ADD", b.ipamConf("overlay-ipam", c.section), c.texts)
		})
	}
}

// TestIPAMExclude: reserved addresses are left out, also when asked for.
func TestIPAMExclude(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conf := b.ipamConf("overlay-ipam", map[string]any{"subnet": "10.1.0.0/28", "exclude": []string{"10.1.0.2", "10.1.0.4/30"}})
	for i, want := range []string{"10.1.0.3/28", "10.1.0.8/28"} {
		if got := ips(b.ok("ADD", conf, fmt.Sprintf("CNI_IFNAME=net%d", i)).result)[0]; got != want {
			t.Errorf("address %s, want %s", got, want)
		}
	}
	b.fails(101, "ADD", conf, []string{"10.1.0.5"}, "CNI_ARGS=IP=10.1.0.5")
}

// TestIPAMConcurrent: 64 attachments at once, each with an address of its own.
func TestIPAMConcurrent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conf := b.ipamConf("overlay-ipam", nil)
	var mu sync.Mutex
	seen := map[string]bool{}
	var all errgroup.Group
	all.SetLimit(16)
	for i := range 64 {
		all.Go(func() error {
			a := b.run("ADD", conf, fmt.Sprintf("CNI_CONTAINERID=c%d", i))
			if a.status != 0 {
				return fmt.Errorf("ADD: %s", a.stdout)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, ip := range ips(a.result) {
				if seen[ip] {
					return fmt.Errorf("%s was given twice", ip)
				}
				seen[ip] = true
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 128 {
		t.Errorf("%d addresses for 64 attachments", len(seen))
	}
}
