//go:build linux

package main

// The section "peers": one overlayd on an etcd that has the leases of many other
// nodes: its start, how fast it follows, what it asks of the etcd and takes of
// the machine.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	store "github.com/overlay-cni/overlay-cni/pkg/store/etcd"
	"github.com/overlay-cni/overlay-cni/pkg/store/mirror"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// Metrics of daemons with many peers.
const (
	firstStart   = "start s"
	secondStart  = "restart s"
	restartCPU   = "restart CPU s"
	restartAsked = "restart requests"
	joinTime     = "join ms"
	churnCPU     = "churn CPU %"
	churnLag     = "lag ms"
	steadyCPU    = "steady CPU %"
	hourlyAsked  = "requests/h"
	residentMB   = "RSS MB"
	anonymousMB  = "anon MB"
	peakMB       = "peak MB"
)

// Targets at ten thousand peers.
const (
	joinTarget   = "2 s"
	memoryTarget = "60 MB"
)

// peerCounts are how many other nodes there are.
func peerCounts() []int { return []int{10, 1000, 10000} }

func withPeers(count int) string { return fmt.Sprintf("overlayd, %d peers", count) }

func measurePeers(ctx context.Context, o *options, dir string) (s *section, err error) {
	if err := absolute(&o.bin); err != nil {
		return nil, err
	}
	most := withPeers(peerCounts()[len(peerCounts())-1])
	s = &section{
		name: "peers: overlayd on an etcd with the leases of many nodes",
		metrics: []metric{
			{name: firstStart, digits: 2}, {name: secondStart, digits: 2}, {name: restartCPU, digits: 2}, {name: restartAsked},
			{name: joinTime, digits: 0, tail: true}, {name: churnCPU, digits: 1}, {name: churnLag}, {name: steadyCPU, digits: 2}, {name: hourlyAsked},
			{name: residentMB, digits: 1}, {name: anonymousMB, digits: 1}, {name: peakMB, digits: 1},
		},
		measured: series{},
		questions: []question{
			{most, joinTarget, joinTime, atMost(1)},
			{most, memoryTarget, residentMB, atMost(1)},
			{most, withPeers(peerCounts()[0]), restartAsked, atMost(1)},
		},
	}
	s.measured.add(joinTarget, joinTime, milliseconds(2*time.Second))
	s.measured.add(memoryTarget, residentMB, 60)
	for _, count := range peerCounts() {
		if err := s.peers(ctx, o, filepath.Join(dir, "peers"), count); err != nil {
			return nil, fmt.Errorf("%s: %w", withPeers(count), err)
		}
	}
	return s, nil
}

// peers measures one overlayd with a number of peers.
func (s *section) peers(ctx context.Context, o *options, dir string, count int) (err error) {
	s.contenders = append(s.contenders, withPeers(count))
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	e, err := newEtcd(ctx, l, 1)
	if err != nil {
		return err
	}
	e = e.below("/overlay-cni/")
	entries, err := e.overlayLeases(0, count)
	if err != nil {
		return err
	}
	if err := e.write(ctx, entries, nil); err != nil {
		return err
	}
	c := &crowded{section: s, options: o, name: withPeers(count), peers: count, etcd: e, lab: l, dir: filepath.Join(dir, fmt.Sprint(count))}
	for _, step := range []func(context.Context) error{c.starts, c.restarts, c.joins, c.churn, c.steady, c.memory} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return c.daemon.stop()
}

// crowded is one overlayd with many peers.
type crowded struct {
	*section
	options *options
	name    string
	peers   int // that were there first
	etcd    *etcd
	lab     *lab.Lab
	dir     string
	daemon  *daemon // the last that was started
	joined  int
}

// overlayd is that of a node that shares the etcd.
func (e *etcd) overlayd(bin, dir string, n *lab.Node) *daemon {
	return &daemon{
		bin: bin, node: n, dir: filepath.Join(dir, n.Name()), etcd: e,
		networks: []object{{"name": scaleNetwork, "cidrs": []string{realCIDR, simulatedCIDR}}},
	}
}

