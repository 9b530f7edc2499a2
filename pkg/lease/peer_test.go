package lease_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// peerOf is an external peer of network pods; number tells its VTEP from others.
func peerOf(name string, number byte, cidrs ...string) *lease.ExternalPeer {
	return &lease.ExternalPeer{
		Name: name, Network: "pods", CIDRs: prefixes(cidrs...),
		VTEP: lease.VTEP{
			Underlay: []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, number}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", number))},
			MAC:      ether.Local([5]byte{4: number}),
		},
	}
}

func TestExternalPeerValidate(t *testing.T) {
	t.Parallel()
	underlay := func(all ...string) func(*lease.ExternalPeer) {
		return func(p *lease.ExternalPeer) {
			p.VTEP.Underlay = nil
			for _, a := range all {
				p.VTEP.Underlay = append(p.VTEP.Underlay, netip.MustParseAddr(a))
			}
		}
	}
	cidrs := func(all ...string) func(*lease.ExternalPeer) {
		return func(p *lease.ExternalPeer) { p.CIDRs = prefixes(all...) }
	}
	for name, test := range map[string]struct {
		change       func(*lease.ExternalPeer)
		field, value string
	}{
		"both families":              {func(*lease.ExternalPeer) {}, "", ""},
		"single addresses":           {cidrs("10.50.0.7/32", "fd00:50::7/128"), "", ""},
		"one address":                {underlay("198.51.100.1"), "", ""},
		"no name":                    {func(p *lease.ExternalPeer) { p.Name = "" }, "name", ""},
		"a path as name":             {func(p *lease.ExternalPeer) { p.Name = "a/b" }, "name", "a/b"},
		"no network":                 {func(p *lease.ExternalPeer) { p.Network = "" }, "network", ""},
		"no address":                 {underlay(), "vtep.underlay", ""},
		"the zero address":           {func(p *lease.ExternalPeer) { p.VTEP.Underlay[1] = netip.Addr{} }, "vtep.underlay[1]", "invalid IP"},
		"a mapped address":           {underlay("::ffff:198.51.100.1"), "vtep.underlay[0]", "::ffff:198.51.100.1"},
		"an address with a zone":     {underlay("fe80::1%eth0"), "vtep.underlay[0]", "fe80::1%eth0"},
		"a link-local address":       {underlay("fe80::1"), "vtep.underlay[0]", "fe80::1"},
		"a link-local IPv4 address":  {underlay("169.254.1.1"), "vtep.underlay[0]", "169.254.1.1"},
		"loopback":                   {underlay("198.51.100.1", "::1"), "vtep.underlay[1]", "::1"},
		"the unspecified address":    {underlay("0.0.0.0"), "vtep.underlay[0]", "0.0.0.0"},
		"a multicast address":        {underlay("239.1.1.1"), "vtep.underlay[0]", "239.1.1.1"},
		"two of a family":            {underlay("198.51.100.1", "198.51.100.2"), "vtep.underlay[1]", "198.51.100.2"},
		"one twice":                  {underlay("198.51.100.1", "198.51.100.1"), "vtep.underlay[1]", "198.51.100.1"},
		"no MAC":                     {func(p *lease.ExternalPeer) { p.VTEP.MAC = ether.Addr{} }, "vtep.mac", "none"},
		"a multicast MAC":            {func(p *lease.ExternalPeer) { p.VTEP.MAC[0] = 1 }, "vtep.mac", "01:00:00:00:00:01"},
		"no CIDR":                    {cidrs(), "cidrs", ""},
		"an invalid CIDR":            {func(p *lease.ExternalPeer) { p.CIDRs[1] = netip.Prefix{} }, "cidrs[1]", "invalid Prefix"},
		"a mapped CIDR":              {cidrs("::ffff:10.50.0.0/112"), "cidrs[0]", "::ffff:10.50.0.0/112"},
		"bits beyond the length":     {cidrs("10.50.0.1/24"), "cidrs[0]", "10.50.0.1/24"},
		"loopback behind it":         {cidrs("127.0.0.0/8"), "cidrs[0]", "127.0.0.0/8"},
		"link-local behind it":       {cidrs("10.50.0.0/24", "fe80::/64"), "cidrs[1]", "fe80::/64"},
		"multicast behind it":        {cidrs("224.0.0.0/24"), "cidrs[0]", "224.0.0.0/24"},
		"everything":                 {cidrs("0.0.0.0/0"), "cidrs[0]", "0.0.0.0/0"},
		"everything, IPv6":           {cidrs("::/0"), "cidrs[0]", "::/0"},
		"CIDRs that overlap":         {cidrs("10.50.0.0/16", "10.50.1.0/24"), "cidrs[1]", "10.50.1.0/24"},
		"its own VTEP behind itself": {cidrs("198.51.100.0/24"), "cidrs[0]", "198.51.100.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := peerOf("vm", 1, "10.50.0.0/24", "fd00:50::/64")
			test.change(p)
			wantField(t, p.Validate(), test.field, test.value)
		})
	}
}

