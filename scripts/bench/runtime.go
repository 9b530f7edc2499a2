//go:build linux

package main

// A container runtime's part: a child process in a node's namespace that calls
// plugins through libcni. It reads a job and prints what it measured.

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// Metrics of CNI calls.
const (
	addTime = "ADD ms"
	delTime = "DEL ms"
	addCPU  = "ADD CPU ms"
	delCPU  = "DEL CPU ms"
	addRate = "ADD/s"
	delRate = "DEL/s"
)

// job is what the child process is to do.
type job struct {
	Paths      []string
	Cache      string
	Contenders []contender
	Rounds     int
	Warmup     int
	// Namespaces of pods, and how many calls there are at a time. With more
	// than one call each round adds all pods of a contender and deletes them.
	Namespaces []string
	Callers    int
	// Keep has the first contender added once, and left.
	Keep bool
}

// contender is a configuration of plugins.
type contender struct {
	Name     string
	Conflist json.RawMessage
}

// outcome is what the child process has found.
type outcome struct {
	Measured series
	Attached attachment
}

// attachment is what ADD gave a pod that is kept.
type attachment struct {
	Address netip.Addr
	MTU     int
}

// command makes a child process do a job on a node.
func (j *job) command(ctx context.Context, on *lab.Host) (*outcome, error) {
	in, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("encode job: %w", err)
	}
	c := on.Command(ctx, "/proc/self/exe", "--role", "cni")
	c.Stdin = newReader(in)
	data, err := c.Output()
	if err != nil {
		return nil, withStderr("call plugins on "+on.Name(), err)
	}
	found := &outcome{}
	if err := json.Unmarshal(data, found); err != nil {
		return nil, fmt.Errorf("read outcome: %w", err)
	}
	return found, nil
}

// caller calls plugins.
type caller struct {
	job   *job
	cni   *libcni.CNIConfig
	lists []*libcni.NetworkConfigList
	found outcome
}

func playRuntime(ctx context.Context, in io.Reader, out io.Writer) error {
	r := &caller{job: &job{}, found: outcome{Measured: series{}}}
	if err := json.NewDecoder(in).Decode(r.job); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	r.cni = libcni.NewCNIConfigWithCacheDir(r.job.Paths, r.job.Cache, nil)
	for _, c := range r.job.Contenders {
		list, err := libcni.NetworkConfFromBytes(c.Conflist)
		if err != nil {
			return fmt.Errorf("%s: read configuration: %w", c.Name, err)
		}
		r.lists = append(r.lists, list)
	}
	if err := r.do(ctx); err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(r.found); err != nil {
		return fmt.Errorf("print outcome: %w", err)
	}
	return nil
}

func (r *caller) do(ctx context.Context) error {
	if r.job.Keep {
		return r.keep(ctx)
	}
	one := r.single
	if r.job.Callers > 1 {
		one = r.many
	}
	return inTurns(ctx, r.job.Warmup, r.job.Rounds, len(r.lists), func(round, i int) error {
		values, err := one(ctx, i)
		if err != nil {
			return fmt.Errorf("%s: %w", r.job.Contenders[i].Name, err)
		}
		for name, v := range values {
			if round >= 0 {
				r.found.Measured.add(r.job.Contenders[i].Name, name, v)
			}
		}
		return nil
	})
}

// newPod returns what a runtime passes for a new container in a namespace.
func newPod(namespace string) *libcni.RuntimeConf {
	id := make([]byte, 32)
	rand.Read(id)
	return &libcni.RuntimeConf{ContainerID: hex.EncodeToString(id), NetNS: namespace, IfName: "eth0"}
}

// single adds and deletes one pod. Its namespace is the same every time, and
// empty.
func (r *caller) single(ctx context.Context, i int) (map[string]float64, error) {
	pod := newPod(r.job.Namespaces[0])
	add := begin()
	_, err := r.cni.AddNetworkList(ctx, r.lists[i], pod)
	wallAdd, cpuAdd := add.end()
	del := begin()
	if delErr := r.cni.DelNetworkList(ctx, r.lists[i], pod); err != nil || delErr != nil {
		return nil, errors.Join(err, delErr)
	}
	wallDel, cpuDel := del.end()
	return map[string]float64{addTime: wallAdd, addCPU: cpuAdd, delTime: wallDel, delCPU: cpuDel}, nil
}

// many adds all pods, some at a time, and then deletes them.
func (r *caller) many(ctx context.Context, i int) (map[string]float64, error) {
	pods := make([]*libcni.RuntimeConf, len(r.job.Namespaces))
	for k, namespace := range r.job.Namespaces {
		pods[k] = newPod(namespace)
	}
	each := func(fn func(*libcni.RuntimeConf) error) (rate float64, err error) {
		var g errgroup.Group
		g.SetLimit(r.job.Callers)
		w := begin()
		for _, pod := range pods {
			g.Go(func() error { return fn(pod) })
		}
		err = g.Wait()
		wall, _ := w.end()
		return float64(len(pods)) / wall * 1000, err
	}
	adds, err := each(func(pod *libcni.RuntimeConf) error {
		_, err := r.cni.AddNetworkList(ctx, r.lists[i], pod)
		return err
	})
	dels, delErr := each(func(pod *libcni.RuntimeConf) error { return r.cni.DelNetworkList(ctx, r.lists[i], pod) })
	return map[string]float64{addRate: adds, delRate: dels}, errors.Join(err, delErr)
}

func (r *caller) keep(ctx context.Context) error {
	raw, err := r.cni.AddNetworkList(ctx, r.lists[0], newPod(r.job.Namespaces[0]))
	if err != nil {
		return fmt.Errorf("%s: %w", r.job.Contenders[0].Name, err)
	}
	result, err := types100.GetResult(raw)
	if err != nil {
		return fmt.Errorf("read result: %w", err)
	}
	for _, ip := range result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		r.found.Attached.Address = a.Unmap()
	}
	for _, i := range result.Interfaces {
		r.found.Attached.MTU = i.Mtu
	}
	return nil
}

// watch measures the time, and the CPU time of children that have ended.
type watch struct {
	started time.Time
	cpu     time.Duration
}

func begin() watch { return watch{cpu: childCPU(), started: time.Now()} }

// end returns milliseconds.
func (w watch) end() (wall, cpu float64) {
	took := time.Since(w.started)
	return milliseconds(took), milliseconds(childCPU() - w.cpu)
}

// childCPU is the CPU time of all processes that were waited for, with theirs.
func childCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		return 0 // impossible with a valid argument
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
