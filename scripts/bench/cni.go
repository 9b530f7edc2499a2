//go:build linux

package main

// The sections "cni" and "parallel": ADD and DEL through libcni, one at a time
// and many at a time.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

func newReader(b []byte) io.Reader { return bytes.NewReader(b) }

// withStderr adds what a process wrote to its standard error.
func withStderr(what string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%s: %w: %s", what, err, bytes.TrimSpace(exit.Stderr))
	}
	return fmt.Errorf("%s: %w", what, err)
}

// bed is a node with pods' namespaces, a job, and what else the job needs.
type bed struct {
	lab    *lab.Lab
	node   *lab.Node
	daemon *daemon
	job    job
}

// newBed makes a node with so many pods, and a daemon for one more contender.
func newBed(ctx context.Context, o *options, dir string, pods int) (*bed, error) {
	if err := absolute(&o.bin, &o.upstream, &o.peers); err != nil {
		return nil, err
	}
	empty, err := buildProgram(ctx, dir, "empty")
	if err != nil {
		return nil, err
	}
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return nil, err
	}
	b := &bed{lab: l, job: job{Paths: []string{o.bin, o.upstream, empty}, Cache: filepath.Join(dir, "cache"), Callers: 1}}
	if o.peers != "" {
		b.job.Paths = append(b.job.Paths, o.peers)
	}
	return b, b.fill(ctx, o, dir, pods)
}

func (b *bed) fill(ctx context.Context, o *options, dir string, pods int) (err error) {
	if b.node, err = b.lab.AddNode("n1", "a"); err != nil {
		return errors.Join(err, b.lab.Close())
	}
	for k := range pods {
		pod, err := b.node.NewPod(fmt.Sprintf("p%d", k))
		if err != nil {
			return errors.Join(err, b.lab.Close())
		}
		b.job.Namespaces = append(b.job.Namespaces, pod.Path())
	}
	b.daemon = &daemon{
		bin: o.bin, node: b.node, dir: filepath.Join(dir, "overlayd"), store: filepath.Join(dir, "overlayd", "store"),
		networks: []object{
			{"name": "bench", "cidrs": []string{"10.100.0.0/16"}},
			{"name": "pooled", "vni": 4097, "pools": []object{{"cidr": "10.99.0.0/16"}}},
		},
	}
	if err := b.daemon.start(ctx); err != nil {
		return errors.Join(err, b.lab.Close())
	}
	return nil
}

// contend does the job with the contenders, and those that have a daemon.
func (b *bed) contend(ctx context.Context, contenders []contender) (series, error) {
	b.job.Contenders = slices.Clone(contenders)
	for i, name := range []string{ownDaemon, ownPool} {
		served, err := b.daemon.serves(name, i)
		if err != nil {
			return nil, err
		}
		b.job.Contenders = append(b.job.Contenders, served)
	}
	found, err := b.job.command(ctx, b.node.Host)
	if err != nil {
		return nil, err
	}
	return found.Measured, nil
}

func names(contenders []contender) []string {
	var found []string
	for _, c := range contenders {
		found = append(found, c.Name)
	}
	return found
}

func measureCNI(ctx context.Context, o *options, dir string) (s *section, err error) {
	b, err := newBed(ctx, o, filepath.Join(dir, "cni"), 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	f := &field{dir: filepath.Join(dir, "cni")}
	_, err = os.Stat(filepath.Join(o.peers, "flannel"))
	contenders, err := f.all(o.peers != "" && err == nil)
	if err != nil {
		return nil, err
	}
	b.job.Warmup, b.job.Rounds = 3, o.times(100, 15)
	s = &section{
		name:    "cni: ADD and DEL of one pod through libcni",
		notes:   []string{about(dir), "Upstream's plugins don't masquerade unless it's said; ours does."},
		metrics: []metric{{name: addTime, digits: 2, tail: true}, {name: delTime, digits: 2, tail: true}, {name: addCPU, digits: 2}, {name: delCPU, digits: 2}},
		questions: []question{
			{own, ptp, addTime, atMost(0.55)}, {own, ptp, addCPU, atMost(0.5)},
			{own, ptp, delTime, atMost(1)}, {own, ptp, delCPU, nil},
			{ownDaemon, ptp, addTime, atMost(0.55)}, {ownDaemon, ptp, addCPU, atMost(0.5)},
			{ownDaemon, ptp, delTime, atMost(1)}, {ownDaemon, ptp, delCPU, nil},
			{ownPool, ownDaemon, addTime, atMost(1.05)}, {ownPool, ownDaemon, delTime, nil},
			{ownPortmap, ptpPortmap, addTime, nil}, {ownPortmap, ptpPortmap, delTime, nil},
			{own, bridge, addTime, nil}, {own, bridgeMasq, addTime, nil}, {own, bridgeMasq, delTime, nil},
			{own, flannelBridge, addTime, nil}, {own, flannelBridge, delTime, nil},
			{own, emptyPlugin, addTime, nil},
		},
	}
	s.measured, err = b.contend(ctx, contenders)
	s.contenders = names(b.job.Contenders)
	return s, err
}

func measureParallel(ctx context.Context, o *options, dir string) (s *section, err error) {
	const pods, callers = 200, 16
	b, err := newBed(ctx, o, filepath.Join(dir, "parallel"), pods)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	f := &field{dir: filepath.Join(dir, "parallel")}
	contenders, err := f.all(false)
	if err != nil {
		return nil, err
	}
	b.job.Callers, b.job.Rounds = callers, o.times(5, 1)
	s = &section{
		name:    fmt.Sprintf("parallel: %d pods through libcni, %d at a time", pods, callers),
		notes:   []string{about(dir)},
		metrics: []metric{{name: addRate}, {name: delRate}},
		questions: []question{
			{own, ptp, addRate, atLeast(2)}, {own, ptp, delRate, nil},
			{ownDaemon, ptp, addRate, atLeast(2)}, {ownDaemon, ptp, delRate, nil},
			{ownPool, ownDaemon, addRate, nil}, {ownPool, ownDaemon, delRate, nil},
			{own, bridge, addRate, nil}, {own, bridge, delRate, nil},
		},
	}
	s.measured, err = b.contend(ctx, contenders[1:4]) // ours, ptp, bridge
	s.contenders = names(b.job.Contenders)
	return s, err
}
