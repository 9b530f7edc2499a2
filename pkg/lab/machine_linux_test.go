package lab_test

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestReset(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	pod := labtest.Pod(t, node, "p1")
	other := labtest.VM(t, l, "v1", "b")
	labtest.Server(t, node.Host, port)

	fresh, err := node.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := node.BootID()
	if err != nil {
		t.Fatal(err)
	}
	lost, kept := filepath.Join(node.RunDir(), "lost"), filepath.Join(node.Dir(), "kept")
	for _, file := range []string{lost, kept, filepath.Join(pod.Dir(), "lost")} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, node.Host, "ip link add vx0 type vxlan id 1 dstport 4789")
	ends := []func(time.Duration) bool{startSession(t, node.Host), startSession(t, pod.Host)}
	awaitNode := watchNamespace(t, other.Host, node.Path())
	awaitPod := watchNamespace(t, other.Host, pod.Path())

	if err := node.Reset(); err != nil {
		t.Fatal(err)
	}
	for _, end := range ends {
		if !end(0) {
			t.Error("a process has survived")
		}
	}
	awaitNode()
	awaitPod()
	for _, gone := range []string{lost, pod.Dir(), pod.Path()} {
		if _, err := os.Lstat(gone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want %v", gone, err, os.ErrNotExist)
		}
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if err := pod.Do(func() error { return nil }); !errors.Is(err, lab.ErrDown) {
		t.Errorf("pod of before: %v, want %v", err, lab.ErrDown)
	}
	if again, err := node.BootID(); err != nil || again == boot {
		t.Errorf("boot ID %q is the one of before: %v", again, err)
	}
	after, err := node.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if diff := fresh.Diff(after); len(diff) > 0 {
		t.Errorf("node isn't as new:\n%s", strings.Join(diff, "\n"))
	}
	asNew(t, node, other.Host)
}

// asNew uses what a node had used before its reset.
func asNew(t *testing.T, node *lab.Node, other *lab.Host) {
	t.Helper()
	labtest.Server(t, node.Host, port)
	for _, addr := range []netip.Addr{node.IPv4(), node.IPv6()} {
		if _, err := other.TCP(t.Context(), netip.AddrPortFrom(addr, port)); err != nil {
			t.Error(err)
		}
	}
	labtest.Pod(t, node, "p1")
}

// startSession starts a process that nobody watches, in a session of its own,
// and returns a function that reports whether it ends within some time.
func startSession(t *testing.T, h *lab.Host) (ends func(time.Duration) bool) {
	t.Helper()
	out, err := h.Command(t.Context(), "sh", "-c", "env -i setsid sleep 600 <&- >&- 2>&- & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	return watchProcess(t, atoi(t, string(out)))
}

func TestPowerOffIsSilentAndLasts(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	other := labtest.VM(t, l, "v1", "b")
	labtest.Server(t, node.Host, port)
	c := other.Command(t.Context(), "sh", "-c", "exec 3<>/dev/tcp/"+node.IPv4().String()+"/7; read l <&3; echo $l; exec sleep 600")
	c.Path, c.Args[0] = "/bin/bash", "bash"
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // connected
		t.Fatal(err)
	}
	goodbyes, err := l.Router().Capture("eth0", func(f lab.Frame) bool {
		p, ok := f.IP()
		const finOrRst = 0x05
		return ok && p.Src == node.IPv4() && p.Protocol == lab.ProtocolTCP && p.Payload[13]&finOrRst != 0
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(node.PowerOff(), node.PowerOff()); err != nil {
		t.Fatal(err)
	}
	if n := goodbyes.Count(); n > 0 {
		t.Errorf("%d goodbyes on the wire", n)
	}
	if _, err := node.NewPod("p1"); !errors.Is(err, lab.ErrDown) {
		t.Errorf("pod on a node that is off: %v, want %v", err, lab.ErrDown)
	}
	if err := node.Command(t.Context(), "true").Run(); !errors.Is(err, lab.ErrDown) {
		t.Errorf("command on a node that is off: %v, want %v", err, lab.ErrDown)
	}
	unreachable(t, other.Host, node.IPv4(), node.IPv6())
	if err := errors.Join(node.PowerOn(), node.PowerOn()); err != nil {
		t.Fatal(err)
	}
	reachable(t, other.Host, node.IPv4(), node.IPv6())
}

func TestPowerOffEndsExchange(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	requests, err := node.Capture("eth0", func(f lab.Frame) bool { return f.Outgoing })
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := node.Ping(t.Context(), netip.MustParseAddr("172.30.1.99"))
		result <- err
	}()
	if _, err := requests.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := node.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, lab.ErrDown) {
		t.Errorf("ping ended with %v, want %v", err, lab.ErrDown)
	}
	if _, err := requests.Wait(t.Context(), 1e6); !errors.Is(err, os.ErrClosed) {
		t.Errorf("capture ended with %v, want %v", err, os.ErrClosed)
	}
}

