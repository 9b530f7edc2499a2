//go:build linux

package main

// An etcd that daemons share, what it is asked, and nodes that exist in it
// alone.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// etcd is an etcd with a client, and the prefix that daemons are told.
type etcd struct {
	cluster *etcdtest.Cluster
	client  *clientv3.Client
	prefix  string
}

// newEtcd starts an etcd that ends with the lab.
func newEtcd(ctx context.Context, l *lab.Lab, members int) (*etcd, error) {
	cluster, err := etcdtest.Start(ctx, l, members)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	client, err := cluster.Client()
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return &etcd{cluster: cluster, client: client}, nil
}

// below is the same etcd with another prefix.
func (e *etcd) below(prefix string) *etcd { return &etcd{e.cluster, e.client, prefix} }

// requests are how many of each kind an etcd was asked: unary ones, and those
// within streams.
type requests map[string]float64

// requests reads what the etcd has been asked so far, all its members together.
func (e *etcd) requests(ctx context.Context) (requests, error) {
	found := requests{}
	client := &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return e.cluster.Dial(ctx, address) },
		DisableKeepAlives: true,
	}}
	for _, m := range e.cluster.Members {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.URL()+"/metrics", nil)
		if err != nil {
			return nil, fmt.Errorf("ask etcd for its metrics: %w", err)
		}
		answer, err := client.Do(request)
		if err != nil {
			return nil, fmt.Errorf("ask etcd for its metrics: %w", err)
		}
		err = found.read(answer.Body)
		_ = answer.Body.Close() // only read
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// watchesPause is how long after its start a daemon may still ask for watches.
const watchesPause = time.Second

// during returns what the etcd is asked while something is done.
func (e *etcd) during(ctx context.Context, do func() error) (requests, error) {
	before, err := e.requests(ctx)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(do(), pause(ctx, watchesPause)); err != nil {
		return nil, err
	}
	after, err := e.requests(ctx)
	return after.since(before), err
}

// pause lets something happen that can't be waited for.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read adds what a member's metrics say.
func (r requests) read(metrics io.Reader) error {
	line := regexp.MustCompile(`^grpc_server_msg_received_total\{grpc_method="(\w+)",.*\} (\S+)$`)
	for s := bufio.NewScanner(metrics); ; {
		if !s.Scan() {
			return s.Err()
		}
		if m := line.FindStringSubmatch(s.Text()); m != nil {
			count, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				return fmt.Errorf("read etcd's metrics: %w", err)
			}
			r[m[1]] += count
		}
	}
}

// since is what was asked after an earlier reading.
func (r requests) since(before requests) requests {
	asked := requests{}
	for kind, count := range r {
		if count > before[kind] {
			asked[kind] = count - before[kind]
		}
	}
	return asked
}

func (r requests) total() (sum float64) {
	for _, count := range r {
		sum += count
	}
	return sum
}

func (r requests) String() string {
	if len(r) == 0 {
		return "nothing"
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(r)) {
		parts = append(parts, fmt.Sprintf("%s %.0f", kind, r[kind]))
	}
	return strings.Join(parts, ", ")
}

// simulated is a node that exists in the store alone; they are counted from 0.
type simulated int

// Real nodes have blocks of the first CIDR, simulated ones of the second.
const (
	realCIDR      = "10.128.0.0/9"
	simulatedCIDR = "10.0.0.0/9"
)

func (s simulated) block() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(s >> 8), byte(s), 0}), 24)
}

func (s simulated) vtep() lease.VTEP {
	return lease.VTEP{
		Underlay: []netip.Addr{netip.AddrFrom4([4]byte{172, 16 + byte(s>>16), byte(s >> 8), byte(s)})},
		MAC:      ether.Local([5]byte{0xfe, 0, byte(s >> 16), byte(s >> 8), byte(s)}),
	}
}

// scaleNetwork is the name of the network that all nodes are in.
const scaleNetwork = "pods"

// entry is a key of etcd with its value.
type entry struct{ key, value string }

// overlayLease is the node's lease as overlayd writes it.
func (e *etcd) overlayLease(s simulated) (entry, error) {
	name := fmt.Sprintf("simulated%d", s)
	l := lease.Lease{
		Network: scaleNetwork, Block: s.block(), Node: name, Instance: fmt.Sprintf("%032x", int(s)), VTEP: s.vtep(),
		Expires: time.Now().Add(lease.DefaultTTL).UTC().Truncate(time.Second),
	}
	value, err := json.Marshal(l)
	if err != nil {
		return entry{}, fmt.Errorf("encode lease of %s: %w", name, err)
	}
	return entry{e.prefix + l.Key(), string(value)}, nil
}

// flannelLease is the node's lease as flanneld writes it.
func (e *etcd) flannelLease(s simulated) (entry, error) {
	v := s.vtep()
	value, err := json.Marshal(object{
		"PublicIP": v.Underlay[0], "PublicIPv6": nil, "BackendType": "vxlan", "BackendData": object{"VNI": 1, "VtepMAC": v.MAC.String()},
	})
	if err != nil {
		return entry{}, fmt.Errorf("encode Flannel's lease: %w", err)
	}
	return entry{e.prefix + "/subnets/" + strings.Replace(s.block().String(), "/", "-", 1), string(value)}, nil
}

// writeAtOnce is how many keys are written in one transaction; etcd takes 128.
const writeAtOnce = 100

// write writes entries, as many in one transaction as fit. Each hangs on one of
// the etcd leases, where there are some.
func (e *etcd) write(ctx context.Context, entries []entry, leases []clientv3.LeaseID) error {
	for first := 0; first < len(entries); first += writeAtOnce {
		var puts []clientv3.Op
		for i := first; i < min(first+writeAtOnce, len(entries)); i++ {
			var options []clientv3.OpOption
			if leases != nil {
				options = append(options, clientv3.WithLease(leases[i]))
			}
			puts = append(puts, clientv3.OpPut(entries[i].key, entries[i].value, options...))
		}
		if _, err := e.client.Txn(ctx).Then(puts...).Commit(); err != nil {
			return fmt.Errorf("write leases: %w", err)
		}
	}
	return nil
}

// grant makes etcd leases, one for each node, as flanneld has them.
func (e *etcd) grant(ctx context.Context, count int) ([]clientv3.LeaseID, error) {
	leases := make([]clientv3.LeaseID, count)
	var all errgroup.Group
	all.SetLimit(64)
	for i := range leases {
		all.Go(func() error {
			granted, err := e.client.Grant(ctx, int64(lease.DefaultTTL.Seconds()))
			if err == nil {
				leases[i] = granted.ID
			}
			return err
		})
	}
	return leases, all.Wait()
}

// overlayLeases are those of some nodes.
func (e *etcd) overlayLeases(first, count int) ([]entry, error) {
	return leasesOf(e.overlayLease, first, count)
}

// leasesOf are the leases of count nodes.
func leasesOf(lease func(simulated) (entry, error), first, count int) ([]entry, error) {
	entries := make([]entry, count)
	for i := range entries {
		var err error
		if entries[i], err = lease(simulated(first + i)); err != nil {
			return nil, err
		}
	}
	return entries, nil
}
