package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lab/kubetest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
)

// TestCluster: what many nodes do for long.
func TestCluster(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	t.Run("requests", func(t *testing.T) { testRequests(t, s) }) // before others make some
	for _, part := range []struct {
		name string
		test func(*testing.T, *kubetest.Server)
	}{
		{"a crowd of nodes", testCrowd},
		{"more than a page", testManyObjects},
		{"broken connections", testBrokenConnections},
		{"a token is replaced", testToken},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(t, s)
		})
	}
}

// nodeNumber is what a node does at its start.
func nodeNumber(number int, network lease.Network) *lease.Claim {
	name := fmt.Sprintf("node%d", number)
	return &lease.Claim{Network: network, Node: name, Instance: name, VTEP: lease.VTEP{
		Underlay: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(number >> 8), byte(number)})}, MAC: ether.Addr{2, 0, 0, 0, byte(number >> 8), byte(number)},
	}}
}

// testRequests counts what the API server is asked: of that there is no more than
// it must be.
func testRequests(t *testing.T, s *kubetest.Server) {
	config, _ := account(t, s)
	c := client(t, s, kube.Options{Kubeconfig: config})
	newNode(t, s, "counted", "{}")
	network := lease.Network{Name: "counted", CIDRs: prefixes("10.128.0.0/9")}.Complete()
	now := time.Now()
	r := &lease.Registry{Store: c, TTL: time.Hour, Now: func() time.Time { return now }}
	var own []lease.Lease
	_, after, err := c.List(t.Context(), "")
	must(t, err)
	watch := func(prefix string) error {
		go func() { _ = c.Watch(t.Context(), prefix, after, ignore) }()
		return nil
	}
	// The first watch of a resource may have to wait until the server has read
	// what there is of it.
	before := requests(t, s)
	must(t, watch(""))
	eventually(t, "four watches", func() bool { return strings.Count(difference(requests(t, s), before), "WATCH") == 4 })
	accepted := store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "ok"}
	for _, step := range []struct {
		name string
		do   func() error
		want string
	}{
		{"the first node registers a network", func() error { _, err := r.Join(t.Context(), &network); return err }, "2 LIST networks, 1 POST networks"},
		{"another finds it", func() error { _, err := r.Join(t.Context(), &network); return err }, "1 LIST networks"},
		{"a claim", func() (err error) { own, err = r.Acquire(t.Context(), nodeNumber(1, network)); return err }, "1 LIST blockleases, 1 POST blockleases"},
		{"a claim that it has", func() error { _, err := r.Acquire(t.Context(), nodeNumber(1, network)); return err }, "1 LIST blockleases"},
		{"nothing to renew", func() error { _, err := r.Renew(t.Context(), own); return err }, "1 GET blockleases"},
		{"a renewal", func() error { now = now.Add(40 * time.Minute); _, err := r.Renew(t.Context(), own); return err }, "1 GET blockleases, 1 PATCH blockleases"},
		{"a report", func() error { return c.Report(t.Context(), "networks/counted", accepted) }, "1 GET networks, 1 PATCH networks/status"},
		{"a report that is there", func() error { return c.Report(t.Context(), "networks/counted", accepted) }, "1 GET networks"},
		{"a Node without a network", func() error { return c.SetNetworkAvailable(t.Context(), "counted", false, "R", "m") }, "1 GET nodes, 1 PATCH nodes/status"},
		{"as it was", func() error { return c.SetNetworkAvailable(t.Context(), "counted", false, "R", "m") }, "1 GET nodes"},
		{"a watch of leases", func() error { return watch("leases/counted/") }, "1 WATCH blockleases"},
		{"a watch of everything", func() error { return watch("") }, "1 WATCH blockleases, 1 WATCH externalpeers, 1 WATCH networks, 1 WATCH records"},
		{"a watch of a Node", func() error { return watchNode(t, c) }, "1 WATCH nodes"},
		{"the last node leaves", func() error { return r.ReleaseBlock(t.Context(), &own[0]) }, "1 DELETE blockleases, 1 GET blockleases"},
	} {
		before := requests(t, s)
		must(t, step.do())
		var got string
		for deadline := time.Now().Add(patience); ; { // the server counts a request when it has answered it
			if got = difference(requests(t, s), before); got == step.want || time.Now().After(deadline) {
				break
			}
		}
		if got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
}

