package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// kills is how many ADDs are killed before their end.
const kills = 200

// TestKilledAdd kills ADD with SIGKILL, each time a little later than before,
// all through its run and over again. After each, one of DEL, GC or a second
// ADD must leave nothing that nobody knows of.
func TestKilledAdd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conf := b.conf(nil)
	b.ok("ADD", conf) // brings the node up, and shows how long an ADD takes
	b.ok("DEL", conf)
	began := time.Now()
	b.ok("ADD", conf)
	typical := time.Since(began)
	b.ok("DEL", conf)

	const sweep = 50
	killed, completed := 0, 0
	for i := 0; killed < kills; i++ {
		if i > 20*kills {
			t.Fatalf("only %d of %d ADDs were killed before their end", killed, i)
		}
		after := typical * time.Duration(i%sweep) / sweep
		if b.killADD(conf, after) {
			killed++
		} else {
			// The machine is quicker than it was: the signal would mostly
			// come too late.
			completed++
			typical = max(after, typical*9/10)
		}
		b.recover(t, conf, i)
		if i%sweep == sweep-1 {
			typical = typical * 11 / 10 // and slower again
		}
	}
	t.Logf("%d ADDs killed, %d completed before the signal; a whole one takes %s", killed, completed, typical)
}

// killADD starts ADD and kills it after a while; true if it died of that.
func (b *bench) killADD(conf map[string]any, after time.Duration) bool {
	b.tb.Helper()
	stdin, err := json.Marshal(conf)
	if err != nil {
		b.tb.Fatal(err)
	}
	cmd := b.node.Command(b.tb.Context(), b.find("overlay-vxlan"))
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + b.pod.ContainerID(), "CNI_IFNAME=eth0",
		"CNI_NETNS=" + b.pod.Path(), "CNI_PATH=" + strings.Join(b.path, ":")}
	cmd.Stdin = bytes.NewReader(stdin)
	if err := cmd.Start(); err != nil {
		b.tb.Fatal(err)
	}
	<-time.After(after + rand.N(100*time.Microsecond))
	_ = cmd.Kill()
	err = cmd.Wait()
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		return true
	}
	if err != nil {
		b.tb.Fatalf("ADD failed by itself: %v", err)
	}
	return false
}

// recover cleans up after a killed ADD in one of the ways that runtimes have.
func (b *bench) recover(t *testing.T, conf map[string]any, i int) {
	t.Helper()
	switch i % 3 {
	case 0:
		b.ok("DEL", conf)
	case 1:
		b.ok("GC", b.conf(map[string]any{"cni.dev/valid-attachments": []any{}}))
	case 2: // a second ADD: it succeeds, or says that the first had come to its end
		if a := b.run("ADD", conf); a.status != 0 && a.err.Code != 100 {
			t.Fatalf("kill %d: second ADD: %s", i, a.stdout)
		} else if a.status == 0 {
			b.ok("CHECK", with(conf, a.result))
		}
		b.ok("DEL", conf)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Fatalf("kill %d: left behind: %q", i, left)
	}
	if held := b.held(); len(held) > 0 {
		t.Fatalf("kill %d: still held: %v", i, held)
	}
	if links := b.inPod("ip", "-o", "link"); strings.Contains(links, "eth0") {
		t.Fatalf("kill %d: left in the pod:\n%s", i, links)
	}
}

// TestKilledDel: a DEL that was killed is followed by one that isn't.
func TestKilledDel(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	conf := b.conf(nil)
	stdin, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		b.ok("ADD", conf)
		cmd := b.node.Command(t.Context(), b.find("overlay-vxlan"))
		cmd.Env = []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=" + b.pod.ContainerID(), "CNI_IFNAME=eth0", "CNI_PATH=/"}
		cmd.Stdin = bytes.NewReader(stdin)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i) * 500 * time.Microsecond)
		_ = cmd.Kill()
		_ = cmd.Wait()
		b.ok("DEL", conf)
		if left, held := b.leftovers(), b.held(); len(left)+len(held) > 0 {
			t.Fatalf("kill %d: left behind: %q %v", i, left, held)
		}
	}
}

// TestConcurrentAdds: 64 pods at once, on a node that isn't up yet.
func TestConcurrentAdds(t *testing.T) {
	t.Parallel()
	for _, daemon := range []bool{true, false} {
		t.Run(fmt.Sprintf("daemon %t", daemon), func(t *testing.T) {
			t.Parallel()
			c := clustertest.New(t, cluster.Options{NoDaemon: !daemon})
			n := clustertest.Node(t, c, "n1", "a")
			pods := addMany(t, n, 64)
			for _, p := range pods {
				if err := p.Check(t.Context()); err != nil {
					t.Errorf("CHECK %s: %v", p, err)
				}
			}
			var all errgroup.Group
			all.SetLimit(16)
			for _, p := range pods {
				all.Go(func() error { return p.Del(context.WithoutCancel(t.Context())) })
			}
			if err := all.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// addMany attaches pods all at once and fails when two have an address.
func addMany(t *testing.T, n *cluster.Node, count int) []*cluster.Pod {
	t.Helper()
	pods := make([]*cluster.Pod, count)
	for i := range pods {
		pods[i] = cluster.Attach(n, labtest.Pod(t, n.Node, fmt.Sprintf("p%d", i)))
	}
	var mu sync.Mutex
	owner := map[netip.Addr]string{}
	var all errgroup.Group
	for _, p := range pods {
		all.Go(func() error {
			if err := p.Add(t.Context(), nil); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, a := range p.Addresses() {
				if other, taken := owner[a]; taken {
					return fmt.Errorf("%s and %s both have %s", p, other, a)
				}
				owner[a] = p.String()
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	return pods
}
