package cluster_test

// Nodes that fail in all ways while pods come and go: no address may ever have
// two holders, and nothing may be left behind.

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/history"
)

// The seed decides who does what; when that takes effect is the machine's.
var (
	historySeed = flag.Uint64("history.seed", 0, "seed of the histories; 0 is a random one")
	historyTime = flag.Duration("history.time", 8*time.Second, "how long nodes fail while pods come and go")
)

// historyCase is a network, and how it is run.
type historyCase struct {
	network string // its specification
	cidrs   []string
	// alone: no node has a daemon.
	alone bool
	// etcd: the store is an etcd of three members.
	etcd bool
	// room is how many pods each node must have room for, beyond its block
	// where nodes claim further ones.
	room int
}

// Small blocks, so that they get full.
const (
	blocksNetwork = `{"cidrs": ["10.244.0.0/24", "fd00:10:244::/120"], "blockLength": {"ipv4": 28, "ipv6": 124}}`
	poolsNetwork  = `{"pools": [{"cidr": "10.244.0.0/24", "blockLength": 28}, {"cidr": "fd00:10:244::/120", "blockLength": 124}]}`
	blockRoom     = 14 // 16 less the VTEP's address and the last
)

func TestHistory(t *testing.T) {
	t.Parallel()
	cidrs := []string{"10.244.0.0/24", "fd00:10:244::/120"}
	for name, c := range map[string]historyCase{
		"blocks":           {network: blocksNetwork, cidrs: cidrs, room: blockRoom},
		"pools":            {network: poolsNetwork, cidrs: cidrs, room: 3 * blockRoom},
		"etcd":             {network: poolsNetwork, cidrs: cidrs, room: 3 * blockRoom, etcd: true},
		"without a daemon": {network: blocksNetwork, cidrs: cidrs, room: blockRoom, alone: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runHistory(t, &c)
		})
	}
}

// run is a history in the making.
type run struct {
	t        *testing.T
	c        *historyCase
	cidrs    []netip.Prefix
	seed     uint64
	members  []*member
	etcd     *etcdtest.Cluster // nil where the store is a directory
	recorder recorder
	counts   counts
}

func runHistory(t *testing.T, c *historyCase) {
	t.Helper()
	r := &run{t: t, c: c, seed: *historySeed, recorder: recorder{start: time.Now()}}
	if r.seed == 0 {
		r.seed = rand.Uint64() >> 1
	}
	t.Logf("repeat with -run='%s' -history.time=%s -history.seed=%d", t.Name(), *historyTime, r.seed)
	for _, p := range c.cidrs {
		r.cidrs = append(r.cidrs, netip.MustParsePrefix(p))
	}
	r.start()
	r.disturb()
	r.heal()
	r.checkSurvivors()
	r.clear()
	r.checkRoom()
	r.clear()
	events := r.recorder.all()
	for _, v := range history.Check(r.cidrs, events) {
		t.Error(v)
	}
	t.Logf("%d events: %s", len(events), r.counts.String())
	for _, essential := range []string{"ADD ok", "DEL ok", "addresses sampled"} {
		if r.counts.of(essential) == 0 {
			t.Errorf("%s: none, so nothing is proved", essential)
		}
	}
	if t.Failed() {
		r.keep(events)
	}
}

