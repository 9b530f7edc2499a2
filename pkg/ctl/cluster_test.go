package ctl_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/ipam/space"
	"github.com/overlay-cni/overlay-cni/pkg/ctl"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// shared is a store with what a test puts into it.
type shared struct {
	ctl.Cluster
	t     *testing.T
	out   strings.Builder
	clock time.Time
}

func newShared(t *testing.T) *shared {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	f := &shared{t: t, clock: time.Unix(1_700_000_000, 0)}
	f.Registry = &lease.Registry{Store: s, TTL: time.Hour, Now: func() time.Time { return f.clock }}
	f.Out = &f.out
	return f
}

// join gives a node its leases of a network.
func (f *shared) join(network, node string, last byte) {
	f.t.Helper()
	n, err := f.Registry.Network(f.t.Context(), network)
	f.must(err)
	_, err = f.Registry.Acquire(f.t.Context(), &lease.Claim{Network: n, Node: node, VTEP: lease.VTEP{
		Underlay: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, last})}, MAC: n.MAC(node),
	}})
	f.must(err)
}

func (f *shared) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *shared) said() string {
	text := f.out.String()
	f.out.Reset()
	return text
}

// says runs a command that succeeds, and compares what it writes.
func (f *shared) says(want string, do func(context.Context) error) {
	f.t.Helper()
	f.must(do(f.t.Context()))
	if got := f.said(); got != want {
		f.t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
}

// refuses runs a command that fails.
func (f *shared) refuses(target error, says string, do func(context.Context) error) {
	f.t.Helper()
	err := do(f.t.Context())
	if err == nil || target != nil && !errors.Is(err, target) || !strings.Contains(err.Error(), says) {
		f.t.Errorf("got %v, want %v and %q", err, target, says)
	}
}

func (f *shared) networkApply(text string) func(context.Context) error {
	return func(ctx context.Context) error { return f.NetworkApply(ctx, strings.NewReader(text)) }
}

func (f *shared) peerApply(text string) func(context.Context) error {
	return func(ctx context.Context) error { return f.PeerApply(ctx, strings.NewReader(text)) }
}

// about is a command about one network or peer.
func about(do func(context.Context, string) error, name string) func(context.Context) error {
	return func(ctx context.Context) error { return do(ctx, name) }
}

const (
	twoNetworks = `# what a cluster has
name: pods
cidrs: [10.244.0.0/16, "fd00:10:244::/48"]
masquerade: {exclude: [192.168.0.0/16]}
---
apiVersion: overlay-cni.io/v1alpha1
kind: Network
metadata:
  name: storage
spec:
  vni: 9
  mtu: 1400
  pools:
    - cidr: 10.9.0.0/20
      nodeSelector: {zone: b, disk: ssd}
  masquerade: {enabled: false}
`
	aPeer = `{"apiVersion": "overlay-cni.io/v1alpha1", "kind": "ExternalPeer", "metadata": {"name": "vm"},
		"spec": {"network": "pods", "vtep": {"underlay": ["198.51.100.7"], "mac": "0e:00:00:00:00:07"}, "cidrs": ["10.50.0.0/24", "fd00:50::/64"]}}`
)

func TestNetworks(t *testing.T) {
	t.Parallel()
	f := newShared(t)
	f.says("network pods is as it should be\nnetwork storage is as it should be\n", f.networkApply(twoNetworks))
	f.join("pods", "node-b", 2)
	f.join("pods", "node-a", 1)
	f.must(f.PeerApply(t.Context(), strings.NewReader(aPeer)))
	f.said()
	f.says(`NETWORK  CIDRS                            VNI   PORT  NODES  EXTERNAL PEERS  PROBLEM
pods     10.244.0.0/16, fd00:10:244::/48  4096  4789  2      1
storage  10.9.0.0/20                      9     4789  0      0
`, f.NetworkList)
	f.says(`network         pods
VNI             4096
port            4789
MTU             auto
masquerade      yes, but not to 192.168.0.0/16
CIDR            10.244.0.0/16 in blocks of /24
CIDR            fd00:10:244::/48 in blocks of /64
nodes           node-a, node-b
external peers  vm
`, about(f.NetworkShow, "pods"))
	f.says(`network         storage
VNI             9
port            4789
MTU             1400
masquerade      no
pool            10.9.0.0/20 in blocks of /26 for nodes with disk=ssd, zone=b
nodes
external peers
`, about(f.NetworkShow, "storage"))
	f.refuses(store.ErrNotFound, "network podz", about(f.NetworkShow, "podz"))
	f.refuses(lease.ErrConflict, "network pods has leases of nodes: node-a, node-b", about(f.NetworkRemove, "pods"))
	f.says("network storage is removed\n", about(f.NetworkRemove, "storage"))
	f.refuses(store.ErrNotFound, "network storage", about(f.NetworkRemove, "storage"))
}

// What is written as JSON can be applied again, and changes nothing.
func TestJSONIsAppliedAgain(t *testing.T) {
	t.Parallel()
	f := newShared(t)
	f.must(f.NetworkApply(t.Context(), strings.NewReader(twoNetworks)))
	f.must(f.PeerApply(t.Context(), strings.NewReader(aPeer)))
	f.said()
	f.Format = ctl.JSON
	for name, do := range map[string]struct {
		list  func(context.Context) error
		apply func(string) func(context.Context) error
		key   string
	}{
		"networks": {f.NetworkList, f.networkApply, "networks/storage"},
		"network":  {about(f.NetworkShow, "storage"), f.networkApply, "networks/storage"},
		"peers":    {f.PeerList, f.peerApply, "peers/vm"},
		"peer":     {about(f.PeerShow, "vm"), f.peerApply, "peers/vm"},
	} {
		before, err := f.Registry.Store.Get(t.Context(), do.key)
		f.must(err)
		f.must(do.list(t.Context()))
		text := f.said()
		f.must(do.apply(text)(t.Context()))
		if said := f.said(); strings.Contains(said, "warning") {
			t.Errorf("%s: %s", name, said)
		}
		after, err := f.Registry.Store.Get(t.Context(), do.key)
		f.must(err)
		if before.Revision != after.Revision {
			t.Errorf("%s: %s became %s by\n%s", name, before.Value, after.Value, text)
		}
	}
}

func TestApplySaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const head = `{"apiVersion": "overlay-cni.io/v1alpha1", "kind": "Network", "metadata": {"name": "new"}, `
	for name, test := range map[string]struct {
		text         string
		field, value string // that a *lease.FieldError names; "": another error
		says         string
	}{
		"nothing":               {"", "", "", "there is none"},
		"comments":              {"# nothing\n---\n", "", "", "there is none"},
		"no YAML":               {"a: [", "", "", "read YAML document 1"},
		"a key twice":           {"name: new\nname: other\n", "", "", "already set"},
		"a text":                {"pods", "", "", "read object"},
		"a CIDR that is none":   {"{name: new, cidrs: [10.60.0.0]}", "cidrs[0]", "10.60.0.0", ""},
		"the second":            {"{name: new, cidrs: [10.60.0.0/16], vni: 6}\n---\n{name: b, cidrs: [10.61.0.0/16], vni: 0}", "vni", "0", "object 2: "},
		"within a spec":         {head + `"spec": {"cidrs": ["10.60.0.1/16"]}}`, "spec.cidrs[0]", "10.60.0.1/16", ""},
		"a spec's masquerade":   {head + `"spec": {"cidrs": ["10.60.0.0/16"], "masquerade": {"enabled": "no"}}}`, "spec.masquerade.enabled", "no", ""},
		"a masquerade":          {head + `"spec": {"cidrs": ["10.60.0.0/16"], "masquerade": 5}}`, "spec.masquerade", "5", ""},
		"a spec that is a text": {head + `"spec": "new"}`, "spec", `"new"`, ""},
		"no spec":               {head + `"status": {}}`, "spec", "", ""},
		"a name":                {`{"apiVersion": "overlay-cni.io/v1alpha1", "kind": "Network", "metadata": {"name": "New"}, "spec": {"cidrs": ["10.60.0.0/16"]}}`, "metadata.name", "New", ""},
		"no name":               {`{"apiVersion": "overlay-cni.io/v1alpha1", "kind": "Network", "spec": {"cidrs": ["10.60.0.0/16"]}}`, "metadata.name", "", ""},
		"another version":       {`{"apiVersion": "overlay-cni.io/v2", "kind": "Network"}`, "apiVersion", "overlay-cni.io/v2", "v1alpha1"},
		"no version":            {`{"kind": "Network"}`, "apiVersion", "", ""},
		"another kind":          {aPeer, "kind", "ExternalPeer", "must be Network here"},
		"a conflict":            {"{name: new, cidrs: [10.244.7.0/24]}", "cidrs[0]", "10.244.7.0/24", "network new overlaps cidrs[0] 10.244.0.0/16 of network pods"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newShared(t)
			f.must(f.NetworkApply(t.Context(), strings.NewReader(twoNetworks)))
			err := f.NetworkApply(t.Context(), strings.NewReader(test.text))
			var field *lease.FieldError
			switch {
			case err == nil:
				t.Fatal("it is applied")
			case test.field != "" && (!errors.As(err, &field) || field.Field != test.field || field.Value != test.value):
				t.Errorf("%q isn't about %s %q", err, test.field, test.value)
			case !strings.Contains(err.Error(), test.says):
				t.Errorf("%q doesn't say %q", err, test.says)
			}
		})
	}
}