// TestExternalPeerJSON: the text is what people write, and what other programs
// rely on.
func TestExternalPeerJSON(t *testing.T) {
	t.Parallel()
	const want = `{"name":"vm","network":"pods","vtep":{"underlay":["198.51.100.1","2001:db8::1"],"mac":"0e:00:00:00:00:01"},"cidrs":["10.50.0.0/24"]}`
	p := peerOf("vm", 1, "10.50.0.0/24")
	text, err := json.Marshal(p)
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v, want %s", text, err, want)
	}
	var read lease.ExternalPeer
	if err := json.Unmarshal(text, &read); err != nil || !read.Equal(p) {
		t.Errorf("read %+v, %v", read, err)
	}
}

// pods registers networks pods (of both families) and storage, with a node in each.
func pods(t *testing.T) (*lease.Registry, *clock) {
	t.Helper()
	r, clock := newRegistry(t)
	for _, n := range []lease.Network{network("pods", "10.244.0.0/16", "fd00:10:244::/48"), storageNetwork()} {
		if _, err := r.Join(t.Context(), &n); err != nil {
			t.Fatal(err)
		}
		acquire(t, r, claim(n, "node-1"))
	}
	return r, clock
}

func storageNetwork() lease.Network {
	return lease.Network{Name: "storage", CIDRs: prefixes("10.9.0.0/16"), VNI: 9}.Complete()
}