func watchNode(t *testing.T, c *kube.Store) error {
	enough := errors.New("enough")
	if err := c.WatchNode(t.Context(), "counted", func(kube.Node) error { return enough }); !errors.Is(err, enough) {
		return err
	}
	return nil
}

// requests are those for what we use.
func requests(t *testing.T, s *kubetest.Server) map[string]int {
	t.Helper()
	all, err := s.Requests(t.Context())
	must(t, err)
	ours := map[string]int{}
	for request, n := range all {
		_, resource, _ := strings.Cut(request, " ")
		resource, _, _ = strings.Cut(resource, "/")
		if slices.Contains([]string{"networks", "externalpeers", "blockleases", "records", "nodes"}, resource) {
			ours[request] = n
		}
	}
	return ours
}

// difference is what has been asked since.
func difference(now, before map[string]int) string {
	var all []string
	for request, n := range now {
		if n > before[request] {
			all = append(all, fmt.Sprintf("%d %s", n-before[request], request))
		}
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	return strings.Join(all, ", ")
}

// testCrowd: nodes that start all at once, each with a client of its own, all get
// their leases, and no two the same block.
func testCrowd(t *testing.T, s *kubetest.Server) {
	const nodes = 20
	config, _ := account(t, s)
	spec := lease.Network{Name: "crowd", CIDRs: prefixes("10.0.0.0/11", "fd00::/48"), VNI: 5000}.Complete()
	leases := make([][]lease.Lease, nodes)
	began := time.Now()
	var g errgroup.Group
	for i := range nodes {
		c := client(t, s, kube.Options{Kubeconfig: config, RequestTimeout: time.Minute})
		g.Go(func() error {
			r := &lease.Registry{Store: c, TTL: lease.DefaultTTL}
			joined, err := r.Join(t.Context(), &spec)
			if err == nil {
				leases[i], err = r.Acquire(t.Context(), nodeNumber(i, joined))
			}
			return err
		})
	}
	must(t, g.Wait())
	t.Logf("%d nodes had their leases after %s", nodes, time.Since(began).Round(time.Millisecond))
	owners := map[netip.Prefix]int{}
	for i, own := range leases {
		if len(own) != 2 {
			t.Errorf("node %d has %d leases, want one of each family", i, len(own))
		}
		for _, l := range own {
			if other, taken := owners[l.Block]; taken {
				t.Errorf("nodes %d and %d both have %s", i, other, l.Block)
			}
			owners[l.Block] = i
		}
	}
	r := &lease.Registry{Store: client(t, s, kube.Options{Kubeconfig: config})}
	if networks, err := r.Networks(t.Context()); err != nil || !slices.ContainsFunc(networks, func(n lease.Network) bool { return n.Equal(&spec) }) {
		t.Errorf("networks are %v, %v", networks, err)
	}
	differs := spec
	differs.VNI++
	if _, err := r.Join(t.Context(), &differs); !errors.Is(err, lease.ErrConflict) {
		t.Errorf("join with another VNI: %v, want %v", err, lease.ErrConflict)
	}
}

// testManyObjects: a listing of several pages is whole, and of one moment while
// others write.
func testManyObjects(t *testing.T, s *kubetest.Server) {
	const many, writers = 1203, 16
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for i := w; i < many; i += writers {
				l := leaseOf("many", "n1", fmt.Sprintf("10.%d.%d.0/24", i>>8, i&0xff))
				if _, err := c.Create(t.Context(), l.Key(), encode(t, l)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
	before := requests(t, s)["LIST blockleases"]
	began := time.Now()
	entries, revision, err := c.List(t.Context(), "leases/many/")
	took := time.Since(began)
	keys := map[string]bool{}
	for _, e := range entries {
		keys[e.Key] = true
	}
	if err != nil || len(entries) != many || len(keys) != many || !slices.IsSortedFunc(entries, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) }) {
		t.Errorf("%d entries, %d keys, %v, want %d", len(entries), len(keys), err, many)
	}
	t.Logf("%d leases listed in %s, at most %d requests", many, took.Round(time.Millisecond), requests(t, s)["LIST blockleases"]-before)
	if slices.ContainsFunc(entries, func(e store.Entry) bool { return e.Revision > revision }) {
		t.Errorf("an entry is newer than the listing, which is at %d", revision)
	}
}

// A breaker is a way to the API server whose connections all break on demand.
type breaker struct {
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	mu    sync.Mutex
	conns []net.Conn
}

func (b *breaker) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := b.dial(ctx, network, address)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.conns = append(b.conns, conn)
	}
	return conn, err
}