// One that can't be applied doesn't keep the others from it; unknown fields are
// warned of.
func TestApplySeveral(t *testing.T) {
	t.Parallel()
	f := newShared(t)
	f.refuses(lease.ErrConflict, "object 2: ", f.networkApply(
		`[{"name": "a", "cidrs": ["10.1.0.0/16"], "color": "blue"}, {"name": "b", "cidrs": ["10.1.2.0/24"], "vni": 2}, {"name": "c", "cidrs": ["10.3.0.0/16"], "vni": 3}]`))
	if got, want := f.said(), "network a is as it should be\nwarning: object 1: unknown field \"color\" is ignored\nnetwork c is as it should be\n"; got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
	f.says("network a is as it should be\nnetwork b is as it should be\n", f.networkApply(
		`{"name": "a", "cidrs": ["10.1.0.0/16"], "mtu": 1400} {"name": "b", "cidrs": ["10.2.0.0/16"], "vni": 2}`))
}

func TestPeers(t *testing.T) {
	t.Parallel()
	f := newShared(t)
	f.must(f.NetworkApply(t.Context(), strings.NewReader(twoNetworks)))
	f.join("pods", "node-a", 1)
	f.said()
	f.says("external peer vm is as it should be\n", f.peerApply(aPeer))
	f.refuses(nil, `spec.vtep.mac: "0e"`, f.peerApply(strings.Replace(aPeer, "0e:00:00:00:00:07", "0e", 1)))
	f.refuses(lease.ErrConflict, "external peer vm and of node node-a in network pods", f.peerApply(strings.Replace(aPeer, "198.51.100.7", "192.0.2.1", 1)))
	f.refuses(nil, `kind: "Network": must be ExternalPeer here`, f.peerApply(strings.Replace(aPeer, "ExternalPeer", "Network", 1)))
	for key, value := range map[string]string{
		"peers/odd":    `{`,
		"peers/taker":  `{"network": "pods", "vtep": {"underlay": ["198.51.100.8"], "mac": "0e:00:00:00:00:08"}, "cidrs": ["10.50.0.0/16"]}`,
		"peers/nobody": `{"network": "podz", "vtep": {"underlay": ["198.51.100.9"], "mac": "0e:00:00:00:00:09"}, "cidrs": ["10.51.0.0/16"]}`,
	} {
		_, err := f.Registry.Store.Create(t.Context(), key, []byte(value))
		f.must(err)
	}
	f.says(`PEER    NETWORK  VTEP          MAC                CIDRS                       PROBLEM
nobody  podz     198.51.100.9  0e:00:00:00:00:09  10.51.0.0/16                network podz isn't registered
odd                            none                                           decode peers/odd: store is corrupt: unexpected end of JSON input
taker   pods     198.51.100.8  0e:00:00:00:00:08  10.50.0.0/16                cidrs[0]: "10.50.0.0/16": external peer taker overlaps cidrs[0] 10.50.0.0/24 of external peer vm
vm      pods     198.51.100.7  0e:00:00:00:00:07  10.50.0.0/24, fd00:50::/64
`, f.PeerList)
	f.says(`external peer  vm
network        pods
VTEP           198.51.100.7
MAC            0e:00:00:00:00:07
CIDRs          10.50.0.0/24, fd00:50::/64
`, about(f.PeerShow, "vm"))
	f.Network, f.Format = "podz", ctl.JSON
	f.says(`[
  {
    "apiVersion": "overlay-cni.io/v1alpha1",
    "kind": "ExternalPeer",
    "metadata": {
      "name": "nobody"
    },
    "spec": {
      "network": "podz",
      "vtep": {
        "underlay": [
          "198.51.100.9"
        ],
        "mac": "0e:00:00:00:00:09"
      },
      "cidrs": [
        "10.51.0.0/16"
      ]
    },
    "status": {
      "used": false,
      "problem": "network podz isn't registered"
    }
  }
]
`, f.PeerList)
	f.refuses(store.ErrNotFound, "external peer other", about(f.PeerShow, "other"))
	f.says("external peer vm is removed\n", about(f.PeerRemove, "vm"))
	f.refuses(store.ErrNotFound, "external peer vm", about(f.PeerRemove, "vm"))
}

