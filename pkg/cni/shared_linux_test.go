package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/ipam/space"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// newSharedBenches makes nodes that share one store.
func newSharedBenches(t *testing.T, count int) (benches []*bench, store string) {
	t.Helper()
	l := labtest.New(t, lab.Topology{})
	for i := range count {
		node := labtest.Node(t, l, fmt.Sprintf("n%d", i+1), []string{"a", "b"}[i%2])
		benches = append(benches, &bench{
			tb: t, node: node, pod: labtest.Pod(t, node, "p1"), path: []string{clustertest.Bin(t), clustertest.Peers(t)},
		})
	}
	return benches, filepath.Join(t.TempDir(), "store")
}

// sharedConf is a configuration as a main plugin hands it to overlay-ipam.
func (b *bench) sharedConf(plugin, store string, ranges ...any) map[string]any {
	return map[string]any{"cniVersion": "1.1.0", "name": "storage", "type": plugin, "ipam": map[string]any{
		"type": "overlay-ipam", "node": b.node.Name(), "dataDir": filepath.Join(b.node.Dir(), "lib"),
		"shared": map[string]any{"ranges": ranges, "store": map[string]any{"type": "local", "path": store}},
	}}
}

func ranges(subnet string, fields ...string) []any {
	r := map[string]any{"subnet": subnet}
	for i := 0; i < len(fields); i += 2 {
		r[fields[i]] = fields[i+1]
	}
	return []any{r}
}