func mustApply(t *testing.T, r *lease.Registry, peers ...*lease.ExternalPeer) {
	t.Helper()
	for _, p := range peers {
		if err := r.ApplyPeer(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
}

// listed is what stands in the store of a network, by name.
func listed(t *testing.T, r *lease.Registry, network string) string {
	t.Helper()
	all, err := r.Peers(t.Context(), network)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	return strings.Join(names, " ")
}

func TestApplyPeer(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	one, two := peerOf("one", 1, "10.50.1.0/24", "fd00:50:1::/64"), peerOf("two", 2, "10.50.2.0/24")
	other := peerOf("other", 1, "10.50.3.0/24") // the VM that one is, in another network
	other.Network = "storage"
	mustApply(t, r, two, one, other, one)
	if got := listed(t, r, ""); got != "one other two" {
		t.Errorf("there is %s", got)
	}
	if got := listed(t, r, "pods"); got != "one two" {
		t.Errorf("in pods there is %s", got)
	}
	one.CIDRs = prefixes("10.50.1.0/25")
	one.VTEP = peerOf("one", 7).VTEP
	mustApply(t, r, one)
	if all, err := r.Peers(t.Context(), "pods"); err != nil || !all[0].Equal(one) {
		t.Errorf("replaced, it is %+v, %v", all, err)
	}
	if err := r.RemovePeer(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	wantError(t, r.RemovePeer(t.Context(), "one"), store.ErrNotFound)
	wantField(t, r.RemovePeer(t.Context(), "../leases"), "name", "../leases")
	if got := listed(t, r, ""); got != "other two" {
		t.Errorf("after the removal there is %s", got)
	}
}

// TestApplyPeerTwiceWritesOnce: what stands as it should isn't written, which would
// make it younger than those that it excludes.
func TestApplyPeerTwiceWritesOnce(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	mustApply(t, r, peerOf("vm", 1, "10.50.1.0/24"))
	before, err := r.Store.Get(t.Context(), "peers/vm")
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, r, peerOf("vm", 1, "10.50.1.0/24"))
	if after, err := r.Store.Get(t.Context(), "peers/vm"); err != nil || after.Revision != before.Revision {
		t.Errorf("revision %d became %d, %v", before.Revision, after.Revision, err)
	}
}

func TestApplyPeerConflicts(t *testing.T) {
	t.Parallel()
	node := lease.VTEP{Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	pods244 := network("pods", "10.244.0.0/16")
	node.MAC = pods244.MAC("node-1")
	for name, test := range map[string]struct {
		change func(*lease.ExternalPeer)
		field  string
		says   string
	}{
		"a network's CIDR":          {func(p *lease.ExternalPeer) { p.CIDRs = prefixes("10.9.7.0/24") }, "cidrs[0]", "external peer new overlaps cidrs[0] 10.9.0.0/16 of network storage"},
		"its own network's CIDR":    {func(p *lease.ExternalPeer) { p.CIDRs = prefixes("10.60.0.0/24", "10.244.3.0/24") }, "cidrs[1]", "external peer new overlaps cidrs[0] 10.244.0.0/16 of network pods"},
		"what holds a network":      {func(p *lease.ExternalPeer) { p.CIDRs = prefixes("10.128.0.0/9") }, "cidrs[0]", "network pods"},
		"a family that isn't there": {func(p *lease.ExternalPeer) { p.Network, p.CIDRs = "storage", prefixes("fd00:60::/64") }, "cidrs[0]", "external peer new has IPv6, which network storage hasn't"},
		"a VTEP within a network": {func(p *lease.ExternalPeer) {
			p.VTEP.Underlay[0] = netip.MustParseAddr("10.9.0.1")
		}, "vtep.underlay[0]", "external peer new has its VTEP within cidrs[0] 10.9.0.0/16 of network storage"},
		"an unknown network":           {func(p *lease.ExternalPeer) { p.Network = "podz" }, "network", "there is pods, storage"},
		"another's CIDR":               {func(p *lease.ExternalPeer) { p.CIDRs = prefixes("10.50.1.128/25") }, "cidrs[0]", "external peer new overlaps cidrs[0] 10.50.1.0/24 of external peer old"},
		"another's in another network": {func(p *lease.ExternalPeer) { p.CIDRs = prefixes("10.50.9.0/24") }, "cidrs[0]", "of external peer elsewhere"},
		"another's address":            {func(p *lease.ExternalPeer) { p.VTEP.Underlay[1] = netip.MustParseAddr("2001:db8::1") }, "vtep.underlay[1]", "is the VTEP of external peer new and of external peer old in network pods"},
		"another's MAC":                {func(p *lease.ExternalPeer) { p.VTEP.MAC = ether.Local([5]byte{4: 1}) }, "vtep.mac", "is that of external peer new and of external peer old in network pods"},
		"a node's address":             {func(p *lease.ExternalPeer) { p.VTEP.Underlay = node.Underlay }, "vtep.underlay[0]", "of external peer new and of node node-1"},
		"a node's MAC":                 {func(p *lease.ExternalPeer) { p.VTEP.MAC = node.MAC }, "vtep.mac", "of external peer new and of node node-1"},
		"a node's VTEP behind it":      {func(p *lease.ExternalPeer) { p.CIDRs = prefixes("192.0.2.0/24") }, "cidrs[0]", "external peer new would get the packets for 192.0.2.1, which is the VTEP of node node-1"},
		"another's VTEP behind it":     {func(p *lease.ExternalPeer) { p.CIDRs = prefixes("198.51.100.1/32") }, "cidrs[0]", "would get the packets for 198.51.100.1, which is the VTEP of external peer old"},
		"its VTEP behind another": {func(p *lease.ExternalPeer) {
			p.VTEP.Underlay[0] = netip.MustParseAddr("10.50.1.9")
		}, "vtep.underlay[0]", "external peer new has its VTEP within cidrs[0] 10.50.1.0/24 of external peer old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := pods(t)
			elsewhere := peerOf("elsewhere", 9, "10.50.9.0/24")
			elsewhere.Network = "storage"
			mustApply(t, r, peerOf("old", 1, "10.50.1.0/24"), elsewhere)
			p := peerOf("new", 5, "10.50.5.0/24")
			test.change(p)
			err := r.ApplyPeer(t.Context(), p)
			wantError(t, err, lease.ErrConflict)
			wantField(t, err, test.field, fieldOf(p, test.field))
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q doesn't say %q", err, test.says)
			}
			if got := listed(t, r, ""); got != "elsewhere old" {
				t.Errorf("there is %s", got)
			}
			// One that was there may not become so either, and stays what it was.
			mustApply(t, r, peerOf("new", 5, "10.50.5.0/24"))
			wantError(t, r.ApplyPeer(t.Context(), p), lease.ErrConflict)
			if all, err := r.Peers(t.Context(), "pods"); err != nil || !all[0].Equal(peerOf("new", 5, "10.50.5.0/24")) {
				t.Errorf("it has become %+v, %v", all, err)
			}
		})
	}
}

// fieldOf is the text of a field of a peer.
func fieldOf(p *lease.ExternalPeer, field string) string {
	return map[string]func() string{
		"network": func() string { return p.Network }, "vtep.mac": p.VTEP.MAC.String,
		"cidrs[0]": func() string { return p.CIDRs[0].String() }, "cidrs[1]": func() string { return p.CIDRs[1].String() },
		"vtep.underlay[0]": func() string { return p.VTEP.Underlay[0].String() }, "vtep.underlay[1]": func() string { return p.VTEP.Underlay[1].String() },
	}[field]()
}

// TestPeersAppliedAtOnce: of peers that exclude each other, one stays, and those
// that were refused have left nothing.
func TestPeersAppliedAtOnce(t *testing.T) {
	t.Parallel()
	r, clock := pods(t)
	for round := range 10 {
		errs := make([]error, 4)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() {
				errs[i] = registryOn(r.Store, clock).ApplyPeer(t.Context(), peerOf(fmt.Sprintf("vm-%d", i), byte(i+1), "10.50.0.0/16"))
			})
		}
		all.Wait()
		stands := listed(t, r, "")
		for i, err := range errs {
			name := fmt.Sprintf("vm-%d", i)
			if (err == nil) != (name == stands) {
				t.Errorf("round %d: %s: %v, and %q stands", round, name, err, stands)
			}
			if err != nil {
				wantError(t, err, lease.ErrConflict)
			}
		}
		if stands == "" {
			t.Fatalf("round %d: none stands: %v", round, errs)
		}
		if err := r.RemovePeer(t.Context(), stands); err != nil {
			t.Fatal(err)
		}
	}
}

