package cluster_test

// The parts of a run: its nodes with what their runtimes know, its record.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/history"
)

// member is a node, with what its runtime knows.
type member struct {
	*cluster.Node
	etcd  []netip.Addr // its members, or nothing where the store is a directory
	store string       // the directory that all nodes share

	// calls is held, shared, by ADD and DEL: a runtime may call GC only while
	// neither runs. Holding it alone also is the way to begin a new life.
	calls   sync.RWMutex
	life    int          // how often the node has lost its power
	falling atomic.Bool  // the power is being lost: what runs is killed
	outages atomic.Int64 // odd while the store is out of reach

	mu   sync.Mutex
	pods map[string]*pod // by container: what may have something
}

// pod is a pod as its runtime knows it.
type pod struct {
	*cluster.Pod
	id   history.Attachment
	life int // of the node that it was made in
	// attached: an ADD has succeeded, and nothing since may have ended that.
	attached bool
	gone     bool // its namespace
}

// String names the pod as the history does.
func (p *pod) String() string { return p.id.String() }

// all returns the pods in the order of their names.
func (m *member) all() []*pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.pods), func(a, b *pod) int { return strings.Compare(a.id.Pod, b.id.Pod) })
}

// know notes what is known of a pod.
func (m *member) know(p *pod, attached bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.attached = attached
	m.pods[p.ContainerID()] = p
}

// knows says whether a pod may have something.
func (m *member) knows(p *pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pods[p.ContainerID()] != nil
}

// forget notes that a pod has nothing.
func (m *member) forget(p *pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.attached = false
	delete(m.pods, p.ContainerID())
}

// storeLink is the node's own name of the store, where the plugin looks for it
// when there is no daemon.
func (m *member) storeLink() string { return filepath.Join(m.DataDir(), "store") }

// connectStore lets the node reach the store.
func (m *member) connectStore() error {
	if len(m.etcd) > 0 {
		return m.discard(netlink.RouteDel)
	}
	return m.linkStore(m.store)
}

// loseStore lets every use of a path in the store fail on this node, with
// ELOOP: a link to itself can't be taken for an empty directory. What goes to
// an etcd is lost.
func (m *member) loseStore() error {
	if len(m.etcd) > 0 {
		return m.discard(netlink.RouteAdd)
	}
	return m.linkStore("store")
}

// useEtcd lets the node's daemon use an etcd.
func (m *member) useEtcd(c *etcdtest.Cluster) {
	for _, one := range c.Members {
		m.etcd = append(m.etcd, one.IPv4())
	}
	m.Daemon = map[string]any{"store": map[string]any{"type": "etcd", "endpoints": c.Endpoints()}}
}

// discard adds or removes what discards packets to the etcd.
func (m *member) discard(change func(*netlink.Route) error) error {
	err := m.Do(func() error {
		for _, addr := range m.etcd {
			to := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
			if err := change(&netlink.Route{Dst: to, Type: unix.RTN_BLACKHOLE}); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("discard packets to %s: %w", addr, err)
			}
		}
		return nil
	})
	if errors.Is(err, lab.ErrDown) {
		return nil // a node without power reaches nothing, and comes back without the routes
	}
	return err
}

func (m *member) linkStore(to string) error {
	if err := os.MkdirAll(filepath.Dir(m.storeLink()), 0o755); err != nil {
		return fmt.Errorf("link store: %w", err)
	}
	next := m.storeLink() + ".next"
	if err := os.Symlink(to, next); err != nil {
		return fmt.Errorf("link store: %w", err)
	}
	return os.Rename(next, m.storeLink())
}

// links are the host's ends of pods.
func (m *member) links() (veths []kernel.Veth, err error) {
	err = m.Do(func() error {
		conn, err := kernel.Open()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		veths, err = conn.Veths(intent.Group(cluster.Network))
		return err
	})
	return veths, err
}

// ledger is what a node's ledger says that containers hold, in order; it must
// be whole.
func (r *run) ledger(m *member) map[string][]netip.Addr {
	r.t.Helper()
	l, err := ipam.OpenLedger(m.LedgerPath(), ipam.Options{})
	if err != nil {
		r.t.Error(err)
		return nil
	}
	defer func() { _ = l.Close() }()
	if err := l.Verify(context.Background()); err != nil {
		r.t.Errorf("%s: %v", m.Name(), err)
	}
	all, err := l.All(context.Background())
	if err != nil {
		r.t.Errorf("%s: %v", m.Name(), err)
	}
	held := map[string][]netip.Addr{}
	for _, a := range all {
		held[a.ContainerID] = append(held[a.ContainerID], a.Address)
	}
	return held
}

func sorted(addresses []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare)
}

// recorder writes the history.
type recorder struct {
	start time.Time

	mu     sync.Mutex
	calls  int
	events []history.Event
}

// begin records the invocation of a call; end records how it came out.
func (r *recorder) begin(verb history.Verb, who history.Attachment) (end func(history.Phase, []netip.Addr)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	e := history.Event{Time: time.Since(r.start), Call: r.calls, Phase: history.Invoked, Verb: verb, Attachment: who}
	r.events = append(r.events, e)
	return func(phase history.Phase, addresses []netip.Addr) {
		r.mu.Lock()
		defer r.mu.Unlock()
		e.Time, e.Phase, e.Addresses = time.Since(r.start), phase, addresses
		r.events = append(r.events, e)
	}
}

func (r *recorder) all() []history.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// counts tell what a run was made of.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what] += n
}

func (c *counts) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(c.n)) {
		parts = append(parts, fmt.Sprintf("%s %d", what, c.n[what]))
	}
	return strings.Join(parts, ", ")
}

// pause waits, or returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