// claims lists what the store has of the network.
func claims(t *testing.T, store string) []space.Claim {
	t.Helper()
	s, err := local.Open(store, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := space.Claims(t.Context(), s, "storage")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSharedUnderBridge: attachments of three nodes at once, each with an address
// that no other has; and nothing is left when they are gone.
func TestSharedUnderBridge(t *testing.T) {
	t.Parallel()
	benches, store := newSharedBenches(t, 3)
	const pods = 8 // 24 for the 26 of the range
	var mu sync.Mutex
	owner := map[string]string{}
	var all errgroup.Group
	each := func(verb string, done func(*bench, int, answer) error) {
		for _, b := range benches {
			conf := b.sharedConf("bridge", store, ranges("192.0.2.0/27", "rangeEnd", "192.0.2.27"), ranges("fd00:2::/64"))
			for i := range pods {
				all.Go(func() error {
					a := b.run(verb, conf, fmt.Sprintf("CNI_CONTAINERID=c%d", i), fmt.Sprintf("CNI_IFNAME=net%d", i))
					if a.status != 0 {
						return fmt.Errorf("%s: %s", verb, a.stdout)
					}
					return done(b, i, a)
				})
			}
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	each("ADD", func(b *bench, i int, a answer) error {
		mu.Lock()
		defer mu.Unlock()
		me := fmt.Sprintf("c%d of %s", i, b.node.Name())
		for _, ip := range ips(a.result) {
			if other, twice := owner[ip]; twice {
				return fmt.Errorf("%s is of %s and of %s", ip, other, me)
			}
			owner[ip] = me
		}
		return nil
	})
	if got := claims(t, store); len(owner) != 2*3*pods || len(got) != len(owner) {
		t.Errorf("%d addresses were given, %d are claimed", len(owner), len(got))
	}
	each("DEL", func(*bench, int, answer) error { return nil })
	each("DEL", func(*bench, int, answer) error { return nil })
	if got := claims(t, store); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestSharedVerbs(t *testing.T) {
	t.Parallel()
	benches, store := newSharedBenches(t, 2)
	n1, n2 := benches[0], benches[1]
	conf := func(b *bench) map[string]any {
		return b.sharedConf("overlay-ipam", store, ranges("192.0.2.0/29", "gateway", "192.0.2.6", "rangeEnd", "192.0.2.4"))
	}
	r := n1.ok("ADD", conf(n1), "CNI_ARGS=IP=192.0.2.3").result
	if got := sprint(r["ips"]); got != "[map[address:192.0.2.3/29 gateway:192.0.2.6]]" {
		t.Errorf("ips: %s", got)
	}
	n1.ok("CHECK", with(conf(n1), r))
	if again := n1.ok("ADD", conf(n1)).result; !slices.Equal(ips(again), ips(r)) {
		t.Errorf("a second ADD gives %v", ips(again))
	}
	n2.fails(101, "ADD", conf(n2), []string{"192.0.2.3", "n1", n1.pod.ContainerID()}, "CNI_ARGS=IP=192.0.2.3")
	n2.fails(101, "ADD", conf(n2), []string{"192.0.2.6"}, "CNI_ARGS=IP=192.0.2.6")
	fixed := conf(n2)
	fixed["runtimeConfig"] = map[string]any{"ips": []string{"192.0.2.1"}}
	if got := ips(n2.ok("ADD", fixed, "CNI_IFNAME=net1").result); !slices.Equal(got, []string{"192.0.2.1/29"}) {
		t.Errorf("of runtimeConfig.ips became %v", got)
	}
	n2.ok("ADD", conf(n2), "CNI_IFNAME=net2")
	n1.ok("STATUS", conf(n1))
	n2.ok("ADD", conf(n2), "CNI_IFNAME=net3")
	n1.fails(11, "ADD", conf(n1), []string{"no free address", "192.0.2.1"}, "CNI_IFNAME=net4")
	n1.fails(50, "STATUS", conf(n1), []string{"no free address"})
	gc := conf(n2)
	gc["cni.dev/valid-attachments"] = []any{map[string]any{"containerID": n2.pod.ContainerID(), "ifname": "net1"}}
	n2.ok("GC", gc)
	n1.ok("STATUS", conf(n1))
	if got := claims(t, store); len(got) != 2 {
		t.Errorf("after GC claimed are %v", got)
	}
	n1.ok("DEL", conf(n1))
	n1.fails(102, "CHECK", with(conf(n1), r), []string{"192.0.2.3"})
}

// TestSharedStoreIsAway: what can't be asked or told is tried again.
func TestSharedStoreIsAway(t *testing.T) {
	t.Parallel()
	benches, store := newSharedBenches(t, 1)
	b := benches[0]
	conf := b.sharedConf("overlay-ipam", store, ranges("192.0.2.0/24"))
	b.ok("ADD", conf)
	if err := os.Rename(store, store+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store, nil, 0o600); err != nil { // a folder can't be made there
		t.Fatal(err)
	}
	b.fails(11, "ADD", conf, []string{"store"}, "CNI_IFNAME=net1")
	b.fails(11, "DEL", conf, []string{"store"})
	b.fails(50, "STATUS", conf, []string{"store"})
	if err := os.Rename(store+".away", store); err == nil {
		t.Fatal("the file should have been in the way")
	}
	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(store+".away", store); err != nil {
		t.Fatal(err)
	}
	b.ok("DEL", conf)
	if got := claims(t, store); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
	wrong := b.sharedConf("overlay-ipam", store, ranges("192.0.2.0/24"))
	wrong["ipam"].(map[string]any)["shared"].(map[string]any)["store"] = map[string]any{"type": "etcd"}
	b.fails(7, "ADD", wrong, []string{"ipam.shared.store.type", "etcd"})
}

// TestSharedKilledAdd kills ADD with SIGKILL all through its run. After each, DEL,
// GC or a second ADD and its DEL leave nothing, in the store and in the ledger.
func TestSharedKilledAdd(t *testing.T) {
	t.Parallel()
	benches, store := newSharedBenches(t, 1)
	b := benches[0]
	conf := b.sharedConf("overlay-ipam", store, ranges("192.0.2.0/30", "gateway", "192.0.2.1"))
	b.ok("ADD", conf)
	b.ok("DEL", conf)
	began := time.Now()
	b.ok("ADD", conf)
	typical := time.Since(began)
	b.ok("DEL", conf)
	stdin, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	const kills, sweep = 60, 30
	killed, rounds := 0, 0
	for i := 0; killed < kills; i++ {
		if rounds++; rounds > 20*kills {
			t.Fatalf("only %d of %d ADDs were killed before their end", killed, rounds)
		}
		after := typical * time.Duration(i%sweep) / sweep
		cmd := b.node.Command(context.WithoutCancel(t.Context()), b.find("overlay-ipam"))
		cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + b.pod.ContainerID(), "CNI_IFNAME=eth0", "CNI_NETNS=/x"}
		cmd.Stdin = bytes.NewReader(stdin)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(after + rand.N(100*time.Microsecond))
		_ = cmd.Kill()
		_ = cmd.Wait()
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			killed++
		} else {
			typical = max(after, typical*9/10) // the signal came too late
		}
		if i%sweep == sweep-1 {
			typical = typical * 12 / 10 // and the machine may be slower again
		}
		switch i % 3 {
		case 0:
			b.ok("DEL", conf)
		case 1:
			gc := b.sharedConf("overlay-ipam", store, ranges("192.0.2.0/30", "gateway", "192.0.2.1"))
			gc["cni.dev/valid-attachments"] = []any{}
			b.ok("GC", gc)
		case 2:
			b.ok("CHECK", with(conf, b.ok("ADD", conf).result))
			b.ok("DEL", conf)
		}
		if got := claims(t, store); len(got) > 0 {
			t.Fatalf("kill %d: left behind: %v", i, got)
		}
		// The only address there is can be had: the ledger has nothing either.
		b.ok("ADD", conf, "CNI_CONTAINERID=other")
		b.ok("DEL", conf, "CNI_CONTAINERID=other")
	}
	t.Logf("%d of %d ADDs killed; a whole one takes %s", killed, rounds, typical)
}

// TestSharedMistakes: what can't stand beside "shared" is refused by name.
func TestSharedMistakes(t *testing.T) {
	t.Parallel()
	benches, store := newSharedBenches(t, 1)
	b := benches[0]
	for field, value := range map[string]any{
		"subnet": "10.0.0.0/24", "ranges": []any{ranges("10.0.0.0/24")}, "network": "storage", "node": "a b", "dataDir": "x",
	} {
		conf := b.sharedConf("overlay-ipam", store, ranges("192.0.2.0/24"))
		conf["ipam"].(map[string]any)[field] = value
		b.fails(7, "ADD", conf, []string{"ipam." + field})
	}
	conf := b.sharedConf("overlay-ipam", store, ranges("192.0.2.0/24", "gateway", "10.0.0.1"))
	b.fails(7, "ADD", conf, []string{"ipam.shared.ranges[0][0].gateway", "10.0.0.1"})
	if a := b.run("ADD", conf); strings.Contains(a.stderr, "unknown") {
		t.Errorf("a field is unknown: %s", a.stderr)
	}
}