func TestDisconnectAndConnect(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	other := labtest.VM(t, l, "v1", "b")
	reachable(t, other.Host, node.IPv4(), node.IPv6())
	for range 3 {
		if err := node.Disconnect(); err != nil {
			t.Fatal(err)
		}
		if state := run(t, node.Host, "ip link show eth0"); !strings.Contains(state, "NO-CARRIER") {
			t.Errorf("disconnected: %s", state)
		}
		unreachable(t, other.Host, node.IPv4(), node.IPv6())
		if err := node.Connect(); err != nil {
			t.Fatal(err)
		}
		reachable(t, other.Host, node.IPv4(), node.IPv6())
	}
}

func reachable(t *testing.T, from *lab.Host, addrs ...netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		if _, err := from.Ping(t.Context(), addr); err != nil {
			t.Error(err)
		}
	}
}

func unreachable(t *testing.T, from *lab.Host, addrs ...netip.Addr) {
	t.Helper()
	for _, addr := range addrs {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		if _, err := from.Ping(ctx, addr); err == nil {
			t.Errorf("%s is reachable", addr)
		}
	}
}

func TestHostsAreBare(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	pod := labtest.Pod(t, node, "p1")
	settings := []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter"}
	for _, h := range []*lab.Host{node.Host, pod.Host} {
		if got := strings.Fields(run(t, h, "sysctl -n "+strings.Join(settings, " "))); strings.Join(got, "") != "000" {
			t.Errorf("%s: %v are %v, want 0", h.Name(), settings, got)
		}
	}
	if got := run(t, pod.Host, "ip -o link"); strings.Count(got, "\n") != 1 || !strings.Contains(got, "LOOPBACK,UP") {
		t.Errorf("pod's links: %s", got)
	}
	if len(pod.ContainerID()) != 64 || pod.ContainerID() == labtest.Pod(t, node, "p2").ContainerID() {
		t.Errorf("container ID %q", pod.ContainerID())
	}
	if err := node.SetSysctl("ipv4/ip_forward", "1"); err != nil {
		t.Error(err)
	}
	if got := run(t, node.Host, "sysctl -n net.ipv4.ip_forward"); got != "1\n" {
		t.Errorf("ip_forward is %s after SetSysctl", got)
	}
}

func TestPodClose(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	pod := labtest.Pod(t, node, "p1")
	ends := startSession(t, pod.Host)
	await := watchNamespace(t, node.Host, pod.Path())
	if err := errors.Join(pod.Close(), pod.Close()); err != nil {
		t.Fatal(err)
	}
	if !ends(0) {
		t.Error("a process has survived")
	}
	await()
	if _, err := os.Stat(pod.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("path of a closed pod: %v, want %v", err, os.ErrNotExist)
	}
	again := labtest.Pod(t, node, "p1")
	if err := pod.Close(); err != nil {
		t.Error(err)
	}
	if err := again.Do(func() error { return nil }); err != nil {
		t.Errorf("the first pod's second end hit its successor: %v", err)
	}
}

func TestWrongNames(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	labtest.Pod(t, node, "p1")
	add := func(name, segment string) error { _, err := l.AddVM(name, segment); return err }
	pod := func(name string) error { _, err := node.NewPod(name); return err }
	for what, c := range map[string]struct{ got, want error }{
		"name of a node": {add("n1", "b"), lab.ErrExists},
		"router's name":  {add("router", "a"), lab.ErrExists},
		"segment":        {add("v1", "c"), lab.ErrUnknownSegment},
		"name of a pod":  {pod("p1"), lab.ErrExists},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
	for _, name := range []string{"", "..", "a/b", "A", "a_b", "-", strings.Repeat("a", 64), "a b"} {
		if add(name, "a") == nil || pod(name) == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := add("v1", "a"); !errors.Is(err, lab.ErrDown) {
		t.Errorf("closed lab: %v, want %v", err, lab.ErrDown)
	}
	if err := node.PowerOn(); !errors.Is(err, lab.ErrDown) {
		t.Errorf("power on in a closed lab: %v, want %v", err, lab.ErrDown)
	}
	if _, err := node.Ping(t.Context(), node.IPv4()); !errors.Is(err, lab.ErrDown) {
		t.Errorf("ping in a closed lab: %v, want %v", err, lab.ErrDown)
	}
}

// BenchmarkLab makes and closes a lab of 3 nodes, 2 VMs and 6 pods. It reports
// how long the last one took to make.
func BenchmarkLab(b *testing.B) {
	for b.Loop() {
		start := time.Now()
		l, err := lab.New(b.Context(), lab.Topology{})
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"n1", "n2", "n3"} {
			n := labtest.Node(b, l, name, "a")
			labtest.Pod(b, n, "p1")
			labtest.Pod(b, n, "p2")
		}
		labtest.VM(b, l, "v1", "a")
		labtest.VM(b, l, "v2", "b")
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms-to-make")
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReset resets a node.
func BenchmarkReset(b *testing.B) {
	l := labtest.New(b, lab.Topology{})
	n := labtest.Node(b, l, "n1", "a")
	for b.Loop() {
		if err := n.Reset(); err != nil {
			b.Fatal(err)
		}
	}
}