func TestLeases(t *testing.T) {
	t.Parallel()
	f := newShared(t)
	f.says("NETWORK  BLOCK  NODE  VTEP  MAC  EXPIRES  NOTICE\n", f.LeaseList)
	f.must(f.NetworkApply(t.Context(), strings.NewReader(`{name: pods, cidrs: [10.244.0.0/22]}`)))
	f.said()
	f.join("pods", "node-a", 1)
	f.clock = f.clock.Add(40 * time.Minute)
	f.join("pods", "node-b", 2)
	blocks, macs := map[string]string{}, map[string]string{}
	view, err := f.Registry.View(t.Context(), "pods")
	f.must(err)
	for _, l := range view.Leases {
		blocks[l.Node], macs[l.Node] = l.Block.String(), l.VTEP.MAC.String()
	}
	f.Node = "node-a"
	f.says(fmt.Sprintf(`NETWORK  BLOCK          NODE    VTEP       MAC                EXPIRES  NOTICE
pods     %s  node-a  192.0.2.1  %s  in 20m
`, blocks["node-a"], macs["node-a"]), f.LeaseList)
	f.refuses(lease.ErrAlive, "node node-a may still be running, and renew its leases of "+blocks["node-a"]+" in network pods (expires: in 20m); power it off, and use --force", f.LeaseRelease)
	f.clock = f.clock.Add(25*time.Minute + 3*time.Second)
	f.says(fmt.Sprintf(`releasing %s in network pods, whose lease expires: 5m ago
Other nodes forget the way to node node-a, and may have these blocks from now on.
Should it still run, its pods are cut off, and their addresses may become others': recreate them.
node node-a has no lease any more
`, blocks["node-a"]), f.LeaseRelease)
	f.refuses(ctl.ErrNoLease, "no lease of node node-a", f.LeaseRelease)
	f.Node, f.Network, f.Force = "node-b", "pods", true
	f.must(f.LeaseRelease(t.Context()))
	if said := f.said(); !strings.Contains(said, "expires: in 34m") || !strings.Contains(said, "node node-b has no lease in network pods any more") {
		t.Errorf("it says\n%s", said)
	}
	f.Node, f.Format = "", ctl.JSON
	f.says("[]\n", f.LeaseList)
	f.Network = "a/b"
	f.refuses(nil, "network", f.LeaseList)
}