// cut breaks all connections and says how many there were.
func (b *breaker) cut() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range b.conns {
		_ = conn.Close()
	}
	n := len(b.conns)
	b.conns = nil
	return n
}

// testBrokenConnections: a watch goes on where it broke, and sees every change
// once.
func testBrokenConnections(t *testing.T, s *kubetest.Server) {
	const changes = 200
	b := &breaker{dial: s.Dial}
	watcher, err := kube.Open(kube.Options{Kubeconfig: s.Admin(), Dial: b.Dial})
	must(t, err)
	t.Cleanup(func() { must(t, watcher.Close()) })
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	first, err := c.Create(t.Context(), "broken/x/counter", []byte("0"))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var seen atomic.Int32
	done := errors.New("done")
	ended := make(chan error, 1)
	go func() {
		ended <- watcher.Watch(ctx, "broken/x/", first, func(e store.Event) error {
			if n := seen.Add(1); string(e.Value) != fmt.Sprint(n) {
				return fmt.Errorf("event %d has %s", n, e.Value)
			} else if n == changes {
				return done
			}
			return nil
		})
	}()
	broken := 0
	for i, revision := 1, first; i <= changes; i++ {
		revision, err = c.Update(t.Context(), "broken/x/counter", fmt.Append(nil, i), revision)
		must(t, err)
		if i%20 == 0 { // when the watch is there
			eventually(t, "the watch sees the changes", func() bool { return int(seen.Load()) == i })
			broken += b.cut()
		}
	}
	if err := <-ended; !errors.Is(err, done) {
		t.Errorf("%v after %d changes", err, seen.Load())
	}
	if broken < changes/20-1 {
		t.Errorf("only %d connections broke", broken)
	}
}

// testToken: a token that is refused is replaced by what its file has now, and
// nobody notices.
func testToken(t *testing.T, s *kubetest.Server) {
	kubectl(t, s, "create", "serviceaccount", "rotated", "--namespace", "overlay-cni")
	kubectl(t, s, "create", "clusterrolebinding", "rotated", "--clusterrole", "overlayd", "--serviceaccount", "overlay-cni:rotated")
	config, file := account(t, s)
	old, err := s.Token(t.Context(), "overlay-cni", "rotated", time.Hour)
	must(t, err)
	next, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(old), 0o600))
	ca := filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(ca, s.CA(), 0o600))
	refused := func() bool {
		_, err := s.Kubectl(t.Context(), "--kubeconfig", os.DevNull, "--server", s.URL(), "--certificate-authority", ca, "--token", old, "get", "networks")
		return err != nil && strings.Contains(err.Error(), "Unauthorized")
	}
	c := client(t, s, kube.Options{Kubeconfig: config})
	revision, err := c.Create(t.Context(), "token", nil)
	must(t, err)
	if refused() {
		t.Error("the first token is refused before its end")
	}
	must(t, os.WriteFile(file, next, 0o600))
	kubectl(t, s, "delete", "serviceaccount", "rotated", "--namespace", "overlay-cni") // and with it its tokens
	eventually(t, "the old token is refused", func() bool {
		revision, err = c.Update(t.Context(), "token", nil, revision)
		must(t, err)
		return refused()
	})
	for range 3 {
		revision, err = c.Update(t.Context(), "token", nil, revision)
		must(t, err)
	}
}