// usable is which peers of network pods its nodes use, and what is said of others.
func usable(t *testing.T, r *lease.Registry) (names []string, refused []string) {
	t.Helper()
	view, err := r.View(t.Context(), "pods")
	if err != nil {
		t.Fatal(err)
	}
	used, problems, err := r.UsablePeers(t.Context(), "pods", view.Leases)
	if err != nil {
		t.Fatal(err)
	}
	for i := range used {
		names = append(names, used[i].Name)
	}
	for _, p := range problems {
		refused = append(refused, p.Error())
	}
	return names, refused
}

// byHand writes into the store what nobody has checked.
func byHand(t *testing.T, r *lease.Registry, key, value string) {
	t.Helper()
	if _, err := r.Store.Create(t.Context(), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, p *lease.ExternalPeer) string {
	t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestUsablePeers: whatever somebody wrote by hand, the others go on.
func TestUsablePeers(t *testing.T) {
	t.Parallel()
	pods244 := network("pods", "10.244.0.0/16")
	node := peerOf("bad", 5, "10.60.0.0/24")
	node.VTEP.MAC = pods244.MAC("node-1")
	elsewhere := peerOf("bad", 1, "10.50.1.0/28")
	elsewhere.Network = "storage"
	for name, test := range map[string]struct {
		key, value string
		says       string // "": it is used, or isn't of the network
	}{
		"fine":                    {"peers/bad", text(t, peerOf("bad", 5, "10.60.0.0/24")), ""},
		"without a name":          {"peers/bad", strings.Replace(text(t, peerOf("bad", 5, "10.60.0.0/24")), `"name":"bad",`, "", 1), ""},
		"no JSON":                 {"peers/bad", "{", "external peer bad: decode peers/bad: store is corrupt"},
		"of another type":         {"peers/bad", `{"cidrs": "10.50.0.0/24"}`, "external peer bad: decode peers/bad"},
		"a CIDR that is none":     {"peers/bad", `{"network": "pods", "cidrs": ["10.50.0.0"]}`, "external peer bad: decode peers/bad"},
		"of another name":         {"peers/bad", text(t, peerOf("vm", 5, "10.60.0.0/24")), `external peer bad: decode peers/bad: store is corrupt: it is about external peer "vm"`},
		"empty":                   {"peers/bad", "{}", `external peer bad: network: "": `},
		"invalid":                 {"peers/bad", text(t, peerOf("bad", 5, "127.0.0.0/8")), `external peer bad: cidrs[0]: "127.0.0.0/8"`},
		"in a network's way":      {"peers/bad", text(t, peerOf("bad", 5, "10.244.1.0/24")), "network pods"},
		"in a node's way":         {"peers/bad", text(t, node), "node node-1"},
		"in the way of an older":  {"peers/bad", text(t, peerOf("bad", 5, "10.50.1.0/25")), "of external peer vm"},
		"of another network":      {"peers/bad", text(t, elsewhere), ""},
		"of no network that is":   {"peers/bad", strings.Replace(text(t, peerOf("bad", 5, "10.60.0.0/24")), `"pods"`, `"podz"`, 1), ""},
		"a key that names no one": {"peers/a:b", text(t, peerOf("", 5, "10.60.0.0/24")), `name: "a:b"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := pods(t)
			mustApply(t, r, peerOf("vm", 1, "10.50.1.0/24"))
			byHand(t, r, test.key, test.value)
			names, refused := usable(t, r)
			if !slices.Contains(names, "vm") {
				t.Errorf("vm isn't used, but %v; refused: %v", names, refused)
			}
			switch {
			case test.says == "" && len(refused) > 0:
				t.Errorf("refused: %v", refused)
			case test.says == "":
			case len(refused) != 1 || !strings.Contains(refused[0], test.says):
				t.Errorf("refused: %v, want %q", refused, test.says)
			case len(names) != 1:
				t.Errorf("used: %v", names)
			}
			all, err := r.Peers(t.Context(), "")
			if unreadable := strings.Contains(test.says, "decode"); (err != nil) != unreadable || !slices.ContainsFunc(all, func(p lease.ExternalPeer) bool { return p.Name == "vm" }) {
				t.Errorf("Peers: %v, %v", all, err)
			}
		})
	}
}

// TestOlderPeerWins: of two that exclude each other, and whoever else excludes one
// of them, all nodes use the same.
func TestOlderPeerWins(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	for _, p := range []*lease.ExternalPeer{
		peerOf("c", 3, "10.50.0.0/16"), peerOf("a", 1, "10.50.1.0/24", "10.51.0.0/16"), peerOf("b", 2, "10.51.1.0/24"),
		peerOf("d", 4, "10.52.0.0/16"),
	} {
		byHand(t, r, "peers/"+p.Name, text(t, p))
	}
	names, refused := usable(t, r)
	// b is younger than a, which isn't used itself because of c.
	if !slices.Equal(names, []string{"c", "d"}) || len(refused) != 2 {
		t.Errorf("used are %v; refused: %v", names, refused)
	}
	if err := r.RemovePeer(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if names, refused = usable(t, r); !slices.Equal(names, []string{"a", "d"}) || len(refused) != 1 || !strings.Contains(refused[0], "external peer b:") {
		t.Errorf("without c used are %v; refused: %v", names, refused)
	}
	wantError(t, r.ApplyPeer(t.Context(), peerOf("a", 1, "10.51.0.0/16")), lease.ErrConflict) // b stands: which of both is for people to say
}

// TestImpossiblePeerIsInNobodysWay: one that can't be used wherever one looks from
// doesn't keep a junior from it, nor one from being applied.
func TestImpossiblePeerIsInNobodysWay(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	byHand(t, r, "peers/bad", text(t, peerOf("bad", 1, "10.0.0.0/8"))) // in the way of both networks
	mustApply(t, r, peerOf("vm", 1, "10.50.1.0/24"))
	if names, refused := usable(t, r); !slices.Equal(names, []string{"vm"}) || len(refused) != 1 {
		t.Errorf("used are %v; refused: %v", names, refused)
	}
}

// TestNetworksGoBeforePeers: a network that comes later than a peer is used all the
// same, and the peer isn't.
func TestNetworksGoBeforePeers(t *testing.T) {
	t.Parallel()
	r, _ := pods(t)
	mustApply(t, r, peerOf("vm", 1, "10.50.1.0/24"))
	late := lease.Network{Name: "late", CIDRs: prefixes("10.50.0.0/16"), VNI: 50}.Complete()
	wantError(t, r.ApplyNetwork(t.Context(), &late), lease.ErrConflict)
	if _, err := r.Join(t.Context(), &late); err != nil {
		t.Fatal(err)
	}
	if names, refused := usable(t, r); len(names) != 0 || len(refused) != 1 || !strings.Contains(refused[0], "network late") {
		t.Errorf("used are %v; refused: %v", names, refused)
	}
}

// TestWatchSeesPeers: of whatever network, for it may be in the way.
func TestWatchSeesPeers(t *testing.T) {
	t.Parallel()
	r, clock := pods(t)
	usable(t, r)
	woken := make(chan struct{}, 10)
	ended := make(chan error, 1)
	go func() { ended <- r.Watch(t.Context(), "storage", func() { woken <- struct{}{} }) }()
	mustApply(t, registryOn(r.Store, clock), peerOf("vm", 1, "10.50.1.0/24"))
	select {
	case <-woken:
	case err := <-ended:
		t.Error(err)
	}
}