// What an operator reads of a lease that never expires, and of one that somebody
// is about to take.
func TestLeaseTimes(t *testing.T) {
	t.Parallel()
	f := newShared(t)
	f.must(f.NetworkApply(t.Context(), strings.NewReader(`{name: pods, cidrs: [10.244.0.0/24]}`)))
	f.said()
	f.Registry.TTL = 0
	f.join("pods", "node-a", 1)
	list := func() string {
		f.must(f.LeaseList(t.Context()))
		return f.said()
	}
	if said := list(); !strings.Contains(said, "never") {
		t.Errorf("it says\n%s", said)
	}
	f.Registry.TTL = time.Hour
	f.join("pods", "node-a", 1)
	f.clock = f.clock.Add(3 * time.Hour)
	n, err := f.Registry.Network(t.Context(), "pods")
	f.must(err)
	_, err = f.Registry.Acquire(t.Context(), &lease.Claim{Network: n, Node: "node-b", VTEP: lease.VTEP{Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, MAC: n.MAC("node-b")}})
	wantError(t, err, lease.ErrNoBlock)
	f.clock = f.clock.Add(15 * time.Second)
	if said := list(); !strings.Contains(said, "2h0m ago") || !strings.Contains(said, "node node-b is about to take it (15s ago)") {
		t.Errorf("it says\n%s", said)
	}
	f.Format = ctl.JSON
	var leases []lease.Lease
	if err := json.Unmarshal([]byte(list()), &leases); err != nil || len(leases) != 1 || leases[0].Notice == nil {
		t.Errorf("as JSON: %+v, %v", leases, err)
	}
}

