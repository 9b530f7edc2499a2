package kernel_test

import (
	"errors"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// TestExclusiveRoutes: a route that another link has stays there, and the error
// says where; one's own, whatever is left of it, becomes what it should be.
func TestExclusiveRoutes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ dst, free, source, own string }{
		"IPv4": {"10.244.1.7/32", "10.244.1.8/32", "172.30.1.10", "ip route add 10.244.1.7/32 dev ours metric 1024 proto 118"},
		"IPv6": {"fd00::7/128", "fd00::8/128", "fd00:30:1::a", "ip -6 route add fd00::7/128 dev ours metric 1024 proto 118"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, conn := newHost(t)
			for _, link := range []string{"ours", "theirs"} {
				command(t, h, "ip link add "+link+" type bridge")
				command(t, h, "ip link set "+link+" up")
			}
			want := kernel.Route{Dst: prefix(c.dst), Link: "ours", Metric: 1024}
			theirs, free, other := want, want, want
			theirs.Link, free.Dst, other.Metric = "theirs", prefix(c.free), 1025
			apply := func(objects ...reconcile.Object) error {
				target := &kernel.Target{Conn: conn, Exclusive: true}
				return target.Apply(t.Context(), reconcile.Diff(objects, nil, reconcile.Shared))
			}
			if err := apply(theirs); err != nil {
				t.Fatal(err)
			}
			before := observe(t, &kernel.Target{Conn: conn, Links: []string{"theirs"}})

			err := apply(want, free, other)
			text := "add " + want.String() + ": address " + want.Dst.Addr().String() + " is already routed to interface theirs"
			if !errors.Is(err, kernel.ErrRouteExists) || err.Error() != text {
				t.Errorf("%v, want only %q", err, text)
			}
			after := observe(t, &kernel.Target{Conn: conn, Links: []string{"theirs"}})
			if changes := reconcile.Diff(before, after, reconcile.Owned); len(changes) > 0 {
				t.Errorf("the other link has changed: %v", changes)
			}
			have := observe(t, &kernel.Target{Conn: conn, Links: []string{"ours"}})
			if count(have, want) != 0 || count(have, free) != 1 || count(have, other) != 1 {
				t.Errorf("the link has\n%swant what nobody else has", reconcile.Format(have))
			}

			if err := (&kernel.Target{Conn: conn}).Apply(t.Context(), []reconcile.Change{{Have: theirs}}); err != nil {
				t.Fatal(err)
			}
			command(t, h, c.own)
			want.Source = ip(c.source)
			for range 2 { // made over, and as it is
				if err := apply(want); err != nil {
					t.Error(err)
				}
			}
			have = observe(t, &kernel.Target{Conn: conn, Links: []string{"ours"}})
			if count(have, want) != 1 {
				t.Errorf("the link has\n%swant %s", reconcile.Format(have), want)
			}
		})
	}
}

// TestExclusiveAgainstABlackhole: a route that is on no link is nobody's to take.
func TestExclusiveAgainstABlackhole(t *testing.T) {
	t.Parallel()
	h, conn := newHost(t)
	command(t, h, "ip link add ours type bridge")
	command(t, h, "ip link set ours up")
	command(t, h, "ip route add blackhole 10.244.1.7 metric 1024")
	want := kernel.Route{Dst: prefix("10.244.1.7/32"), Link: "ours", Metric: 1024}
	err := (&kernel.Target{Conn: conn, Exclusive: true}).Apply(t.Context(), []reconcile.Change{{Want: want}})
	if !errors.Is(err, kernel.ErrRouteExists) {
		t.Error(err)
	}
	if out := command(t, h, "ip route show 10.244.1.7"); out != "blackhole 10.244.1.7 metric 1024 \n" {
		t.Errorf("now there is %q", out)
	}
}
