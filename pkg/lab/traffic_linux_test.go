package lab_test

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

const port = 7

// soon is a deadline for what is not meant to come.
const soon = 300 * time.Millisecond

func TestHostsReachEachOther(t *testing.T) {
	t.Parallel()
	const mtu = 1400 // not the default, to see that it counts
	l := labtest.New(t, lab.Topology{MTU: mtu})
	client := labtest.Node(t, l, "n1", "a")
	servers := map[string]*lab.Machine{
		"same segment":  labtest.VM(t, l, "v1", "a"),
		"across router": labtest.Node(t, l, "n2", "b").Machine,
	}
	for where, server := range servers {
		labtest.Server(t, server.Host, port)
		for family, addrs := range map[string][2]netip.Addr{
			"IPv4": {client.IPv4(), server.IPv4()},
			"IPv6": {client.IPv6(), server.IPv6()},
		} {
			t.Run(where+" "+family, func(t *testing.T) {
				exchangeAll(t, client.Host, addrs[0], netip.AddrPortFrom(addrs[1], port), mtu)
			})
		}
	}
}

// exchangeAll talks to a server in all ways and expects it to see the client's
// own address.
func exchangeAll(t *testing.T, client *lab.Host, own netip.Addr, dst netip.AddrPort, mtu int) {
	t.Helper()
	if rtt, err := client.Ping(t.Context(), dst.Addr()); err != nil || rtt <= 0 {
		t.Errorf("ping: %v, %v", rtt, err)
	}
	full := lab.UDPPayload(mtu, dst.Addr())
	ways := map[string]func() (lab.Exchange, error){
		"TCP":                   func() (lab.Exchange, error) { return client.TCP(t.Context(), dst) },
		"UDP, empty":            func() (lab.Exchange, error) { return client.UDP(t.Context(), dst, 0, true) },
		"UDP, small":            func() (lab.Exchange, error) { return client.UDP(t.Context(), dst, 5, true) },
		"UDP, full MTU":         func() (lab.Exchange, error) { return client.UDP(t.Context(), dst, full, true) },
		"UDP, fragmented":       func() (lab.Exchange, error) { return client.UDP(t.Context(), dst, full+1, false) },
		"UDP, many fragments":   func() (lab.Exchange, error) { return client.UDP(t.Context(), dst, 60000, false) },
		"UDP, full MTU, may be": func() (lab.Exchange, error) { return client.UDP(t.Context(), dst, full, false) },
	}
	for name, way := range ways {
		x, err := way()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if x.Source.Addr() != own || x.Source != x.Local || x.RTT <= 0 {
			t.Errorf("%s: %+v, want %s as the source", name, x, own)
		}
	}
	if _, err := client.UDP(t.Context(), dst, full+1, true); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("UDP, a byte too much: %v, want %v", err, syscall.EMSGSIZE)
	}
}

func TestPathMTU(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{Segments: []lab.Segment{{Name: "wide"}, {Name: "narrow", MTU: 1300}}})
	client := labtest.VM(t, l, "v1", "wide")
	server := labtest.VM(t, l, "v2", "narrow")
	labtest.Server(t, server.Host, port)
	for _, addr := range []netip.Addr{server.IPv4(), server.IPv6()} {
		dst := netip.AddrPortFrom(addr, port)
		full := lab.UDPPayload(1300, addr)
		if _, err := client.UDP(t.Context(), dst, full, true); err != nil {
			t.Error(err)
		}
		if _, err := client.UDP(t.Context(), dst, full+1, true); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%s: a byte too much for the path: %v, want %v", addr, err, syscall.EMSGSIZE)
		}
	}
}

