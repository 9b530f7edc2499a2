//go:build linux

package main

// The section "crowd": many nodes that start at once on an etcd of three members.

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// Metrics of a crowd.
const (
	crowdReady = "all ready s"
	crowdMet   = "all met s"
	crowdDied  = "died"
)

const (
	crowdSize    = 20
	crowdMembers = 3
	// crowdPatience is how long a crowd may take to know each other.
	crowdPatience = 30 * time.Second
)

func measureCrowd(ctx context.Context, o *options, dir string) (s *section, err error) {
	if err := absolute(&o.bin, &o.peers); err != nil {
		return nil, err
	}
	all := rivals(o)
	s = &section{
		name: fmt.Sprintf("crowd: %d nodes that start at once on an etcd of %d members", crowdSize, crowdMembers), measured: series{},
		notes: []string{"ready: of those that didn't die; met: these have the routes, neighbours and forwarding entries of each other."},
		metrics: []metric{
			{name: crowdReady, digits: 2}, {name: crowdMet, digits: 2}, {name: crowdDied, digits: 1},
		},
		questions: []question{{ownOverlayd, rivalFlannel, crowdReady, nil}, {ownOverlayd, rivalFlannel, crowdMet, nil}},
	}
	for _, r := range all {
		s.contenders = append(s.contenders, r.name)
	}
	return s, inTurns(ctx, 0, o.times(10, 1), len(all), func(round, i int) error {
		c := &crowd{rival: all[i], section: s, dir: filepath.Join(dir, "crowd", fmt.Sprint(round))}
		if err := c.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", all[i].name, err)
		}
		return nil
	})
}

// crowd is one round of one kind of daemon, in a lab of its own.
type crowd struct {
	rival
	*section
	dir     string
	etcd    *etcd
	nodes   []*lab.Node
	daemons []follows
	ready   []bool
}

func (c *crowd) run(ctx context.Context) (err error) {
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	e, err := newEtcd(ctx, l, crowdMembers)
	if err != nil {
		return err
	}
	c.etcd = e.below("/crowd" + c.suffix)
	if err := c.prepare(ctx, c.etcd); err != nil {
		return err
	}
	c.ready = make([]bool, crowdSize)
	for i := range crowdSize {
		n, err := l.AddNode(fmt.Sprintf("n%d", i), []string{"a", "b"}[i%2])
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
		c.daemons = append(c.daemons, c.daemon(c.etcd, c.dir, n))
	}
	return c.start(ctx)
}

// start starts all daemons, and waits until those that live know each other.
func (c *crowd) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, crowdPatience)
	defer cancel()
	began := time.Now()
	for _, d := range c.daemons {
		if err := d.launch(ctx); err != nil {
			return err
		}
	}
	deaths := make([]string, crowdSize)
	var all errgroup.Group
	for i, d := range c.daemons {
		all.Go(func() error {
			err := d.await(ctx)
			c.ready[i] = err == nil
			if errors.Is(err, errEnded) {
				deaths[i] = err.Error()
				return nil
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	c.measured.add(c.rival.name, crowdReady, time.Since(began).Seconds())
	died := 0
	for i, said := range deaths {
		if !c.ready[i] {
			died++
			c.notes = append(c.notes, c.rival.name+" died: "+lastError(said))
		}
	}
	c.measured.add(c.rival.name, crowdDied, float64(died))
	if err := c.meet(ctx, crowdSize-died-1); err != nil {
		return err
	}
	c.measured.add(c.rival.name, crowdMet, time.Since(began).Seconds())
	return nil
}

// lastError is what a process said last as an error, in the form of Kubernetes'
// logs; else what it said last.
func lastError(text string) (last string) {
	isError := func(line string) bool { return strings.HasPrefix(line, "E") }
	for line := range strings.Lines(strings.TrimSpace(text)) {
		if isError(line) || !isError(last) {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// meet waits until all nodes that are ready have so many peers in the kernel.
func (c *crowd) meet(ctx context.Context, peers int) error {
	for i, n := range c.nodes {
		for c.ready[i] {
			known, err := knownPeers(n)
			if err != nil {
				return err
			}
			if known >= peers { // those that died may have left a lease
				break
			}
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return fmt.Errorf("%s knows %d of %d peers: %w", n.Name(), known, peers, err)
			}
		}
	}
	return nil
}

// knownPeers counts those of a node's peers to which all entries lead.
func knownPeers(n *lab.Node) (known int, err error) {
	err = n.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		neighbors, err := netlink.NeighList(0, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		entries, err := netlink.NeighList(0, unix.AF_BRIDGE)
		if err != nil {
			return fmt.Errorf("list forwarding entries: %w", err)
		}
		next := map[string]string{} // from an address to its Ethernet address, and from that to the underlay
		for _, e := range append(neighbors, entries...) {
			if e.Family == unix.AF_BRIDGE {
				next[e.HardwareAddr.String()] = destination(e.IP)
			} else {
				next[e.IP.String()] = e.HardwareAddr.String()
			}
		}
		for _, r := range routes {
			if r.Gw != nil && r.Dst != nil && r.Gw.Equal(r.Dst.IP) && next[next[r.Gw.String()]] != "" {
				known++
			}
		}
		return nil
	})
	return known, err
}
