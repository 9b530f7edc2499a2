package kube_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab/kubetest"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
)

// What an update changes of an object, and what it leaves.

// metadata is what a test looks at.
type metadata struct {
	Labels, Annotations map[string]string
	OwnerReferences     []struct{ Kind, Name, UID string }
	Generation          int64
}

// look reads an object as it is.
func look(t testing.TB, s *kubetest.Server, resource, name string) (metadata, map[string]any) {
	t.Helper()
	var o struct {
		Metadata metadata
		Spec     map[string]any
	}
	must(t, json.Unmarshal([]byte(kubectl(t, s, "get", resource, name, "--output", "json")), &o))
	return o.Metadata, o.Spec
}

// create creates a lease, of an account without a Node.
func create(t testing.TB, c *kube.Store, l *lease.Lease) store.Revision {
	t.Helper()
	revision, err := c.Create(t.Context(), l.Key(), encode(t, l))
	must(t, err)
	return revision
}

// current is the revision of a key.
func current(t testing.TB, c *kube.Store, key string) store.Revision {
	t.Helper()
	e, err := c.Get(t.Context(), key)
	must(t, err)
	return e.Revision
}

func testForeignFields(t *testing.T, s *kubetest.Server) {
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	l := leaseOf("foreign", "n1", "10.244.3.0/24")
	create(t, c, l)
	const name = "foreign.10.244.3.0-24"
	kubectl(t, s, "label", "blockleases", name, "team=a")
	kubectl(t, s, "annotate", "blockleases", name, "note=b")
	ours := map[string]string{"overlay-cni.io/network": "foreign", "overlay-cni.io/node": "n2", "team": "a"}
	l.Node = "n2"
	_, err := c.Update(t.Context(), l.Key(), encode(t, l), current(t, c, l.Key()))
	must(t, err)
	if m, spec := look(t, s, "blockleases", name); !maps.Equal(m.Labels, ours) || m.Annotations["note"] != "b" || spec["node"] != "n2" {
		t.Errorf("%+v, %v, want labels %v", m, spec, ours)
	}
	// Without any label, none can be added to them.
	kubectl(t, s, "label", "blockleases", name, "team-", "overlay-cni.io/network-", "overlay-cni.io/node-")
	l.Node = "n3"
	_, err = c.Update(t.Context(), l.Key(), encode(t, l), current(t, c, l.Key()))
	must(t, err)
	delete(ours, "team")
	ours["overlay-cni.io/node"] = "n3"
	if m, spec := look(t, s, "blockleases", name); !maps.Equal(m.Labels, ours) || m.Annotations["note"] != "b" || spec["node"] != "n3" {
		t.Errorf("%+v, %v, want labels %v", m, spec, ours)
	}
	kubectl(t, s, "label", "blockleases", name, "overlay-cni.io/network-", "overlay-cni.io/node-")
	if _, err = c.Update(t.Context(), l.Key(), encode(t, l), 1); !errors.Is(err, store.ErrConflict) {
		t.Errorf("update without labels, at an old revision: %v, want %v", err, store.ErrConflict)
	}
	if entries, _, err := c.List(t.Context(), "leases/foreign/"); err != nil || len(entries) != 1 {
		t.Errorf("without its labels it is listed as %v, %v", entries, err)
	}
}

// testRemovedFields: an update replaces, and doesn't merge: also what kubectl has
// written.
func testRemovedFields(t *testing.T, s *kubetest.Server) {
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	l := leaseOf("removed", "n1", "10.244.3.0/24")
	l.Index, l.Notice = 3, &lease.Notice{Node: "n2", At: l.Expires}
	revision := create(t, c, l)
	l.Index, l.Notice, l.Instance = 0, nil, ""
	_, err := c.Update(t.Context(), l.Key(), encode(t, l), revision)
	must(t, err)
	e, err := c.Get(t.Context(), l.Key())
	must(t, err)
	sameJSON(t, e.Value, encode(t, l))

	must(t, s.Apply(t.Context(), manifest(t, object("Network", "removed", "{pools: [{cidr: 10.8.0.0/16}, {cidr: 10.9.0.0/16}], mtu: 1400, masquerade: {enabled: false}}"))))
	want := []byte(`{"name":"removed","cidrs":["10.8.0.0/16"],"pools":[{"cidr":"10.8.0.0/16","blockLength":26}],"vni":4096,"port":4789,"blockLength":{}}`)
	_, err = c.Update(t.Context(), "networks/removed", want, current(t, c, "networks/removed"))
	must(t, err)
	e, err = c.Get(t.Context(), "networks/removed")
	must(t, err)
	sameJSON(t, e.Value, want)
}

