package lease_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store/etcd"
)

// TestCrowdOnEtcd: nodes that start all at once on one etcd, each with a client
// of its own, all get their leases, and no two the same block.
func TestCrowdOnEtcd(t *testing.T) {
	t.Parallel()
	c := etcdtest.New(t, 3)
	for _, nodes := range []int{20, 500} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			spec := lease.Network{Name: "pods", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/40")}}.Complete()
			leases := make([][]lease.Lease, nodes)
			begun := time.Now()
			var g errgroup.Group
			for i := range nodes {
				g.Go(func() (err error) {
					leases[i], err = startNode(t, c, fmt.Sprintf("/crowd%d/", nodes), &spec, i)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d nodes had their leases after %s", nodes, time.Since(begun).Round(time.Millisecond))
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
		})
	}
}

// startNode does what a daemon does at its start.
func startNode(t *testing.T, c *etcdtest.Cluster, prefix string, spec *lease.Network, number int) ([]lease.Lease, error) {
	t.Helper()
	s, err := etcd.Open(etcd.Options{Endpoints: c.Endpoints(), Prefix: prefix, Dial: c.Dial, RequestTimeout: time.Minute})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := &lease.Registry{Store: s, TTL: lease.DefaultTTL}
	joined, err := r.Join(t.Context(), spec)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("node%d", number)
	vtep := lease.VTEP{Underlay: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(number >> 8), byte(number)})}, MAC: ether.Addr{2, 0, 0, 0, byte(number >> 8), byte(number)}}
	return r.Acquire(t.Context(), &lease.Claim{Network: joined, Node: name, Instance: name, VTEP: vtep})
}
