//go:build linux

package main

// Flannel's daemon on an etcd.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// flanneld is Flannel's daemon of one node. It has no packet filter to program, in
// its favour: what it does for that are iptables' processes, all nodes of a lab
// waiting for one lock.
type flanneld struct {
	bin  string
	node *lab.Node
	dir  string
	etcd *etcd // with the prefix of one network

	command *lab.Command
	output  bytes.Buffer
	ended   chan error
}

// configureFlannel writes Flannel's network: nodes have blocks of realCIDR.
func (e *etcd) configureFlannel(ctx context.Context) error {
	config := `{"Network": "10.0.0.0/8", "SubnetLen": 24, "SubnetMin": "10.128.0.0", "SubnetMax": "10.255.254.0", "Backend": {"Type": "vxlan"}}`
	if _, err := e.client.Put(ctx, e.prefix+"/config", config); err != nil {
		return fmt.Errorf("configure Flannel: %w", err)
	}
	return nil
}

// subnetFile is what flanneld writes when it has a lease and its device.
func (f *flanneld) subnetFile() string { return filepath.Join(f.dir, "subnet.env") }

func (f *flanneld) launch(ctx context.Context) error {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return fmt.Errorf("start flanneld: %w", err)
	}
	if err := os.Remove(f.subnetFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("start flanneld: %w", err)
	}
	endpoints := ""
	for i, endpoint := range f.etcd.cluster.Endpoints() {
		if i > 0 {
			endpoints += ","
		}
		endpoints += endpoint
	}
	f.command = f.node.Command(ctx, filepath.Join(f.bin, "flanneld"), "-etcd-endpoints", endpoints, "-etcd-prefix", f.etcd.prefix,
		"-iface", "eth0", "-subnet-file", f.subnetFile(), "-iptables-forward-rules=false")
	f.command.Stdout, f.command.Stderr = &f.output, &f.output
	if err := f.command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- f.command.Wait() }()
	f.ended = ended
	return nil
}

func (f *flanneld) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := os.Stat(f.subnetFile()); err == nil {
			return nil
		}
		select {
		case <-again.C:
		case err := <-f.ended:
			return fmt.Errorf("flanneld on %s %w: %w\n%s", f.node.Name(), errEnded, err, f.output.String())
		case <-ctx.Done():
			return fmt.Errorf("flanneld on %s is not ready: %w", f.node.Name(), ctx.Err())
		}
	}
}

func (f *flanneld) pid() int    { return f.command.Process.Pid }
func (f *flanneld) stop() error { return stop(f.command) }