// testOwners: a lease goes with its node's Node, and never with that of the node
// that had it before.
func testOwners(t *testing.T, s *kubetest.Server) {
	nobody := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	first := client(t, s, kube.Options{Kubeconfig: s.Admin(), Owner: kube.Owner{Node: "n1", UID: "uid-1"}})
	second := client(t, s, kube.Options{Kubeconfig: s.Admin(), Owner: kube.Owner{Node: "n2", UID: "uid-2"}})
	l := leaseOf("owners", "n1", "10.244.3.0/24")
	revision := create(t, first, l)
	for i, step := range []struct {
		name  string
		by    *kube.Store
		node  string
		owner string // "": none
	}{
		{"a notice of another", second, "n1", "n1 uid-1"},
		{"renewed", first, "n1", "n1 uid-1"},
		{"taken over", second, "n2", "n2 uid-2"},
		{"taken over by one without a Node", nobody, "n3", ""},
		{"taken back", first, "n1", "n1 uid-1"},
	} {
		l.Node, l.Index = step.node, i+1 // so that it changes
		var err error
		revision, err = step.by.Update(t.Context(), l.Key(), encode(t, l), revision)
		must(t, err)
		m, _ := look(t, s, "blockleases", "owners.10.244.3.0-24")
		var owners []string
		for _, o := range m.OwnerReferences {
			owners = append(owners, o.Name+" "+o.UID)
		}
		var want []string
		if step.owner != "" {
			want = []string{step.owner}
		}
		if !slices.Equal(owners, want) {
			t.Errorf("%s: owners %v, want %v", step.name, owners, want)
		}
	}
}

// testSame: the API server doesn't write what changes nothing, except for a
// Record, which says what it replaces.
func testSame(t *testing.T, s *kubetest.Server) {
	c := client(t, s, kube.Options{Kubeconfig: s.Admin()})
	l := leaseOf("same", "n1", "10.244.3.0/24")
	revision := create(t, c, l)
	if same, err := c.Update(t.Context(), l.Key(), encode(t, l), revision); err != nil || same != revision {
		t.Errorf("a lease has revision %d, %v, want %d", same, err, revision)
	}
	revision, err := c.Create(t.Context(), "same/record", []byte("x"))
	must(t, err)
	for range 3 {
		next, err := c.Update(t.Context(), "same/record", []byte("x"), revision)
		if err != nil || next <= revision {
			t.Errorf("a record has revision %d, %v, after %d", next, err, revision)
		}
		revision = next
	}
}

// testGone: who loses a race against the end of a key is told that it has changed
// or is gone, whatever the API server makes of it; and nothing else.
func testGone(t *testing.T, s *kubetest.Server) {
	clients := []*kube.Store{client(t, s, kube.Options{Kubeconfig: s.Admin()}), client(t, s, kube.Options{Kubeconfig: s.Admin()})}
	for i := range 30 {
		l := leaseOf("gone", "n1", fmt.Sprintf("10.244.%d.0/24", i))
		revision := create(t, clients[0], l)
		var won sync.Map
		var racers sync.WaitGroup
		for n := range 6 {
			c, l := clients[n%2], *l
			l.Index = n + 1
			racers.Go(func() {
				var err error
				if n%3 == 0 {
					err = c.Delete(t.Context(), l.Key(), revision)
				} else {
					_, err = c.Update(t.Context(), l.Key(), encode(t, &l), revision)
				}
				if err == nil {
					won.Store(n, true)
				} else if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
			})
		}
		racers.Wait()
		winners := 0
		won.Range(func(any, any) bool { winners++; return true })
		if winners != 1 {
			t.Errorf("%d won a race for %s", winners, l.Key())
		}
		_, err := clients[0].Get(t.Context(), l.Key())
		if _, again := clients[0].Update(t.Context(), l.Key(), encode(t, l), revision); err != nil && !errors.Is(again, store.ErrNotFound) || err == nil && !errors.Is(again, store.ErrConflict) {
			t.Errorf("%s, of which %v is told: update: %v", l.Key(), err, again)
		}
	}
}
