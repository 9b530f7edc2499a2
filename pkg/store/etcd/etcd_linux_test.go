package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/etcd"
	"github.com/overlay-cni/overlay-cni/pkg/store/storetest"
)

// open opens a store of a cluster.
func open(t *testing.T, c *etcdtest.Cluster, prefix string) *etcd.Store {
	t.Helper()
	return openBy(t, c, prefix, c.Dial)
}

func openBy(t *testing.T, c *etcdtest.Cluster, prefix string, dial func(context.Context, string) (net.Conn, error)) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(etcd.Options{Endpoints: c.Endpoints(), Prefix: prefix, Dial: dial, RequestTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// latency is how long everything that a server sends is on its way.
type latency struct{ atomic.Int64 }

func (l *latency) set(d time.Duration) func() error {
	return func() error {
		l.Store(int64(d))
		return nil
	}
}

func (l *latency) dial(c *etcdtest.Cluster) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := c.Dial(ctx, address)
		return &lateConn{conn, l}, err
	}
}

type lateConn struct {
	net.Conn
	late *latency
}

func (c *lateConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if late := time.Duration(c.late.Load()); late > 0 {
		<-time.After(late)
	}
	return n, err
}

// TestStore: three members, and a prefix for each test.
func TestStore(t *testing.T) {
	t.Parallel()
	c := etcdtest.New(t, 3)
	var prefixes atomic.Int32
	storetest.Run(t, func(t *testing.T) func() store.Store {
		t.Helper()
		prefix := fmt.Sprintf("/test%d/", prefixes.Add(1))
		return func() store.Store { return open(t, c, prefix) }
	})
}

// TestFaults: three members, while one or two of them, or the way to them,
// aren't what they should be.
func TestFaults(t *testing.T) {
	t.Parallel()
	c := etcdtest.New(t, 3)
	var leader *etcdtest.Member
	lead := func(do func(*etcdtest.Member) error) func() error {
		return func() (err error) {
			if leader, err = c.Leader(t.Context()); err != nil {
				return err
			}
			return do(leader)
		}
	}
	restart := func() error { return leader.Start() }
	each := func(do func(*etcdtest.Member) error, members ...*etcdtest.Member) func() error {
		return func() error {
			var all []error
			for _, m := range members {
				all = append(all, do(m))
			}
			return errors.Join(all...)
		}
	}
	var prefixes atomic.Int32
	var late latency
	backend := func(t *testing.T) func() store.Store {
		t.Helper()
		prefix := fmt.Sprintf("/fault%d/", prefixes.Add(1))
		return func() store.Store { return openBy(t, c, prefix, late.dial(c)) }
	}
	storetest.RunFaults(t, backend, []storetest.Fault{
		{Name: "nothing", Break: func() error { return nil }},
		{Name: "the leader is killed", Break: lead((*etcdtest.Member).Kill), Mend: restart},
		{Name: "a member is killed", Break: c.Members[0].Kill, Mend: c.Members[0].Start},
		{Name: "all members are killed", Break: each((*etcdtest.Member).Kill, c.Members...), Mend: each((*etcdtest.Member).Start, c.Members...)},
		{Name: "the leader is cut off", Break: lead(func(m *etcdtest.Member) error { return m.Disconnect() }), Mend: func() error { return leader.Connect() }},
		{Name: "a minority is left", Break: each(disconnect, c.Members[:2]...), Mend: each(connect, c.Members[:2]...)},
		{Name: "the leader hangs", Break: lead((*etcdtest.Member).Pause), Mend: func() error { return leader.Resume() }},
		{Name: "all members hang", Break: each((*etcdtest.Member).Pause, c.Members...), Mend: each((*etcdtest.Member).Resume, c.Members...)},
		{Name: "clients are cut off", Break: c.CutClients, Mend: c.MendClients},
		{Name: "all is slow", Break: late.set(400 * time.Millisecond), Mend: late.set(0)},
		{Name: "compaction", Break: func() error { return c.Compact(t.Context()) }},
		{Name: "compaction while clients are cut off", Break: func() error {
			if err := c.CutClients(); err != nil {
				return err
			}
			return c.Compact(t.Context())
		}, Mend: c.MendClients},
	})
}

func disconnect(m *etcdtest.Member) error { return m.Disconnect() }
func connect(m *etcdtest.Member) error    { return m.Connect() }