// starts starts overlayd on new nodes; the last goes on.
func (c *crowded) starts(ctx context.Context) error {
	for round := range c.options.times(3, 1) {
		if c.daemon != nil {
			if err := c.daemon.stop(); err != nil {
				return err
			}
		}
		n, err := c.lab.AddNode(fmt.Sprintf("n%d", round), "a")
		if err != nil {
			return err
		}
		c.daemon = c.etcd.overlayd(c.options.bin, c.dir, n)
		asked, err := c.etcd.during(ctx, func() error {
			began := time.Now()
			err := c.daemon.start(ctx)
			c.measured.add(c.name, firstStart, time.Since(began).Seconds())
			return err
		})
		if err != nil {
			return err
		}
		if round == 0 {
			c.notes = append(c.notes, fmt.Sprintf("%s, asked at the start of the first node: %s.", c.name, asked))
		}
		if err := c.complete(c.peers + round); err != nil {
			return err
		}
	}
	return nil
}

// complete says whether the kernel has the entries of so many peers, and no more.
func (c *crowded) complete(peers int) error {
	return c.daemon.node.Do(func() error {
		link, err := netlink.LinkByName(vtep.DeviceName(lease.DefaultVNI))
		if err != nil {
			return fmt.Errorf("find VXLAN device: %w", err)
		}
		routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		if len(routes) != peers {
			return fmt.Errorf("%d routes to peers, want %d", len(routes), peers)
		}
		return nil
	})
}

// restarts restarts overlayd with all in the kernel already.
func (c *crowded) restarts(ctx context.Context) error {
	for range c.options.times(5, 2) {
		if err := c.daemon.stop(); err != nil {
			return err
		}
		asked, err := c.etcd.during(ctx, func() error {
			began := time.Now()
			if err := c.daemon.start(ctx); err != nil {
				return err
			}
			c.measured.add(c.name, secondStart, time.Since(began).Seconds())
			cpu, err := cpuOf(c.daemon.pid())
			c.measured.add(c.name, restartCPU, cpu.Seconds())
			return err
		})
		if err != nil {
			return err
		}
		c.measured.add(c.name, restartAsked, asked.total())
	}
	return nil
}

// joiner is a node that claims a block as overlayd does.
type joiner struct {
	registry *lease.Registry
	network  lease.Network
}

// newJoiner has listed the leases before, as a node at its start.
func (e *etcd) newJoiner(ctx context.Context) (*joiner, func() error, error) {
	under, err := store.Open(store.Options{Endpoints: e.cluster.Endpoints(), Prefix: e.prefix, Dial: e.cluster.Dial})
	if err != nil {
		return nil, nil, err
	}
	m := mirror.New(under, mirror.Options{})
	j := &joiner{registry: &lease.Registry{Store: m, TTL: lease.DefaultTTL}}
	if j.network, err = j.registry.Network(ctx, scaleNetwork); err == nil {
		_, err = j.registry.View(ctx, scaleNetwork)
	}
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return j, m.Close, nil
}

// join claims a block for a new node.
func (j *joiner) join(ctx context.Context, number int) (*lease.Lease, error) {
	name := fmt.Sprintf("joiner%d", number)
	own, err := j.registry.Acquire(ctx, &lease.Claim{
		Network: j.network, Node: name, Instance: name,
		VTEP: lease.VTEP{
			Underlay: []netip.Addr{netip.AddrFrom4([4]byte{172, 29, byte(number >> 8), byte(number)})},
			MAC:      ether.Local([5]byte{0xfd, 0, 0, byte(number >> 8), byte(number)}),
		},
	})
	if err != nil {
		return nil, err
	}
	return &own[0], nil
}

// mostBetween is the longest time from one join to the next.
const mostBetween = 2 * time.Second

