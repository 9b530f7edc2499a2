package kube_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lab/kubetest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
)

var update = flag.Bool("update", false, "write the golden files")

// TestObjects: what people see of what is stored, and what they write.
func TestObjects(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *kubetest.Server)
	}{
		{"every field comes back", testFields},
		{"a network of cidrs alone", testDefaults},
		{"what is invalid is refused", testInvalid},
		{"what nodes agree on doesn't change", testImmutable},
		{"values that no kind takes", testValues},
		{"columns", testColumns},
		{"an update leaves what isn't ours", testForeignFields},
		{"an update has no other's fields", testRemovedFields},
		{"owners", testOwners},
		{"an update that changes nothing", testSame},
		{"a race for a key that goes", testGone},
		{"conditions", testReport},
		{"nodes", testNode},
		{"nodes that come and go", testWatchNode},
		{"rights", testRights},
		{"forbidden", testForbidden},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(t, s)
		})
	}
}

func kubectl(t testing.TB, s *kubetest.Server, args ...string) string {
	t.Helper()
	out, err := s.Kubectl(t.Context(), args...)
	must(t, err)
	return out
}

// manifest writes a file with an object.
func manifest(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "object.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// object is the manifest of one of ours.
func object(kind, name, spec string) string {
	return fmt.Sprintf("{apiVersion: overlay-cni.io/v1alpha1, kind: %s, metadata: {name: %s}, spec: %s}", kind, name, spec)
}

// encode returns what package lease stores.
func encode(t testing.TB, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	return text
}

// sameJSON compares values as JSON.
func sameJSON(t testing.TB, got, want []byte) {
	t.Helper()
	var a, b any
	must(t, json.Unmarshal(got, &a))
	must(t, json.Unmarshal(want, &b))
	if !reflect.DeepEqual(a, b) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, s := range all {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// leaseOf is a lease of a block.
func leaseOf(network, node, block string) *lease.Lease {
	return &lease.Lease{
		Network: network, Block: netip.MustParsePrefix(block), Node: node, Instance: "instance-of-" + node,
		VTEP:    lease.VTEP{Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}, MAC: ether.Addr{0x0e, 1, 2, 3, 4, 5}},
		Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// testFields: the resources' definitions have every field that package lease has.
func testFields(t *testing.T, s *kubetest.Server) {
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	full := leaseOf("fields.a-b", "n1", "fd00:1:2:3::/64")
	full.Index, full.Notice = 3, &lease.Notice{Node: "n2", Instance: "i2", At: full.Expires}
	plain := lease.Network{
		Name: "fields", CIDRs: prefixes("10.1.0.0/16", "fd01::/48"), Windows: true, PodCIDRs: true, Open: true, MTU: 1400,
		Masquerade: lease.Masquerade{Disabled: true, Exclude: prefixes("192.0.2.0/24")},
	}.Complete()
	pooled := lease.Network{Name: "fields.pooled", VNI: 16777215, Port: 65535, Pools: []lease.Pool{
		{CIDR: netip.MustParsePrefix("10.2.0.0/16"), NodeSelector: map[string]string{"zone": "b"}}, {CIDR: netip.MustParsePrefix("fd02::/64")},
	}}.Complete()
	peer := lease.ExternalPeer{Name: "fields", Network: "fields", VTEP: full.VTEP, CIDRs: prefixes("10.3.0.0/16", "fd03::/48")}
	for key, value := range map[string]any{
		full.Key(): full, "leases/fields/10.1.3.0-24": leaseOf("fields", "n1", "10.1.3.0/24"),
		"networks/fields": plain, "networks/fields.pooled": pooled, "peers/fields": peer,
	} {
		if text := encode(t, value); key != full.Key() && key != "leases/fields/10.1.3.0-24" {
			complete(t, key, value, text)
		}
		roundTrip(t, c, key, encode(t, value))
	}
}

// complete: no field of the value is missing from its JSON for being empty.
func complete(t *testing.T, key string, value any, text []byte) {
	t.Helper()
	if key == "networks/fields.pooled" {
		return // it can't have all of the others'
	}
	v := reflect.ValueOf(value)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); v.Field(i).IsZero() && name != "pools" {
			t.Errorf("%s: this test has no value for %s of %s", key, f.Name, text)
		}
	}
}

// roundTrip creates, reads, lists, replaces and deletes a value.
func roundTrip(t *testing.T, c *kube.Store, key string, value []byte) {
	t.Helper()
	revision, err := c.Create(t.Context(), key, value)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := c.Create(t.Context(), key, value); !errors.Is(err, store.ErrExists) {
		t.Errorf("%s again: %v, want %v", key, err, store.ErrExists)
	}
	e, err := c.Get(t.Context(), key)
	must(t, err)
	sameJSON(t, e.Value, value)
	entries, _, err := c.List(t.Context(), key[:strings.LastIndexByte(key, '/')+1])
	must(t, err)
	at := slices.IndexFunc(entries, func(e store.Entry) bool { return e.Key == key })
	if at < 0 || entries[at].Revision != revision || e.Revision != revision || !bytes.Equal(entries[at].Value, e.Value) {
		t.Errorf("%s at %d is listed as %v", key, revision, entries)
	}
	if _, err := c.Update(t.Context(), key, value, revision-1); !errors.Is(err, store.ErrConflict) {
		t.Errorf("update %s at an old revision: %v, want %v", key, err, store.ErrConflict)
	}
	_, err = c.Update(t.Context(), key, value, revision)
	must(t, err)
	must(t, c.Delete(t.Context(), key, revision))
	if _, err := c.Get(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%s after its end: %v, want %v", key, err, store.ErrNotFound)
	}
}

func testDefaults(t *testing.T, s *kubetest.Server) {
	must(t, s.Apply(t.Context(), manifest(t, object("Network", "defaults", "{cidrs: [10.244.0.0/16], masquerade: {exclude: [10.0.0.0/8]}}"))))
	e, err := client(t, s, kube.Options{Kubeconfig: s.Admin()}).Get(t.Context(), "networks/defaults")
	must(t, err)
	sameJSON(t, e.Value, []byte(`{"name":"defaults","cidrs":["10.244.0.0/16"],"vni":4096,"port":4789,"masquerade":{"enabled":true,"exclude":["10.0.0.0/8"]}}`))
	var n lease.Network
	must(t, json.Unmarshal(e.Value, &n))
	n = n.Complete()
	must(t, n.Validate())
}

// testInvalid: what people write by hand is refused where it is wrong, by name.
func testInvalid(t *testing.T, s *kubetest.Server) {
	vtep := "vtep: {underlay: [192.0.2.1], mac: 0e:00:00:00:00:01}"
	for _, test := range []struct{ kind, name, spec, says string }{
		{"Network", "bad", "{}", "spec.cidrs: Invalid value: at least one CIDR is needed, here or in pools"},
		{"Network", "bad", "{cidrs: []}", "spec.cidrs: Invalid value"},
		{"Network", "bad", "{cidrs: [10.0.0.0]}", `spec.cidrs[0]: Invalid value: "10.0.0.0": is not a CIDR`},
		{"Network", "bad", "{cidrs: [10.0.0.0/33]}", `spec.cidrs[0]: Invalid value: "10.0.0.0/33": is not a CIDR`},
		{"Network", "bad", "{cidrs: ['::ffff:10.0.0.0/104']}", "is not a CIDR"},
		{"Network", "bad", "{cidrs: [10.0.0.0/8, 172.16.1.0/16]}", `spec.cidrs[1]: Invalid value: "172.16.1.0/16": has bits set`},
		{"Network", "bad", "{cidrs: [10.0.0.0/31]}", "spec.cidrs[0]: Invalid value: \"10.0.0.0/31\": is too small"},
		{"Network", "bad", "{cidrs: ['fd00::/127']}", "is too small"},
		{"Network", "bad", "{cidrs: [127.1.0.0/16]}", "pods can't have these addresses"},
		{"Network", "bad", "{cidrs: [0.0.0.0/0]}", "pods can't have these addresses"},
		{"Network", "bad", "{cidrs: ['ff02::/64']}", "pods can't have these addresses"},
		{"Network", "bad", "{cidrs: [10.0.0.0/8, 10.1.0.0/16]}", "spec.cidrs: Invalid value: two of them overlap"},
		{"Network", "bad", "{cidrs: [10.0.0.0/8, 10.0.0.0/8]}", "two of them overlap"},
		{"Network", "bad", "{cidrs: [10.0.0.0/8], vni: 0}", "spec.vni: Invalid value: 0"},
		{"Network", "bad", "{cidrs: [10.0.0.0/8], vni: 16777216}", "spec.vni: Invalid value: 16777216"},
		{"Network", "bad", "{cidrs: [10.0.0.0/8], vni: many}", "spec.vni: Invalid value: \"string\""},
		{"Network", "bad", "{cidrs: [10.0.0.0/8], port: 65536}", "spec.port: Invalid value: 65536"},
		{"Network", "bad", "{cidrs: [10.0.0.0/8], mtu: 575}", "spec.mtu: Invalid value: 575"},
		{"Network", "bad", "{cidrs: ['fd00::/48'], mtu: 1279}", "spec.mtu: Invalid value"},
		{"Network", "bad", "{cidrs: [10.0.0.0/16], blockLength: {ipv4: 15}}", "spec.blockLength: Invalid value"},
		{"Network", "bad", "{cidrs: ['fd00::/48'], blockLength: {ipv6: 47}}", "spec.blockLength: Invalid value"},
		{"Network", "bad", "{cidrs: [10.0.0.0/16], blockLength: {ipv4: 31}}", "spec.blockLength.ipv4: Invalid value: 31"},
		{"Network", "bad", "{cidrs: [10.0.0.0/16], windows: true, vni: 100}", "spec.vni: Invalid value"},
		{"Network", "bad", "{cidrs: [10.0.0.0/16], windows: true, blockLength: {ipv4: 30}}", "at most 29 where nodes of Windows"},
		{"Network", "bad", "{cidrs: [10.0.0.0/16], masquerade: {exclude: [10.0.0.1/8]}}", "spec.masquerade.exclude[0]: Invalid value: \"10.0.0.1/8\""},
		{"Network", "bad", "{cidrs: [10.0.0.0/16], masquerade: {disabled: true}}", `unknown field "spec.masquerade.disabled"`},
		{"Network", "bad", "{cidr: [10.0.0.0/16]}", `unknown field "spec.cidr"`},
		{"Network", "bad", "{pools: [{cidr: 10.0.0.0/31}]}", "spec.pools[0].cidr: Invalid value"},
		{"Network", "bad", "{pools: [{cidr: 10.0.0.0/16, blockLength: 15}]}", "spec.pools[0].blockLength: Invalid value"},
		{"Network", "bad", "{pools: [{cidr: 10.0.0.0/16, blockLength: 31}]}", "spec.pools[0].blockLength: Invalid value"},
		{"Network", "bad", "{pools: [{cidr: 10.0.0.0/16}, {cidr: 10.0.0.0/24}]}", "spec.pools: Invalid value"},
		{"Network", "bad", "{pools: [{cidr: 10.0.0.0/16}], cidrs: [10.1.0.0/16]}", "can't stand beside pools"},
		{"Network", "bad", "{pools: [{cidr: 10.0.0.0/16}], blockLength: {ipv4: 24}}", "is each pool's own"},
		{"Network", "bad", "{pools: [{cidr: 10.0.0.0/16}], podCIDRs: true}", "spec.podCIDRs: Invalid value"},
		{"Network", strings.Repeat("a", 64), "{cidrs: [10.0.0.0/16]}", "longer than the 63"},
		{"ExternalPeer", "bad", "{}", "spec.network: Required value"},
		{"ExternalPeer", "bad", "{network: Pods, cidrs: [10.9.0.0/24], " + vtep + "}", "spec.network: Invalid value: \"Pods\""},
		{"ExternalPeer", "bad", "{network: pods, cidrs: [], " + vtep + "}", "spec.cidrs: Invalid value"},
		{"ExternalPeer", "bad", "{network: pods, cidrs: [169.254.0.0/24], " + vtep + "}", "spec.cidrs[0]: Invalid value: \"169.254.0.0/24\""},
		{"ExternalPeer", "bad", "{network: pods, cidrs: [10.9.0.0/24], vtep: {underlay: [vm], mac: 0e:00:00:00:00:01}}", "spec.vtep.underlay[0]: Invalid value: \"vm\": is not an IP address"},
		{"ExternalPeer", "bad", "{network: pods, cidrs: [10.9.0.0/24], vtep: {underlay: [192.0.2.1, 192.0.2.2], mac: 0e:00:00:00:00:01}}", "two addresses are of one family"},
		{"ExternalPeer", "bad", "{network: pods, cidrs: [10.9.0.0/24], vtep: {underlay: [192.0.2.1], mac: 01:00:5e:00:00:01}}", "spec.vtep.mac: Invalid value: \"01:00:5e:00:00:01\": is not a unicast"},
		{"ExternalPeer", "bad", "{network: pods, cidrs: [10.9.0.0/24], vtep: {underlay: [192.0.2.1], mac: '00:00:00:00:00:00'}}", "is not a unicast"},
		{"BlockLease", "bad", "{network: pods, block: 10.244.3.0/24, node: n1, " + vtep + "}", "metadata.name must be pods.10.244.3.0-24 for this network and block"},
		{"BlockLease", "pods.10.244.3.1-24", "{network: pods, block: 10.244.3.1/24, node: n1, " + vtep + "}", "spec.block: Invalid value: \"10.244.3.1/24\": is not written as"},
		{"BlockLease", "pods.fd00-0---64", "{network: pods, block: 'fd00:0::/64', node: n1, " + vtep + "}", "is not written as"},
		{"BlockLease", "pods.10.244.3.0-24", "{network: pods, block: 10.244.3.0/24, node: n_1, " + vtep + "}", "spec.node: Invalid value"},
		{"BlockLease", "pods.10.244.3.0-24", "{network: pods, block: 10.244.3.0/24, node: n1}", "spec.vtep: Required value"},
		{"BlockLease", "pods.10.244.3.0-24", "{network: pods, block: 10.244.3.0/24, node: n1, expires: soon, " + vtep + "}", "spec.expires: Invalid value: \"soon\""},
		{"Record", "a", "{key: a}", "metadata.name is not the SHA-256 of a key"},
		{"Record", strings.Repeat("a", 64), "{key: /a}", "spec.key: Invalid value: \"/a\""},
		{"Record", strings.Repeat("a", 64), "{key: a/b/c}", "spec.prefix: Invalid value"},
		{"Record", strings.Repeat("a", 64), "{key: a/b/c, prefix: a}", "spec.prefix: Invalid value"},
		{"Record", strings.Repeat("a", 64), "{key: a, value: '-'}", "spec.value: Invalid value"},
	} {
		_, err := s.Kubectl(t.Context(), "create", "--dry-run=server", "--filename", manifest(t, object(test.kind, test.name, test.spec)))
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s %s: %v, want %q", test.kind, test.spec, err, test.says)
		}
	}
	for _, good := range []struct{ kind, name, spec string }{
		{"Network", "good", "{cidrs: [10.0.0.0/30, 'fd00::/126', 172.16.0.0/12], mtu: 1280, vni: 1, port: 1}"},
		{"Network", "good", "{cidrs: [10.0.0.0/29], windows: true, blockLength: {ipv4: 29}, podCIDRs: true}"},
		{"Network", "good", "{pools: [{cidr: 10.0.0.0/16, blockLength: 16, nodeSelector: {example.com/zone: ''}}, {cidr: 'fd00:0::/64', blockLength: 126}], mtu: 9000}"},
		{"ExternalPeer", "good", "{network: pods, cidrs: [10.9.0.0/32, 'fd00:9::/128'], vtep: {underlay: [192.0.2.1, '2001:db8::1'], mac: 0E:00:00:00:00:01}}"},
		{"BlockLease", "pods.fd00---64", "{network: pods, block: 'fd00::/64', node: n1.example.com, " + vtep + "}"},
	} {
		if _, err := s.Kubectl(t.Context(), "create", "--dry-run=server", "--filename", manifest(t, object(good.kind, good.name, good.spec))); err != nil {
			t.Errorf("%s: %v", good.spec, err)
		}
	}
}

// testImmutable: under the nodes that use it, a network changes in what is each
// node's own, and has more pools.
func testImmutable(t *testing.T, s *kubetest.Server) {
	must(t, s.Apply(t.Context(), manifest(t, object("Network", "steady", "{cidrs: [10.5.0.0/16], blockLength: {ipv4: 24}}"))))
	must(t, s.Apply(t.Context(), manifest(t, object("Network", "growing", "{pools: [{cidr: 10.6.0.0/16}]}"))))
	for _, test := range []struct{ name, spec, says string }{
		{"steady", "{cidrs: [10.5.0.0/16], blockLength: {ipv4: 24}, vni: 7}", "spec.vni: Invalid value"},
		{"steady", "{cidrs: [10.5.0.0/16], blockLength: {ipv4: 24}, port: 7}", "spec.port: Invalid value"},
		{"steady", "{cidrs: [10.5.0.0/16], blockLength: {ipv4: 25}}", "ipv4 can't change"},
		{"steady", "{cidrs: [10.5.0.0/16]}", "ipv4 can't change"},
		{"steady", "{cidrs: [10.5.0.0/16], blockLength: {ipv4: 24}, windows: true}", "windows can't change"},
		{"steady", "{cidrs: [10.5.0.0/16], blockLength: {ipv4: 24}, podCIDRs: true}", "podCIDRs can't change"},
		{"steady", "{cidrs: [10.7.0.0/16], blockLength: {ipv4: 24}}", "spec.cidrs: Invalid value"},
		{"steady", "{cidrs: [10.5.0.0/16, 10.7.0.0/16], blockLength: {ipv4: 24}}", "spec.cidrs: Invalid value"},
		{"steady", "{cidrs: [10.5.0.0/16], blockLength: {ipv4: 24, ipv6: 64}, mtu: 1400, masquerade: {enabled: false}, windows: false}", ""},
		{"growing", "{pools: [{cidr: 10.6.0.0/16}, {cidr: 10.7.0.0/16}]}", ""},
		{"growing", "{pools: [{cidr: 10.6.0.0/16, blockLength: 26}, {cidr: 10.7.0.0/16, blockLength: 26}], cidrs: [10.6.0.0/16, 10.7.0.0/16], blockLength: {}}", ""},
	} {
		_, err := s.Kubectl(t.Context(), "apply", "--filename", manifest(t, object("Network", test.name, test.spec)))
		if (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", test.spec, err, test.says)
		}
	}
}

// testValues: what isn't stored as it is isn't stored at all.
func testValues(t *testing.T, s *kubetest.Server) {
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	revision, err := c.Create(t.Context(), "networks/values", []byte(`{"name":"values","cidrs":["10.0.0.0/8"],"vni":4096,"port":4789}`))
	must(t, err)
	for value, says := range map[string]string{
		`{"name":"values","cidrs":["10.0.0.0/8"],"newer":1}`: `unknown field "spec.newer"`,
		`{"name":"values","cidrs":["10.0.0.1/8"]}`:           "spec.cidrs[0]",
		`{"name":"values","cidrs":["10.0.0.0/8"],"vni":-1}`:  "spec.vni",
		`{"name":"values","cidrs":["10.0.0.0/8"],"vni":7}`:   "spec.vni",
		`{"name":"other","cidrs":["10.0.0.0/8"],"vni":4096}`: `"other"`,
		`["a list"]`: "no JSON object",
		`{"name":"values","cidrs":null,"vni":4096,"port":47}`: "spec.",
	} {
		if _, err := c.Update(t.Context(), "networks/values", []byte(value), revision); !errors.Is(err, kube.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("update to %s: %v, want %q", value, err, says)
		}
	}
	if e, err := c.Get(t.Context(), "networks/values"); err != nil || e.Revision != revision {
		t.Errorf("%s at %d, %v", e.Value, e.Revision, err)
	}
}

// testColumns: kubectl get shows what matters.
func testColumns(t *testing.T, s *kubetest.Server) {
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	must(t, s.Apply(t.Context(), manifest(t, object("Network", "columns", `{cidrs: [10.244.0.0/16, "fd00:10:244::/48"]}`))))
	must(t, s.Apply(t.Context(), manifest(t, object("ExternalPeer", "columns", "{network: columns, cidrs: [10.9.0.0/24], vtep: {underlay: [192.0.2.9], mac: 0e:00:00:00:00:09}}"))))
	must(t, c.Report(t.Context(), "networks/columns", store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "4 nodes"}))
	for _, l := range []*lease.Lease{leaseOf("columns", "n1", "10.244.3.0/24"), leaseOf("columns", "n1", "fd00:10:244:3::/64")} {
		_, err := c.Create(t.Context(), l.Key(), encode(t, l))
		must(t, err)
	}
	var got strings.Builder
	for _, args := range [][]string{
		{"networks", "columns"}, {"externalpeers", "columns"},
		{"blockleases", "--selector", "overlay-cni.io/network=columns"},
		{"blockleases", "--field-selector", "spec.network=columns,spec.node=n1,spec.block=10.244.3.0/24", "--output", "name"},
	} {
		got.WriteString(kubectl(t, s, append([]string{"get"}, args...)...) + "\n")
	}
	text := regexp.MustCompile(` \d+s\n`).ReplaceAllString(got.String(), " AGE\n")
	text = regexp.MustCompile(` +`).ReplaceAllStringFunc(text, func(spaces string) string { return spaces[:min(len(spaces), 2)] })
	const golden = "testdata/columns.golden"
	if *update {
		must(t, os.WriteFile(golden, []byte(text), 0o600))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if text != string(want) {
		t.Errorf("kubectl shows\n%s\nwant\n%s", text, want)
	}
	for _, name := range []string{"network.overlay-cni.io/columns", "externalpeer.overlay-cni.io/columns", "blocklease.overlay-cni.io/columns.10.244.3.0-24"} {
		if all := kubectl(t, s, "get", "overlay", "--output", "name"); !strings.Contains(all, name+"\n") {
			t.Errorf("category overlay has no %s: %s", name, all)
		}
	}
}
