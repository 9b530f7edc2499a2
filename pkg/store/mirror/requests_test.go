package mirror_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/agent"
	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/mirror"
)

// memory is a store in memory, which needs no time of its own.
type memory struct {
	mu      sync.Mutex
	entries map[string]store.Entry
	events  []store.Event
	changed chan struct{} // closed at the next change
}

func newMemory() *memory {
	return &memory{entries: map[string]store.Entry{}, changed: make(chan struct{})}
}

func (m *memory) Get(_ context.Context, key string) (store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok {
		return e, store.ErrNotFound
	}
	return e, nil
}

func (m *memory) List(_ context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []store.Entry
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		if strings.HasPrefix(key, prefix) {
			found = append(found, m.entries[key])
		}
	}
	return found, store.Revision(len(m.events)), nil
}

func (m *memory) Create(_ context.Context, key string, value []byte) (store.Revision, error) {
	return m.swap(key, value, 0)
}

func (m *memory) Update(_ context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	return m.swap(key, value, revision)
}

// swap writes a key that has a revision; 0: that isn't there.
func (m *memory) swap(key string, value []byte, revision store.Revision) (store.Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[key].Revision != revision {
		return 0, store.ErrConflict
	}
	e := store.Entry{Key: key, Value: value, Revision: store.Revision(len(m.events) + 1)}
	m.entries[key] = e
	m.note(store.Event{Entry: e})
	return e.Revision, nil
}

func (m *memory) Delete(_ context.Context, key string, revision store.Revision) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[key].Revision != revision {
		return store.ErrConflict
	}
	delete(m.entries, key)
	m.note(store.Event{Entry: store.Entry{Key: key, Revision: store.Revision(len(m.events) + 1)}, Deleted: true})
	return nil
}

func (m *memory) note(e store.Event) {
	m.events = append(m.events, e)
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	for {
		m.mu.Lock()
		events, changed := m.events[after:], m.changed
		m.mu.Unlock()
		for _, e := range events {
			if after = e.Revision; strings.HasPrefix(e.Key, prefix) {
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (*memory) Close() error { return nil }

// counted counts what a store is asked.
type counted struct {
	store.Store
	mu    sync.Mutex
	asked map[string]int
}

func (c *counted) count(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[kind]++
}

// take returns the counts since the last time.
func (c *counted) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = map[string]int{}
	return asked
}

func (c *counted) Get(ctx context.Context, key string) (store.Entry, error) {
	c.count("get")
	return c.Store.Get(ctx, key)
}

func (c *counted) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	c.count("list")
	return c.Store.List(ctx, prefix)
}

func (c *counted) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	c.count("create")
	return c.Store.Create(ctx, key, value)
}

func (c *counted) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	c.count("update")
	return c.Store.Update(ctx, key, value, revision)
}

func (c *counted) Delete(ctx context.Context, key string, revision store.Revision) error {
	c.count("delete")
	return c.Store.Delete(ctx, key, revision)
}

func (c *counted) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	c.count("watch")
	return c.Store.Watch(ctx, prefix, after, fn)
}

// node does on its store what a node does, and nothing else.
type node struct {
	registry *lease.Registry
	network  lease.Network
	mu       sync.Mutex
	syncs    int
	peers    int
}

func (n *node) Name() string { return n.network.Name }

func (n *node) Sync(ctx context.Context) (*nodestate.State, error) {
	joined, err := n.registry.Join(ctx, &n.network)
	if err != nil {
		return nil, err
	}
	own, err := n.registry.Acquire(ctx, &lease.Claim{Network: joined, Node: "n", Instance: "n", VTEP: vtep(0)})
	if err != nil {
		return nil, err
	}
	view, err := n.registry.View(ctx, n.network.Name)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.syncs++
	n.peers = len(view.Leases) - len(own)
	return &nodestate.State{Expires: own[0].Expires}, nil
}

func (n *node) Watch(ctx context.Context, changed func()) error {
	return n.registry.Watch(ctx, n.network.Name, changed)
}

func (*node) Audit(context.Context) error { return nil }

func (n *node) take() (syncs, peers int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	syncs, n.syncs = n.syncs, 0
	return syncs, n.peers
}

func vtep(i int) lease.VTEP {
	return lease.VTEP{Underlay: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})}, MAC: ether.Local([5]byte{0, 0, 0, byte(i >> 8), byte(i)})}
}

// renew writes the lease of another node.
func renew(t *testing.T, m *memory, i int) {
	t.Helper()
	l := lease.Lease{
		Network: "pods", Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Node: fmt.Sprint("other", i),
		VTEP: vtep(i), Expires: time.Now().Add(lease.DefaultTTL),
	}
	value, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.swap(l.Key(), value, m.entries[l.Key()].Revision); err != nil {
		t.Fatal(err)
	}
}

// TestRequestsOfADay: what a node asks of its store at its start, and in a day in
// which nothing happens but that all nodes renew their leases. However many nodes
// there are, it isn't more; nor does a node look at its peers each time that one
// of them renews.
func TestRequestsOfADay(t *testing.T) {
	t.Parallel()
	for _, others := range []int{1, 10, 1000} {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { day(t, others) })
		})
	}
}

func day(t *testing.T, others int) {
	t.Helper()
	shared := newMemory()
	for i := range others {
		renew(t, shared, i+1)
	}
	asked := &counted{Store: shared, asked: map[string]int{}}
	m := mirror.New(asked, mirror.Options{})
	n := &node{
		registry: &lease.Registry{Store: m, TTL: lease.DefaultTTL},
		network:  lease.Network{Name: "pods", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}.Complete(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- (&agent.Agent{Networks: agent.Fixed{n}, LeaseTTL: lease.DefaultTTL}).Run(ctx) }()
	<-time.After(time.Second)
	synctest.Wait()
	// The network, the leases, and external peers, for their watch.
	if got := asked.take(); !maps.Equal(got, map[string]int{"list": 3, "watch": 3, "create": 2}) {
		t.Errorf("asked at the start: %v", got)
	}
	if syncs, peers := n.take(); syncs > 2 || peers != others {
		t.Errorf("%d syncs at the start, %d peers", syncs, peers)
	}
	const renewals = 10 * time.Hour // from one to the next, of a node
	for i := range 24 * others * int(time.Hour) / int(renewals) {
		<-time.After(renewals / time.Duration(others))
		renew(t, shared, i%others+1)
	}
	synctest.Wait()
	got := asked.take()
	syncs, peers := n.take()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	// Where the store was silent it is asked for something: of an empty prefix,
	// such as external peers, for all.
	silences := int(24 * time.Hour / mirror.DefaultMaxSilence)
	if got["get"]+got["list"] > silences || got["list"] > silences/3 || got["update"] > 3 || got["create"]+got["delete"]+got["watch"] > 0 {
		t.Errorf("asked in a day: %v", got)
	}
	if got["update"] == 0 || peers != others {
		t.Errorf("asked %v; %d peers", got, peers)
	}
	if most := int(24 * time.Hour / (agent.Resync * 4 / 5)); syncs > most { // as often as it looks anyway
		t.Errorf("%d syncs in a day, want at most %d", syncs, most)
	}
	t.Logf("%d other nodes: asked in a day %v, %d syncs", others, got, syncs)
}
