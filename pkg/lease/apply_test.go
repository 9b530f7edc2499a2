package lease_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// registered is a network's registration.
func registered(t *testing.T, r *lease.Registry, name string) lease.Network {
	t.Helper()
	all, err := r.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if n.Name == name {
			return n
		}
	}
	return lease.Network{}
}

func TestApplyNetwork(t *testing.T) {
	t.Parallel()
	plain := network("new", "10.60.0.0/16")
	with := func(n lease.Network, change func(*lease.Network)) *lease.Network {
		change(&n)
		return &n
	}
	const a, b = "10.60.0.0/16", "10.61.0.0/16"
	one, both, reversed := pooled("new", a), pooled("new", a, b), pooled("new", b, a)
	other := pooled("new", b)
	for name, test := range map[string]struct {
		have, want *lease.Network
		used       bool   // a node has leases of it
		says       string // "": it is applied
	}{
		"a new one":                {nil, &plain, false, ""},
		"one that conflicts":       {nil, with(network("new", "10.244.3.0/24"), func(*lease.Network) {}), false, "network new overlaps cidrs[0] 10.244.0.0/16 of network pods"},
		"another's VNI":            {nil, with(plain, func(n *lease.Network) { n.VNI = 9 }), false, "network new has the VNI of network storage"},
		"over an external peer":    {nil, with(network("new", "10.50.0.0/16"), func(*lease.Network) {}), false, "external peer vm overlaps cidrs[0] 10.50.0.0/16 of network new"},
		"the same":                 {&plain, &plain, true, ""},
		"MTU and masquerading":     {&plain, with(plain, func(n *lease.Network) { n.MTU, n.Masquerade.Disabled = 1400, true }), true, ""},
		"VNI of an unused one":     {&plain, with(plain, func(n *lease.Network) { n.VNI = 77 }), false, ""},
		"VNI of a used one":        {&plain, with(plain, func(n *lease.Network) { n.VNI = 77 }), true, "network new is registered with vni 60, not 77; these nodes must leave it before it changes: far, near"},
		"CIDRs of an unused one":   {&plain, with(network("new", "10.61.0.0/16"), func(*lease.Network) {}), false, ""},
		"CIDRs of a used one":      {&plain, with(network("new", "10.61.0.0/16"), func(*lease.Network) {}), true, "cidrs [10.60.0.0/16], not [10.61.0.0/16]; these nodes must leave it before it changes: far, near"},
		"a pool more":              {&one, &both, true, ""},
		"pools in another order":   {&both, &reversed, true, ""},
		"a pool less, unused":      {&both, &one, false, ""},
		"a pool less":              {&both, &one, true, "pools that it would no longer have; these nodes"},
		"another pool":             {&one, &other, true, "pools that it would no longer have; these nodes"},
		"pools instead of CIDRs":   {&plain, &one, true, "pools in one specification, cidrs in the other; these nodes"},
		"CIDRs instead of pools":   {&one, &plain, true, "pools in one specification, cidrs in the other; these nodes"},
		"to conflict, unused":      {&plain, with(network("new", "10.9.0.0/24"), func(*lease.Network) {}), false, "network storage"},
		"over a peer, with others": {&plain, with(network("new", "10.60.0.0/16", "10.50.0.0/16"), func(*lease.Network) {}), false, "external peer vm"},
		"an invalid one":           {nil, with(plain, func(n *lease.Network) { n.MTU = 7 }), false, "mtu"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := pods(t)
			mustApply(t, r, peerOf("vm", 1, "10.50.1.0/24"))
			if test.have != nil {
				have := vni(*test.have)
				if err := r.ApplyNetwork(t.Context(), &have); err != nil {
					t.Fatal(err)
				}
				if test.used {
					acquire(t, r, claim(have, "near"))
					acquire(t, r, claim(have, "far"))
				}
			}
			before, want := registered(t, r, "new"), vni(*test.want)
			err := r.ApplyNetwork(t.Context(), &want)
			after := registered(t, r, "new")
			switch {
			case test.says == "" && (err != nil || !after.Equal(&want)):
				t.Errorf("%v; it has become %+v, want %+v", err, after, want)
			case test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)):
				t.Errorf("%v, want %q", err, test.says)
			case test.says != "" && !after.Equal(&before):
				t.Errorf("refused, it has become %+v", after)
			}
		})
	}
}

// vni gives a network one of its own, unless the test has.
func vni(n lease.Network) lease.Network {
	if n.VNI == lease.DefaultVNI {
		n.VNI = 60
	}
	return n
}