// joins measures from a node's claim until overlayd has it in the kernel.
func (c *crowded) joins(ctx context.Context) (err error) {
	j, done, err := c.etcd.newJoiner(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	f, err := follow(c.daemon.node)
	if err != nil {
		return err
	}
	defer f.close()
	for range c.options.times(30, 10) {
		if err := pause(ctx, rand.N(mostBetween)); err != nil {
			return err
		}
		began := time.Now()
		l, err := j.join(ctx, c.joined)
		if err != nil {
			return err
		}
		c.joined++
		if err := f.within(ctx, true, traces(l.Block, l.VTEP.MAC, l.VTEP.Underlay[0])); err != nil {
			return err
		}
		c.measured.add(c.name, joinTime, milliseconds(time.Since(began)))
	}
	return nil
}

// Churn: how often a node joins and another leaves.
const (
	churnEvery = 10 * time.Millisecond
	churnTime  = 20 * time.Second
)

// churn has nodes join and leave, and measures overlayd meanwhile, and how far
// behind it is at the end.
func (c *crowded) churn(ctx context.Context) error {
	f, err := follow(c.daemon.node)
	if err != nil {
		return err
	}
	defer f.close()
	last, used, err := c.comeAndGo(ctx)
	if err != nil {
		return err
	}
	ended := time.Now()
	if err := f.within(ctx, true, simulated(last).traces()); err != nil {
		return err
	}
	if err := f.within(ctx, false, simulated(last-c.stay()).traces()); err != nil {
		return err
	}
	c.measured.add(c.name, churnLag, milliseconds(time.Since(ended)))
	c.measured.add(c.name, churnCPU, 100*used)
	return c.complete(c.peers + c.joined + c.options.times(3, 1) - 1 + c.stay())
}

// stay is how many nodes of the churn are there at any time.
func (c *crowded) stay() int { return min(c.peers, 100) }

// comeAndGo returns the last node that joined, and the share of a CPU that
// overlayd has used.
func (c *crowded) comeAndGo(ctx context.Context) (last int, used float64, err error) {
	pid := c.daemon.pid()
	tick := time.NewTicker(churnEvery)
	defer tick.Stop()
	before, err := cpuOf(pid)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	count := int(churnTime / churnEvery)
	for i := range count {
		last = c.peers + i
		comes, err := c.etcd.overlayLease(simulated(last))
		if err != nil {
			return 0, 0, err
		}
		if _, err := c.etcd.client.Put(ctx, comes.key, comes.value); err != nil {
			return 0, 0, fmt.Errorf("join: %w", err)
		}
		if i >= c.stay() {
			goes, err := c.etcd.overlayLease(simulated(last - c.stay()))
			if err != nil {
				return 0, 0, err
			}
			if _, err := c.etcd.client.Delete(ctx, goes.key); err != nil {
				return 0, 0, fmt.Errorf("leave: %w", err)
			}
		}
		<-tick.C
	}
	after, err := cpuOf(pid)
	return last, float64(after-before) / float64(time.Since(began)), err
}

// quickIdle is how long it is quiet at the most where there are fewer rounds.
const quickIdle = 20 * time.Second

// renewedAfter is how long after its last renewal a lease is renewed, on average:
// between a third and a half of its life.
const renewedAfter = lease.DefaultTTL * 5 / 12

// steady measures overlayd while nothing happens but that all nodes renew their
// leases, as often as they do.
func (c *crowded) steady(ctx context.Context) error {
	idle := c.options.idle
	if c.options.quick {
		idle = min(idle, quickIdle)
	}
	renewed := 0
	asked, err := c.etcd.during(ctx, func() error {
		before, err := cpuOf(c.daemon.pid())
		if err != nil {
			return err
		}
		if renewed, err = c.renew(ctx, idle); err != nil {
			return err
		}
		after, err := cpuOf(c.daemon.pid())
		c.measured.add(c.name, steadyCPU, 100*(after-before).Seconds()/idle.Seconds())
		return err
	})
	if err != nil {
		return err
	}
	delete(asked, "Put") // the renewals
	c.measured.add(c.name, hourlyAsked, asked.total()*float64(time.Hour)/float64(idle))
	c.notes = append(c.notes, fmt.Sprintf("%s, for %s, in which %d other nodes renewed their leases: asked %s.", c.name, idle, renewed, asked))
	return nil
}

// renew renews the leases of all simulated nodes, one after the other, for a
// time.
func (c *crowded) renew(ctx context.Context, d time.Duration) (count int, err error) {
	end := time.After(d)
	tick := time.NewTicker(renewedAfter / time.Duration(c.peers))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-end:
			return count, nil
		case <-ctx.Done():
			return count, ctx.Err()
		}
		e, err := c.etcd.overlayLease(simulated(count % c.peers))
		if err != nil {
			return count, err
		}
		if _, err := c.etcd.client.Put(ctx, e.key, e.value); err != nil {
			return count, fmt.Errorf("renew: %w", err)
		}
		count++
	}
}

func (c *crowded) memory(context.Context) error {
	m, err := memoryOf(c.daemon.pid())
	if err != nil {
		return err
	}
	c.measured.add(c.name, residentMB, m.resident)
	c.measured.add(c.name, anonymousMB, m.anonymous)
	c.measured.add(c.name, peakMB, m.peak)
	return nil
}
