//go:build linux

package main

// The section "flanneld": overlayd and flanneld on one etcd, each with the leases
// of as many other nodes.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// Metrics of daemons side by side.
const (
	programTime  = "programmed s"
	programCPU   = "CPU s"
	restartTime  = "restart s"
	rivalStarts  = "restart CPU s"
	rivalAsked   = "restart requests"
	rivalMemory  = "RSS MB"
	ownOverlayd  = "overlayd"
	rivalFlannel = "flanneld"
)

// rivalPeers is how many other nodes there are.
const rivalPeers = 5000

// follows is a daemon that brings other nodes' leases into the kernel.
type follows interface {
	launch(ctx context.Context) error
	await(ctx context.Context) error // until it is ready
	pid() int
	stop() error
}

// rival is a kind of daemon.
type rival struct {
	name string
	// prepare readies the etcd for a new network of nodes.
	prepare func(ctx context.Context, e *etcd) error
	daemon  func(e *etcd, dir string, n *lab.Node) follows
	lease   func(e *etcd, s simulated) (entry, error)
	// suffix of a prefix in etcd.
	suffix string
	// ownLease: each node's lease hangs on an etcd lease of its own.
	ownLease bool
}

// rivals are overlayd and, where there is one, flanneld.
func rivals(o *options) []rival {
	found := []rival{{
		name:    ownOverlayd,
		prepare: func(context.Context, *etcd) error { return nil },
		daemon:  func(e *etcd, dir string, n *lab.Node) follows { return e.overlayd(o.bin, dir, n) },
		lease:   (*etcd).overlayLease, suffix: "/",
	}}
	if _, err := os.Stat(filepath.Join(o.peers, "flanneld")); o.peers == "" || err != nil {
		return found
	}
	return append(found, rival{
		name:    rivalFlannel,
		prepare: func(ctx context.Context, e *etcd) error { return e.configureFlannel(ctx) },
		daemon: func(e *etcd, dir string, n *lab.Node) follows {
			return &flanneld{bin: o.peers, node: n, dir: filepath.Join(dir, n.Name()), etcd: e}
		},
		lease: (*etcd).flannelLease, ownLease: true,
	})
}

func measureFlanneld(ctx context.Context, o *options, dir string) (s *section, err error) {
	if err := absolute(&o.bin, &o.peers); err != nil {
		return nil, err
	}
	s = &section{
		name: fmt.Sprintf("flanneld: %d new nodes on one etcd, and a restart with them", rivalPeers), measured: series{},
		notes: []string{"programmed: all routes, neighbours and forwarding entries are in the kernel; restart: until a node that joined meanwhile is, too. flanneld has no packet filter to program."},
		metrics: []metric{
			{name: programTime, digits: 2}, {name: programCPU, digits: 2}, {name: restartTime, digits: 2}, {name: rivalStarts, digits: 2},
			{name: rivalAsked}, {name: rivalMemory, digits: 1},
		},
	}
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	e, err := newEtcd(ctx, l, 1)
	if err != nil {
		return nil, err
	}
	all := rivals(o)
	for _, r := range all {
		s.contenders = append(s.contenders, r.name)
	}
	for _, m := range s.metrics {
		s.questions = append(s.questions, question{ownOverlayd, rivalFlannel, m.name, nil})
	}
	return s, inTurns(ctx, 0, o.times(5, 1), len(all), func(round, i int) error {
		name := fmt.Sprintf("r%d-%s", round, all[i].name)
		n, err := l.AddNode(name, "a")
		if err != nil {
			return err
		}
		b := &bout{rival: all[i], section: s, etcd: e.below("/" + name + all[i].suffix), node: n, dir: filepath.Join(dir, "flanneld")}
		return errors.Join(b.run(ctx), n.PowerOff())
	})
}

// bout is one round of one daemon.
type bout struct {
	rival
	*section
	etcd   *etcd
	node   *lab.Node
	dir    string
	daemon follows
}

func (b *bout) run(ctx context.Context) error {
	if err := b.prepare(ctx, b.etcd); err != nil {
		return err
	}
	b.daemon = b.rival.daemon(b.etcd, b.dir, b.node)
	f, err := follow(b.node)
	if err != nil {
		return err
	}
	defer f.close()
	if err := errors.Join(b.daemon.launch(ctx), b.daemon.await(ctx)); err != nil {
		return err
	}
	if err := b.program(ctx, f); err != nil {
		return fmt.Errorf("%s: %w", b.rival.name, err)
	}
	if err := b.restart(ctx, f); err != nil {
		return fmt.Errorf("%s: %w", b.rival.name, err)
	}
	m, err := memoryOf(b.daemon.pid())
	if err != nil {
		return err
	}
	b.measured.add(b.rival.name, rivalMemory, m.resident)
	return b.daemon.stop()
}

// program writes the leases of all nodes, and waits until they are in the kernel.
func (b *bout) program(ctx context.Context, f *follower) error {
	entries, leases, err := b.leases(ctx, 0, rivalPeers)
	if err != nil {
		return err
	}
	var wanted []trace
	for i := range rivalPeers {
		wanted = append(wanted, simulated(i).traces()...)
	}
	before, err := cpuOf(b.daemon.pid())
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.etcd.write(ctx, entries, leases); err != nil {
		return err
	}
	if err := f.within(ctx, true, wanted); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := cpuOf(b.daemon.pid())
	b.measured.add(b.rival.name, programTime, took.Seconds())
	b.measured.add(b.rival.name, programCPU, (after - before).Seconds())
	return err
}

// leases are the entries of some nodes, with the etcd leases that they hang on.
func (b *bout) leases(ctx context.Context, first, count int) (entries []entry, leases []clientv3.LeaseID, err error) {
	entries, err = leasesOf(func(s simulated) (entry, error) { return b.lease(b.etcd, s) }, first, count)
	if err == nil && b.ownLease {
		leases, err = b.etcd.grant(ctx, count)
	}
	return entries, leases, err
}

// restart restarts the daemon with all in the kernel but one node that has joined
// meanwhile.
func (b *bout) restart(ctx context.Context, f *follower) error {
	if err := b.daemon.stop(); err != nil {
		return err
	}
	entries, leases, err := b.leases(ctx, rivalPeers, 1)
	if err == nil {
		err = b.etcd.write(ctx, entries, leases)
	}
	if err != nil {
		return err
	}
	asked, err := b.etcd.during(ctx, func() error {
		began := time.Now()
		if err := b.daemon.launch(ctx); err != nil {
			return err
		}
		if err := f.within(ctx, true, simulated(rivalPeers).traces()); err != nil {
			return err
		}
		b.measured.add(b.rival.name, restartTime, time.Since(began).Seconds())
		cpu, err := cpuOf(b.daemon.pid())
		b.measured.add(b.rival.name, rivalStarts, cpu.Seconds())
		return err
	})
	if err != nil {
		return err
	}
	b.measured.add(b.rival.name, rivalAsked, asked.total())
	if len(b.measured[b.rival.name][rivalAsked]) == 1 {
		b.notes = append(b.notes, fmt.Sprintf("%s asked at a restart: %s.", b.rival.name, asked))
	}
	return nil
}
