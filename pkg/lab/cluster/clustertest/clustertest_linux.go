// Package clustertest makes clusters for tests. What can't be made fails the
// test. See package cluster.
package clustertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// New makes a cluster without nodes on a lab of two segments.
func New(tb testing.TB, o cluster.Options) *cluster.Cluster {
	tb.Helper()
	return NewOn(tb, lab.Topology{}, o)
}

// NewOn makes a cluster without nodes on a lab of a given shape.
func NewOn(tb testing.TB, t lab.Topology, o cluster.Options) *cluster.Cluster {
	tb.Helper()
	if o.Bin == "" {
		o.Bin = Bin(tb)
	}
	dir := tb.TempDir() // which has to outlive the lab's daemons, so it comes first
	return cluster.New(labtest.New(tb, t), dir, o)
}

// Node adds a node and, when the test failed, shows what its daemon logged.
func Node(tb testing.TB, c *cluster.Cluster, name, segment string) *cluster.Node {
	tb.Helper()
	n, err := c.AddNode(tb.Context(), name, segment)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("log of overlayd on %s:\n%s", name, n.Log())
		}
	})
	return n
}

// Pod makes a pod on a node and attaches it.
func Pod(tb testing.TB, n *cluster.Node, name string) *cluster.Pod {
	tb.Helper()
	p, err := n.AddPod(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// Serve starts the echo server of a host on a port.
func Serve(tb testing.TB, h *lab.Host, port uint16) {
	tb.Helper()
	if _, err := h.Serve(tb.Context(), port); err != nil {
		tb.Fatal(err)
	}
}

// Bin returns the folder with our binaries: OVERLAY_BIN, which make sets, or
// else what this test process builds once.
func Bin(tb testing.TB) string {
	tb.Helper()
	return folder(tb, "OVERLAY_BIN", ours, "./plugins/overlay-vxlan", "./plugins/overlayd", "./ipam/overlay-ipam")
}

// Peers returns the folder with upstream's plugins and cnitool: OVERLAY_PEERS,
// or else what this test process builds once.
func Peers(tb testing.TB) string {
	tb.Helper()
	const plugins = "github.com/containernetworking/plugins/plugins/"
	return folder(tb, "OVERLAY_PEERS", upstream,
		plugins+"main/bridge", plugins+"main/ptp", plugins+"ipam/host-local", plugins+"meta/portmap",
		plugins+"meta/bandwidth", plugins+"meta/tuning", plugins+"meta/firewall",
		"github.com/containernetworking/cni/cnitool")
}

// build is a folder that is built once in a process.
type build struct {
	once sync.Once
	dir  string
	err  error
	text []byte
}

//nolint:gochecknoglobals // what is built once in a process is kept with the process
var ours, upstream = &build{}, &build{}

// folderPrefix begins the names of folders that test processes build into; the
// process's number follows.
const folderPrefix = "overlay-bin-"

// sweep removes the folders of test processes that have ended.
func sweep() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		var pid int
		_, err := fmt.Sscanf(filepath.Base(dir), folderPrefix+"%d-", &pid)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // another process may be doing the same
		}
	}
}

func folder(tb testing.TB, variable string, b *build, packages ...string) string {
	tb.Helper()
	if dir := os.Getenv(variable); dir != "" {
		return dir
	}
	b.once.Do(func() {
		sweep()
		//nolint:usetesting // it outlives the test that happens to build it
		if b.dir, b.err = os.MkdirTemp("", fmt.Sprintf("%s%d-", folderPrefix, os.Getpid())); b.err != nil {
			return
		}
		root, err := exec.CommandContext(tb.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
		if b.err = err; err != nil {
			return
		}
		args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", b.dir + string(filepath.Separator)}, packages...)
		cmd := exec.CommandContext(tb.Context(), "go", args...)
		cmd.Dir = string(root[:len(root)-1])
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		b.text, b.err = cmd.CombinedOutput()
	})
	if b.err != nil {
		tb.Fatalf("build %v: %v\n%s", packages, b.err, b.text)
	}
	return b.dir
}
