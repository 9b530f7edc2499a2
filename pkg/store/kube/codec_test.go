package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// offline is a store without an API server.
func offline(o Owner) *Store { return &Store{kinds: kinds(func() Owner { return o })} }

// networkName draws a name that a network can have.
func networkName() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?){0,5}`).Filter(func(name string) bool {
		return lease.ValidateName("name", name) == nil
	})
}

// block draws one that a lease of a valid network can have.
func block() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		bytes := rapid.SliceOfN(rapid.OneOf(rapid.Just(byte(0)), rapid.Byte()), size, size).Draw(t, "address")
		a, _ := netip.AddrFromSlice(bytes)
		return netip.PrefixFrom(a, rapid.IntRange(1, 8*size-2).Draw(t, "length")).Masked()
	}).Filter(func(p netip.Prefix) bool {
		n := lease.Network{Name: "n", CIDRs: []netip.Prefix{p}}.Complete()
		return n.Validate() == nil
	})
}

// leaseOf reads what a BlockLease is called, which shows that no two leases are
// called alike.
func leaseOf(name string) (key string, err error) {
	dot := strings.LastIndexByte(name, '.')
	if last := name[dot+1:]; strings.Count(last, "-") > 1 { // of IPv6
		dash := strings.LastIndexByte(last, '-')
		return "leases/" + name[:dot] + "/" + strings.ReplaceAll(last[:dash], "-", ":") + last[dash:], nil
	}
	parts := strings.Split(name, ".")
	if len(parts) < 5 {
		return "", fmt.Errorf("%s has no block of IPv4", name)
	}
	at := len(parts) - 4
	return "leases/" + strings.Join(parts[:at], ".") + "/" + strings.Join(parts[at:], "."), nil
}

// TestLeaseNames: every lease of every valid network has a name of its own that
// Kubernetes takes.
func TestLeaseNames(t *testing.T) {
	t.Parallel()
	s := offline(Owner{})
	rapid.Check(t, func(t *rapid.T) {
		l := lease.Lease{Network: networkName().Draw(t, "network"), Block: block().Draw(t, "block")}
		k, name, err := s.locate(l.Key())
		if err != nil || k.name != "BlockLease" {
			t.Fatalf("%s: %v, %v", l.Key(), k, err)
		}
		if wrong := validation.IsDNS1123Subdomain(name); wrong != nil {
			t.Errorf("%s is called %s: %v", l.Key(), name, wrong)
		}
		if back, err := leaseOf(name); err != nil || back != l.Key() {
			t.Errorf("%s is called %s, which is that of %s (%v)", l.Key(), name, back, err)
		}
		if wrong := validation.IsValidLabelValue(l.Network); wrong != nil { // so can a node's name, which has the same rules
			t.Errorf("label %s: %v", l.Network, wrong)
		}
	})
}

func TestLocate(t *testing.T) {
	t.Parallel()
	const digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // of "a"
	s := offline(Owner{})
	for _, test := range []struct{ key, kind, name string }{
		{"networks/pods", "Network", "pods"},
		{"networks/a.b-c", "Network", "a.b-c"},
		{"peers/vm-1", "ExternalPeer", "vm-1"},
		{"leases/pods/10.244.3.0-24", "BlockLease", "pods.10.244.3.0-24"},
		{"leases/pods.10/10.244.3.0-24", "BlockLease", "pods.10.10.244.3.0-24"},
		{"leases/pods/fd00:10:244::-64", "BlockLease", "pods.fd00-10-244---64"},
		{"leases/pods/fd00:10:244:3::-64", "BlockLease", "pods.fd00-10-244-3---64"},
		{"leases/pods/fd00::3:0:0:0-80", "BlockLease", "pods.fd00--3-0-0-0-80"},
		{"a", "Record", digest},
		{"networks", "Record", recordName("networks")},
		{"addresses/pods/fd00::1", "Record", recordName("addresses/pods/fd00::1")},
	} {
		if k, name, err := s.locate(test.key); err != nil || k.name != test.kind || name != test.name {
			t.Errorf("%s: %v %s, %v, want %s %s", test.key, k, name, err, test.kind, test.name)
		}
	}
	for _, key := range []string{
		"networks/Pods", "networks/a/b", "networks/-a", "networks/a_b", "networks/" + strings.Repeat("a", 254), "peers/a:b",
		"leases/pods", "leases/pods/x", "leases/pods/10.0.0.0", "leases/pods/10.0.0.0-", "leases/pods/10.0.0.1-24", "leases/pods/10.0.0.0-24/x",
		"leases/pods/010.0.0.0-24", "leases/pods/10.0.0.0-024", "leases/pods/fd00:0::-64", "leases/pods/FD00::-64", "leases/pods/::1-128",
		"leases/pods/::ffff:10.0.0.0-120", "leases/Pods/10.0.0.0-24", "leases/" + strings.Repeat("a", 64) + "/10.0.0.0-24",
	} {
		if k, name, err := s.locate(key); !errors.Is(err, store.ErrInvalidKey) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v %s, %v, want %v", key, k, name, err, store.ErrInvalidKey)
		}
	}
}

// TestSelection: what is asked for has all keys of a prefix.
func TestSelection(t *testing.T) {
	t.Parallel()
	s := offline(Owner{})
	for prefix, want := range map[string]string{
		"":                  "networks[] externalpeers[] blockleases[] records[]",
		"networks/":         "networks[]",
		"peers/":            "externalpeers[]",
		"leases/":           "blockleases[]",
		"leases/pods/":      "blockleases[spec.network=pods]",
		"addresses/":        "records[]",
		"addresses/pods/":   "records[spec.prefix=addresses/pods]",
		"addresses/pods/a/": "records[spec.prefix=addresses/pods]",
	} {
		var got []string
		for _, k := range s.below(prefix) {
			got = append(got, k.resource.Resource+"["+k.fields(prefix)+"]")
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%q: %s, want %s", prefix, got, want)
		}
	}
	for key, want := range map[string]string{"a": "", "a/b": "", "a/b/c": "a/b", "a/b/c/d": "a/b"} {
		if got := recordPrefix(key); got != want {
			t.Errorf("prefix of %s is %q, want %q", key, got, want)
		}
	}
}

const leaseValue = `{"network":"pods","block":"10.244.3.0/24","node":"n1","vtep":{"underlay":["192.0.2.1"],"mac":"0e:00:00:00:00:01"}}`

func TestEncode(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"overlay-cni.io/network": "pods", "overlay-cni.io/node": "n1"}
	own := []ownerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u1"}}
	for _, test := range []struct {
		name, key, value string
		owner            Owner
		spec             string
		labels           map[string]string
		owners           []ownerReference
	}{
		{"a network", "networks/pods", `{"name":"pods","cidrs":["10.0.0.0/8"],"vni":7}`, Owner{}, `{"cidrs":["10.0.0.0/8"],"vni":7}`, nil, nil},
		{"a network of a name alone", "networks/pods", `{"name":"pods"}`, Owner{}, `{}`, nil, nil},
		{"a peer", "peers/vm", `{"network":"pods","name":"vm"}`, Owner{}, `{"network":"pods"}`, nil, nil},
		{"a lease, of no Node", "leases/pods/10.244.3.0-24", leaseValue, Owner{}, leaseValue, labels, []ownerReference{}},
		{"our lease", "leases/pods/10.244.3.0-24", leaseValue, Owner{"n1", "u1"}, leaseValue, labels, own},
		{"another's lease", "leases/pods/10.244.3.0-24", leaseValue, Owner{"n2", "u2"}, leaseValue, labels, nil},
		{"a record", "a/b/c", "\x00", Owner{}, `{"key":"a/b/c","prefix":"a/b","value":"AA==","replaces":7}`, nil, nil},
		{"a record of nothing", "a", "", Owner{}, `{"key":"a","replaces":7}`, nil, nil},
	} {
		_, _, c, err := offline(test.owner).prepare("write", store.Entry{Key: test.key, Value: []byte(test.value), Revision: 7})
		if err != nil || string(c.spec) != test.spec || !reflect.DeepEqual(c.labels, test.labels) || !reflect.DeepEqual(c.owners, test.owners) {
			t.Errorf("%s: %s, %v, %v, %v, want %s, %v, %v", test.name, c.spec, c.labels, c.owners, err, test.spec, test.labels, test.owners)
		}
	}
}

// TestEncodeRefuses: a value that the kind isn't for is refused, with what is
// wrong.
func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ key, value, says string }{
		{"networks/pods", "", "no JSON object"},
		{"networks/pods", "null", "no JSON object"},
		{"networks/pods", `["name"]`, "no JSON object"},
		{"networks/pods", `"pods"`, "no JSON object"},
		{"networks/pods", `{"name":"pods"} {}`, "no JSON object"},
		{"networks/pods", `{}`, `not that of networks/pods`},
		{"networks/pods", `{"name":"other"}`, `"other"`},
		{"networks/pods", `{"name":7}`, "number"},
		{"peers/vm", `{"name":"pods"}`, "not that of peers/vm"},
		{"leases/pods/10.244.3.0-24", "[]", "no JSON object"},
		{"leases/pods/10.244.3.0-24", "{}", "not that of leases/pods/10.244.3.0-24"},
		{"leases/pods/10.244.4.0-24", leaseValue, "10.244.3.0/24"},
		{"leases/other/10.244.3.0-24", leaseValue, `"pods"`},
		{"leases/pods/10.244.3.0-24", strings.Replace(leaseValue, `"n1"`, `"n/1"`, 1), `node "n/1"`},
		{"leases/pods/10.244.3.0-24", strings.Replace(leaseValue, "/24", "", 1), "ParsePrefix"},
	} {
		_, _, c, err := offline(Owner{}).prepare("write "+test.key, store.Entry{Key: test.key, Value: []byte(test.value)})
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), test.key) {
			t.Errorf("%s = %s: %s, %v, want %q", test.key, test.value, c.spec, err, test.says)
		}
	}
}

// TestDecodeRefuses: an object under another's name could lend a block twice.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	s := offline(Owner{})
	for _, test := range []struct{ kind, object, says string }{
		{"BlockLease", `{"metadata":{"name":"pods.10.244.4.0-24","resourceVersion":"7"},"spec":` + leaseValue + `}`, "pods.10.244.3.0-24"},
		{"BlockLease", `{"metadata":{"name":"pods.10.244.4.0-24","resourceVersion":"7"}}`, "pods.10.244.4.0-24"},
		{"Record", `{"metadata":{"name":"` + recordName("a") + `","resourceVersion":"7"},"spec":{"key":"b"}}`, `key "b"`},
		{"Record", `{"metadata":{"name":"` + recordName("a") + `","resourceVersion":"7"},"spec":{"key":"a","value":"-"}}`, "base64"},
		{"Record", `{"metadata":{"name":"` + recordName("a") + `","resourceVersion":"x"},"spec":{"key":"a"}}`, `"x"`},
		{"Network", `{"metadata":{"name":"pods","resourceVersion":"7"}}`, "no JSON object"},
	} {
		for i := range s.kinds {
			if s.kinds[i].name != test.kind {
				continue
			}
			e, err := s.kinds[i].event(watch.Added, json.RawMessage(test.object))
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), test.kind) {
				t.Errorf("%s: %v, %v, want %q", test.object, e, err, test.says)
			}
		}
	}
}

// TestOneByOne: what several watches deliver to one function comes to it one by
// one, and nothing after its error.
func TestOneByOne(t *testing.T) {
	t.Parallel()
	enough := errors.New("enough")
	calls := 0 // which the race detector would tell
	one := oneByOne(func(store.Event) error {
		if calls++; calls == 3 {
			return enough
		}
		return nil
	})
	var watches sync.WaitGroup
	for range 4 {
		watches.Go(func() {
			for range 10 {
				_ = one(store.Event{})
			}
		})
	}
	watches.Wait()
	if err := one(store.Event{}); !errors.Is(err, enough) || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// FuzzDecode: whatever the API server sends, what is made of it goes back under
// the same name.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"pods","resourceVersion":"7"},"spec":{"cidrs":["10.0.0.0/8"],"name":"other"}}`))
	f.Add([]byte(`{"metadata":{"name":"pods.10.244.3.0-24","resourceVersion":"7"},"spec":` + leaseValue + `}`))
	f.Add([]byte(`{"metadata":{"name":"pods.fd00---64","resourceVersion":"7"},"spec":{"network":"pods","block":"fd00::/64","node":"n"}}`))
	f.Add([]byte(`{"metadata":{"name":"` + recordName("a/b/c") + `","resourceVersion":"7"},"spec":{"key":"a/b/c","prefix":"a/b","value":"AA=="}}`))
	s := offline(Owner{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		for i := range s.kinds {
			e, err := s.kinds[i].event(watch.Modified, raw)
			if err != nil {
				continue
			}
			k, name, c, err := s.prepare("write", e.Entry)
			if err != nil || k != &s.kinds[i] {
				continue // an object that the API server wouldn't take
			}
			var o object
			if err := json.Unmarshal(raw, &o); err != nil || name != o.Metadata.Name {
				t.Fatalf("%s is called %s, not %s (%v)", e.Key, name, o.Metadata.Name, err)
			}
			o.Spec = c.spec
			again, err := k.entry(&o)
			if err != nil || again.Key != e.Key || string(again.Value) != string(e.Value) {
				t.Fatalf("%s = %s came back as %s = %s, %v", e.Key, e.Value, again.Key, again.Value, err)
			}
		}
	})
}