// start makes three nodes with one store. Each reaches it by a link of its own,
// so that one can lose it.
func (r *run) start() {
	r.t.Helper()
	store := r.t.TempDir()
	c := clustertest.New(r.t, cluster.Options{
		Network: r.c.network, NoDaemon: r.c.alone,
		Daemon: map[string]any{"lease": map[string]any{"grace": "500ms"}}, // so that blocks come and go
	})
	if r.c.etcd {
		r.etcd = etcdtest.On(r.t, c.Lab, 3)
	}
	for i, segment := range []string{"a", "a", "b"} {
		host, err := c.Lab.AddNode(fmt.Sprintf("n%d", i+1), segment)
		if err != nil {
			r.t.Fatal(err)
		}
		m := &member{Node: cluster.Adopt(c, host), store: store, pods: map[string]*pod{}}
		if err := m.connectStore(); err != nil {
			r.t.Fatal(err)
		}
		m.Daemon = map[string]any{"store": map[string]any{"type": "local", "path": m.storeLink()}}
		if r.etcd != nil {
			m.useEtcd(r.etcd)
		}
		r.members = append(r.members, m)
		if r.c.alone {
			continue
		}
		if err := m.StartDaemon(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
}

// workers is how many runtimes' threads a node has.
const workers = 4

// disturb lets pods come and go while nodes fail.
func (r *run) disturb() {
	ctx, cancel := context.WithTimeout(r.t.Context(), *historyTime)
	defer cancel()
	var tasks sync.WaitGroup
	stream := uint64(0)
	random := func() *rand.Rand {
		stream++
		return rand.New(rand.NewPCG(r.seed, stream))
	}
	for _, m := range r.members {
		for i := range workers {
			w := &worker{run: r, member: m, random: random(), name: fmt.Sprintf("w%d", i), typical: firstTypical}
			tasks.Go(func() { w.work(ctx) })
		}
		n := &nemesis{run: r, member: m, random: random()}
		tasks.Go(func() { n.work(ctx) })
	}
	if r.etcd != nil {
		tasks.Go(func() { r.failEtcd(ctx, random()) })
	}
	tasks.Go(func() { (&sampler{run: r, told: map[[2]*pod]bool{}}).work(ctx) })
	tasks.Wait()
}

// patience is how long a node may take to be well again on a busy machine.
const patience = 2 * time.Minute

// heal waits until all nodes are well; what ailed them has ended.
func (r *run) heal() {
	r.t.Helper()
	if r.c.alone {
		return
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for _, m := range r.members {
		err := m.WaitReady(ctx)
		for err != nil && ctx.Err() == nil { // it has less patience than we have
			err = m.WaitReady(ctx)
		}
		if err != nil {
			r.t.Errorf("after all faults %s: %v; its log:\n%s", m.Name(), err, m.Log())
		}
	}
}

// checkSurvivors: what is attached is whole, and its node's ledger knows it;
// the ledger has nothing else but what killed calls have left.
func (r *run) checkSurvivors() {
	r.t.Helper()
	for _, m := range r.members {
		held := r.ledger(m)
		for id, p := range m.pods {
			if !p.attached {
				delete(held, id)
				continue
			}
			if err := p.Check(r.t.Context()); err != nil {
				r.t.Errorf("%s: %v", p, err)
			}
			if want := p.Addresses(); !slices.Equal(held[id], sorted(want)) {
				r.t.Errorf("%s has %v, and by the ledger %v", p, want, held[id])
			}
			r.counts.add("pods survived", 1)
			delete(held, id)
		}
		for id, addresses := range held {
			r.t.Errorf("%s: nobody has %v, which the ledger gives to container %s", m.Name(), addresses, id)
		}
	}
}

// clear deletes and collects all pods: nothing may be left.
func (r *run) clear() {
	r.t.Helper()
	ctx := context.WithoutCancel(r.t.Context())
	for i, m := range r.members {
		w := &worker{run: r, member: m, random: rand.New(rand.NewPCG(r.seed, uint64(1000+i))), name: "clear"}
		for _, p := range m.all() {
			if w.random.IntN(2) == 0 {
				_ = w.del(ctx, p) // it has reported what is wrong
			}
		}
		if err := m.GC(ctx); err != nil {
			r.t.Errorf("%s: GC of all: %v", m.Name(), err)
		}
		for _, p := range m.all() { // those that GC has collected
			_ = w.del(ctx, p)
			w.close(p)
		}
		if held := r.ledger(m); len(held) > 0 {
			r.t.Errorf("%s: still in the ledger: %v", m.Name(), held)
		}
		if links, err := m.links(); err != nil || len(links) > 0 {
			r.t.Errorf("%s: links left: %v %v", m.Name(), links, err)
		}
	}
}

// checkRoom: each node serves what it has room for.
func (r *run) checkRoom() {
	r.t.Helper()
	var tasks sync.WaitGroup
	for i, m := range r.members {
		w := &worker{run: r, member: m, random: rand.New(rand.NewPCG(r.seed, uint64(2000+i))), name: "room"}
		tasks.Go(func() {
			ctx, cancel := context.WithTimeout(r.t.Context(), patience)
			defer cancel()
			for range r.c.room {
				if err := w.mustAdd(ctx); err != nil {
					r.t.Errorf("%s has room for %d pods, but: %v", m.Name(), r.c.room, err)
					return
				}
			}
		})
	}
	tasks.Wait()
}

// keep writes a history down that something is wrong with.
func (r *run) keep(events []history.Event) {
	r.t.Helper()
	var text strings.Builder
	for _, e := range events {
		fmt.Fprintf(&text, "%d %s\n", e.Call, e)
	}
	file, err := os.CreateTemp("", "history-*.txt") // to be read when the test has ended
	if err != nil {
		r.t.Error(err)
		return
	}
	defer file.Close()
	if _, err := file.WriteString(text.String()); err != nil {
		r.t.Error(err)
	}
	r.t.Logf("the whole history is in %s", file.Name())
}