func TestSourceShowsTranslation(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	client := labtest.VM(t, l, "v1", "a")
	server := labtest.VM(t, l, "v2", "b")
	labtest.Server(t, server.Host, port)
	nft := "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; " +
		"add rule ip nat post oifname eth1 masquerade"
	if out, err := l.Router().Command(t.Context(), "nft", nft).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dst := netip.AddrPortFrom(server.IPv4(), port)
	tcp, err := client.TCP(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := client.UDP(t.Context(), dst, 100, true)
	if err != nil {
		t.Fatal(err)
	}
	router := netip.MustParseAddr("172.30.2.1")
	for _, x := range []lab.Exchange{tcp, udp} {
		if x.Source.Addr() != router || x.Local.Addr() != client.IPv4() {
			t.Errorf("%+v, want %s as the source", x, router)
		}
	}
}

func TestExchangesFailInTime(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	client := labtest.VM(t, l, "v1", "a")
	nobody := netip.MustParseAddrPort("172.30.1.99:7")
	ways := map[string]func(context.Context) error{
		"ping": func(ctx context.Context) error {
			_, err := client.Ping(ctx, nobody.Addr())
			return err
		},
		"ping without a route": func(ctx context.Context) error {
			_, err := l.Router().Ping(ctx, netip.MustParseAddr("192.0.2.1"))
			return err
		},
		"TCP": func(ctx context.Context) error {
			_, err := client.TCP(ctx, nobody)
			return err
		},
		"UDP": func(ctx context.Context) error {
			_, err := client.UDP(ctx, nobody, 100, true)
			return err
		},
		"UDP refused": func(ctx context.Context) error {
			_, err := client.UDP(ctx, netip.AddrPortFrom(client.IPv4(), port), 100, true)
			return err
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			start := time.Now()
			err := way(ctx)
			if err == nil {
				t.Error("no error")
			}
			if took := time.Since(start); took > soon+2*time.Second {
				t.Errorf("took %v: %v", took, err)
			}
		})
	}
}

func TestServerEnds(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	host := labtest.VM(t, l, "v1", "a")
	for range 3 { // the port is free again each time
		s, err := host.Serve(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := host.Serve(t.Context(), port); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second server: %v, want %v", err, syscall.EADDRINUSE)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := host.TCP(t.Context(), netip.AddrPortFrom(host.IPv4(), port)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed server: %v, want %v", err, syscall.ECONNREFUSED)
	}
}

func TestLabsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	one, other := labtest.New(t, lab.Topology{}), labtest.New(t, lab.Topology{})
	client := labtest.VM(t, one, "v1", "a")
	server := labtest.VM(t, other, "v1", "a")
	second := labtest.VM(t, other, "v2", "a")
	labtest.Server(t, server.Host, port)
	if client.IPv4() != server.IPv4() || client.MAC().String() != server.MAC().String() {
		t.Fatal("hosts of the same name differ, so the test proves nothing")
	}
	if _, err := client.TCP(t.Context(), netip.AddrPortFrom(server.IPv4(), port)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("server of the other lab: %v, want %v", err, syscall.ECONNREFUSED)
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := client.Ping(ctx, second.IPv4()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("host of the other lab: %v, want %v", err, context.DeadlineExceeded)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.TCP(t.Context(), netip.AddrPortFrom(server.IPv4(), port)); err != nil {
		t.Errorf("after the other lab's end: %v", err)
	}
}

func TestCommandRunsInHost(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	pod := labtest.Pod(t, node, "p1")
	for _, h := range []*lab.Host{node.Host, pod.Host, l.Router()} {
		want := namespaceOf(t, namespaceOf(t, h.Path())) // a name of a descriptor
		if got := run(t, h, "readlink /proc/self/ns/net"); got != want+"\n" {
			t.Errorf("child of %s runs in %s, want %s", h.Name(), got, want)
		}
		if got := run(t, h, "nsenter --net="+h.Path()+" readlink /proc/self/ns/net"); got != want+"\n" {
			t.Errorf("path of %s opens %s, want %s", h.Name(), got, want)
		}
	}
	if got := namespaceOf(t, "/proc/thread-self/ns/net"); got != namespaceOf(t, "/proc/self/ns/net") {
		t.Errorf("the caller's thread is in %s", got)
	}
}

func TestCommandEndsWithItsGroup(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	node := labtest.Node(t, l, "n1", "a")
	for how, end := range map[string]func(c *lab.Command, cancel func()) error{
		"kill":    func(c *lab.Command, _ func()) error { return c.Kill() },
		"context": func(c *lab.Command, cancel func()) error { cancel(); _ = c.Wait(); return nil },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := node.Command(ctx, "sh", "-c", "sleep 600 & echo $!; wait")
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		ends := watchProcess(t, atoi(t, line))
		if err := end(c, cancel); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if !ends(deathDeadline) {
			t.Errorf("%s: a process of the group lives on", how)
		}
	}
}
