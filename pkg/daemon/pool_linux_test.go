package daemon_test

// Pooled networks, with the real binaries.

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
)

const pools = `{"pools": [{"cidr": "10.244.0.0/24", "blockLength": 28}, {"cidr": "fd00:10:244::/64", "blockLength": 124}]}`

// addPods attaches pods at the same time, and returns them in order.
func addPods(t *testing.T, n *cluster.Node, prefix string, count int) []*cluster.Pod {
	t.Helper()
	pods := make([]*cluster.Pod, count)
	var all sync.WaitGroup
	for i := range pods {
		all.Go(func() {
			var err error
			if pods[i], err = n.AddPod(t.Context(), fmt.Sprintf("%s%d", prefix, i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return pods
}

// TestPodsGetMoreBlocks: more pods come at once than a block has addresses. All
// are served, and reached from the other node, whatever block they are of.
func TestPodsGetMoreBlocks(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]cluster.Options{"daemon": {Network: pools}, "no daemon": {Network: pools, NoDaemon: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := clustertest.New(t, o)
			a := clustertest.Node(t, c, "n1", "a")
			from := a.Host
			if !o.NoDaemon { // which needs no store of their own
				from = clustertest.Pod(t, clustertest.Node(t, c, "n2", "b"), "q").Host
			}
			pods := addPods(t, a, "p", 40)
			taken := map[netip.Addr]string{}
			for _, p := range pods {
				for _, address := range p.Addresses() {
					if other, ok := taken[address]; ok {
						t.Errorf("%s is of %s and %s", address, other, p)
					}
					taken[address] = p.Name()
				}
			}
			state, err := a.State()
			if err != nil {
				t.Fatal(err)
			}
			if got := len(state.Blocks()); got < 2*3 || got > 2*4 { // of 14 addresses for pods, and 15
				t.Errorf("the node has %v", state.Blocks())
			}
			for _, p := range []*cluster.Pod{pods[0], pods[len(pods)-1]} {
				if err := p.Check(t.Context()); err != nil {
					t.Error(err)
				}
				for _, address := range p.Addresses() {
					if _, err := from.Ping(t.Context(), address); err != nil {
						t.Errorf("to %s: %v", p, err)
					}
				}
			}
		})
	}
}

// TestPoolIsFull: ADD says, after it has waited, what is full and what to do; an
// address that becomes free meanwhile serves it.
func TestPoolIsFull(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{Network: `{"pools": [{"cidr": "10.244.0.0/29", "blockLength": 29}]}`})
	n := clustertest.Node(t, c, "n1", "a")
	pods := addPods(t, n, "p", 6)
	began := time.Now()
	_, err := n.AddPod(t.Context(), "late")
	var refused *types.Error
	if !errors.As(err, &refused) || refused.Code != types.ErrTryAgainLater {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{"10.244.0.1-10.244.0.6", "no free block of IPv4 in network pods", "add a pool to network pods"} {
		if !strings.Contains(refused.Error(), part) {
			t.Errorf("%q doesn't say %q", refused, part)
		}
	}
	if waited := time.Since(began); waited < 5*time.Second {
		t.Errorf("it waited %s for a block", waited)
	}
	if err := n.Status(t.Context()); !errors.As(err, &refused) || refused.Code != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "add a pool") {
		t.Errorf("STATUS says %v, though nobody would be served", err)
	}
	if err := pods[0].Del(t.Context()); err != nil {
		t.Fatal(err)
	}
	clustertest.Pod(t, n, "later")
}

// TestEmptyBlocksGoToOthers: what one node gave back another gets, and the peers
// follow.
func TestEmptyBlocksGoToOthers(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, cluster.Options{
		Network: `{"pools": [{"cidr": "10.244.0.0/26", "blockLength": 28}]}`,
		Daemon:  map[string]any{"lease": map[string]any{"grace": "1ms"}},
	})
	a, b := clustertest.Node(t, c, "n1", "a"), clustertest.Node(t, c, "n2", "b")
	pods := addPods(t, a, "p", 32) // in three blocks of the four
	for _, p := range pods {
		if err := p.Del(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	others := addPods(t, b, "q", 32)
	there := clustertest.Pod(t, a, "r")
	for _, p := range others {
		if _, err := there.Ping(t.Context(), p.Addresses()[0]); err != nil {
			t.Errorf("to %s: %v", p, err)
		}
	}
}
