package kernel_test

// Connections: into which namespaces, and from where.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

func TestOpenNamespaceRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"nothing":         filepath.Join(t.TempDir(), "missing"),
		"empty path":      "",
		"regular file":    file,
		"directory":       t.TempDir(),
		"device":          "/dev/null",
		"pipe":            fifo,
		"mount namespace": "/proc/self/ns/mnt",
		"pid namespace":   "/proc/self/ns/pid",
		"user namespace":  "/proc/self/ns/user",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := kernel.OpenNamespace(path)
			if c != nil || !errors.Is(err, kernel.ErrNamespace) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, %v; want %v with the path", c, err, kernel.ErrNamespace)
			}
		})
	}
}

func TestIsOwn(t *testing.T) {
	t.Parallel()
	h, there := newHost(t)
	own, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	byPath, err := kernel.OpenNamespace("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = byPath.Close() })
	for name, tt := range map[string]struct {
		conn *kernel.Conn
		want bool
	}{"own": {own, true}, "own by its path": {byPath, true}, h.Name(): {there, false}} {
		if got, err := tt.conn.IsOwn(); err != nil || got != tt.want {
			t.Errorf("%s: %t, %v; want %t", name, got, err, tt.want)
		}
	}
	if own.Fd() != -1 || there.Fd() < 0 {
		t.Errorf("descriptors: own %d, there %d", own.Fd(), there.Fd())
	}
}

// The namespace is the one that was opened, also when its path is gone.
func TestNamespaceOutlivesItsPath(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	pod := labtest.Pod(t, node, "p1")
	c := open(t, pod.Host)
	if err := pod.Close(); err != nil {
		t.Fatal(err)
	}
	if have := observe(t, &kernel.Target{Conn: c, Links: []string{"lo"}}); len(have) == 0 {
		t.Error("no lo")
	}
}

// Settings are read and written where the connection leads, by threads that
// come back, whichever threads these are.
func TestSysctlsInTheirNamespace(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	const name = "net/ipv4/ip_default_ttl"
	before := ttl(t)
	var work sync.WaitGroup
	for n := range 4 {
		h := labtest.Node(t, l, fmt.Sprintf("n%d", n), "a").Host
		conn := open(t, h)
		work.Go(func() {
			for i := range 100 {
				want := []reconcile.Object{kernel.Sysctl{Name: name, Value: fmt.Sprint(100 + 10*n + i%10)}}
				if _, err := reconcile.Settle(t.Context(), kernel.NewTarget(conn, want), want, reconcile.Owned); err != nil {
					t.Error(err)
				}
				if got := ttl(t); got != before {
					t.Errorf("a thread stayed in another namespace: TTL %s, want %s", got, before)
				}
			}
			if out := command(t, h, "sysctl -n net.ipv4.ip_default_ttl"); strings.TrimSpace(out) != fmt.Sprint(109+10*n) {
				t.Errorf("%s has TTL %s", h.Name(), out)
			}
		})
	}
	work.Wait()
	missing := []reconcile.Object{kernel.Sysctl{Name: "net/ipv4/no_such_setting", Value: "1"}}
	conn := open(t, labtest.Node(t, l, "last", "a").Host)
	if _, err := reconcile.Run(t.Context(), kernel.NewTarget(conn, missing), missing, reconcile.Owned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing setting: %v", err)
	}
	bad := []reconcile.Object{kernel.Sysctl{Name: name, Value: "256"}}
	if _, err := reconcile.Run(t.Context(), kernel.NewTarget(conn, bad), bad, reconcile.Owned); !errors.Is(err, unix.EINVAL) {
		t.Errorf("bad value: %v", err)
	}
}

func ttl(t testing.TB) string {
	t.Helper()
	value, err := os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl")
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(value))
}

// A namespace in which nothing has a route yet has no table to list.
func TestFreshNamespace(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	pod := labtest.Pod(t, labtest.Node(t, l, "n1", "a"), "p1")
	command(t, pod.Host, "ip address flush dev lo")
	command(t, pod.Host, "ip link set lo down")
	want := []reconcile.Object{
		kernel.Route{Dst: prefix("10.244.0.0/24"), Metric: 7}, kernel.Route{Dst: prefix("fd00::/64"), Metric: 7},
	}
	for _, disabled := range []string{"0", "1"} {
		if err := pod.SetSysctl("ipv6/conf/all/disable_ipv6", disabled); err != nil {
			t.Fatal(err)
		}
		conn := open(t, pod.Host)
		target := kernel.NewTarget(conn, want)
		target.Links = []string{"lo", "missing"}
		if have := observe(t, target); len(have) != 1 {
			t.Errorf("observed %v, want lo alone", have)
		}
	}
}