// A peer that stands in the network's way already doesn't keep it from changing.
func TestApplyNetworkBesideAPeerThatIsNotUsed(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	byHand(t, r, "peers/bad", text(t, peerOf("bad", 1, "10.244.7.0/24")))
	n := registered(t, r, "pods")
	n.MTU = 1400
	if err := r.ApplyNetwork(t.Context(), &n); err != nil {
		t.Error(err)
	}
}

// A network that somebody made unusable by hand is mended.
func TestApplyNetworkMends(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	for _, broken := range []string{"{", `{"cidrs": ["127.0.0.0/8"]}`, `{"name": "other"}`} {
		good := registered(t, r, "pods")
		e, err := r.Store.Get(t.Context(), "networks/pods")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Store.Update(t.Context(), e.Key, []byte(broken), e.Revision); err != nil {
			t.Fatal(err)
		}
		if n := registered(t, r, "pods"); n.Name != "" {
			t.Fatalf("%s is usable", broken)
		}
		if err := r.ApplyNetwork(t.Context(), &good); err != nil {
			t.Error(err)
		}
		if n := registered(t, r, "pods"); !n.Equal(&good) {
			t.Errorf("%s has become %+v", broken, n)
		}
	}
}

func TestRemoveNetwork(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	acquire(t, r, claim(registered(t, r, "pods"), "node-0"))
	err := r.RemoveNetwork(t.Context(), "pods", false)
	if wantError(t, err, lease.ErrConflict); !strings.Contains(err.Error(), "network pods has leases of nodes: node-0, node-1") {
		t.Error(err)
	}
	spare := lease.Network{Name: "spare", CIDRs: prefixes("10.70.0.0/16"), VNI: 70}.Complete()
	if err := r.ApplyNetwork(t.Context(), &spare); err != nil {
		t.Fatal(err)
	}
	vm := peerOf("vm", 1, "10.50.0.0/24")
	vm.Network = "spare"
	mustApply(t, r, vm)
	err = r.RemoveNetwork(t.Context(), "spare", false)
	if wantError(t, err, lease.ErrConflict); !strings.Contains(err.Error(), "network spare has external peer vm") {
		t.Error(err)
	}
	if err := r.RemovePeer(t.Context(), "vm"); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveNetwork(t.Context(), "spare", false); err != nil {
		t.Error(err)
	}
	wantError(t, r.RemoveNetwork(t.Context(), "spare", false), store.ErrNotFound)
	wantField(t, r.RemoveNetwork(t.Context(), "a/b", false), "name", "a/b")
	if err := r.RemoveNetwork(t.Context(), "pods", true); err != nil {
		t.Error(err)
	}
}

// holders are the nodes that have leases of network pods.
func holders(t *testing.T, r *lease.Registry) []string {
	t.Helper()
	leases, err := r.Leases(t.Context(), "pods")
	if err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for i := range leases {
		nodes = append(nodes, leases[i].Node)
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

func TestReleaseExpired(t *testing.T) {
	t.Parallel()
	r, clock := pods(t)
	_, err := r.ReleaseExpired(t.Context(), "pods", "node-1")
	wantError(t, err, lease.ErrAlive)
	clock.advance(ttl + 2*fence) // it isn't seen by nodes any more, and stands all the same
	acquire(t, r, claim(registered(t, r, "pods"), "node-2"))
	released, err := r.ReleaseExpired(t.Context(), "pods", "node-1")
	if err != nil || len(released) != 2 {
		t.Errorf("released %+v, %v", released, err)
	}
	if got := holders(t, r); !slices.Equal(got, []string{"node-2"}) {
		t.Errorf("leases are of %v", got)
	}
	if released, err = r.ReleaseExpired(t.Context(), "pods", "node-1"); err != nil || len(released) != 0 {
		t.Errorf("again, it released %+v, %v", released, err)
	}
}

// renewing is a store in which a node renews its leases just before one is deleted.
type renewing struct {
	store.Store
	renew func()
}

func (s *renewing) Delete(ctx context.Context, key string, revision store.Revision) error {
	s.renew()
	return s.Store.Delete(ctx, key, revision)
}

// TestReleaseExpiredOfOneThatComesBack: what is renewed meanwhile stays.
func TestReleaseExpiredOfOneThatComesBack(t *testing.T) {
	t.Parallel()
	r, clock := pods(t)
	clock.advance(ttl)
	n := registered(t, r, "pods")
	operator := registryOn(&renewing{r.Store, func() { acquire(t, r, claim(n, "node-1")) }}, clock)
	_, err := operator.ReleaseExpired(t.Context(), "pods", "node-1")
	wantError(t, err, lease.ErrAlive)
	if got := holders(t, r); !slices.Equal(got, []string{"node-1"}) {
		t.Errorf("leases are of %v", got)
	}
}