func TestSpace(t *testing.T) {
	t.Parallel()
	f := newShared(t)
	claim := func(node, instance, pod string) netip.Addr {
		t.Helper()
		s, err := space.Open(&space.Options{
			Store: f.Registry.Store, Name: "lan", Machine: space.Machine{Node: node, Instance: instance, Boot: "1"}, Ledger: t.TempDir() + "/ledger",
			Now: func() time.Time { return f.clock },
		})
		f.must(err)
		defer s.Close()
		got, err := s.Allocate(t.Context(), ipam.Request{
			Attachment: ipam.Attachment{ContainerID: pod, Interface: "eth0"},
			Sets:       []ipam.RangeSet{{{First: netip.MustParseAddr("10.0.0.1"), Last: netip.MustParseAddr("10.0.0.200")}}},
		})
		f.must(err)
		return got[0]
	}
	web := claim("node-a", "i-1", "web")
	claim("node-b", "i-2", "db")
	s := &ctl.Space{Store: f.Registry.Store, Network: "lan", Node: "node-a", Out: &f.out}
	f.must(s.Claims(t.Context()))
	if said := f.said(); !strings.Contains(said, web.String()+" ") || !strings.Contains(said, "node-a  i-1       web        eth0") || strings.Contains(said, "db") {
		t.Errorf("it says\n%s", said)
	}
	claim("node-a", "i-3", "twin")
	f.refuses(space.ErrAmbiguous, "instances", s.Release)
	s.Instance = "i-1"
	f.says(fmt.Sprintf("freed %s of container web interface eth0\n", web), s.Release)
	f.refuses(nil, "node node-a has claimed nothing of lan", s.Release)
	s.Node, s.Format = "", ctl.JSON
	f.must(s.Claims(t.Context()))
	if said := f.said(); strings.Count(said, `"node"`) != 2 || strings.Contains(said, "web") {
		t.Errorf("it says\n%s", said)
	}
	s.Network = "../leases"
	f.refuses(nil, "network", s.Claims)
	f.refuses(nil, "network", s.Release)
}
