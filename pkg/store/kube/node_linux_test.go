package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/kubetest"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
)

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// testReport: of many that say the same, one writes.
func testReport(t *testing.T, s *kubetest.Server) {
	config, _ := account(t, s)
	must(t, s.Apply(t.Context(), manifest(t, object("Network", "report", "{cidrs: [10.244.0.0/16]}"))))
	before := current(t, client(t, s, kube.Options{Kubeconfig: config}), "networks/report")
	accepted := store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "ok"}
	reported := func(c store.Condition) (generation int64, conditions []map[string]any) {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := client(t, s, kube.Options{Kubeconfig: config}).Report(t.Context(), "networks/report", c); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		var o struct {
			Metadata struct{ Generation int64 }
			Status   struct{ Conditions []map[string]any }
		}
		must(t, json.Unmarshal([]byte(kubectl(t, s, "get", "network", "report", "--output", "json")), &o))
		return o.Metadata.Generation, o.Status.Conditions
	}
	written := func() int {
		events := 0
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := client(t, s, kube.Options{Kubeconfig: config})
		last := current(t, c, "networks/report")
		err := c.Watch(ctx, "networks/", before, func(e store.Event) error {
			if e.Key == "networks/report" {
				events++
			}
			if e.Key == "networks/report" && e.Revision >= last {
				return context.Canceled
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		return events
	}
	generation, conditions := reported(accepted)
	if len(conditions) != 1 || conditions[0]["status"] != "True" || conditions[0]["observedGeneration"] != float64(generation) || conditions[0]["message"] != "ok" {
		t.Errorf("conditions are %v at generation %d", conditions, generation)
	}
	if n := written(); n != 1 {
		t.Errorf("of 20 that said the same, %d wrote", n)
	}
	since := conditions[0]["lastTransitionTime"]
	kubectl(t, s, "patch", "network", "report", "--type", "merge", "--patch", `{"spec":{"mtu":1400}}`)
	if generation, conditions = reported(accepted); conditions[0]["observedGeneration"] != float64(generation) || generation != 2 || conditions[0]["lastTransitionTime"] != since {
		t.Errorf("conditions are %v at generation %d", conditions, generation)
	}
	if n := written(); n != 3 { // the first, the patch, and one of the others
		t.Errorf("there were %d changes", n)
	}
	c := client(t, s, kube.Options{Kubeconfig: config})
	must(t, c.Report(t.Context(), "networks/report", store.Condition{Type: "Other", Reason: "No", Message: "no"}))
	if _, conditions = reported(accepted); len(conditions) != 2 {
		t.Errorf("conditions are %v", conditions)
	}
	if err := c.Report(t.Context(), "networks/none", accepted); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of no network: %v, want %v", err, store.ErrNotFound)
	}
	if err := c.Report(t.Context(), "networks/report", store.Condition{Type: store.Accepted}); !errors.Is(err, kube.ErrInvalid) || !strings.Contains(err.Error(), "reason") {
		t.Errorf("without a reason: %v", err)
	}
	for _, key := range []string{"a", "leases/pods/10.0.0.0-24"} {
		if err := c.Report(t.Context(), key, accepted); !errors.Is(err, kube.ErrInvalid) {
			t.Errorf("of %s: %v, want %v", key, err, kube.ErrInvalid)
		}
	}
}

// newNode creates a Node, which the API server taints as no kubelet does.
func newNode(t testing.TB, s *kubetest.Server, name, spec string) {
	t.Helper()
	must(t, s.Apply(t.Context(), manifest(t, fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: %s, labels: {zone: b}}, spec: %s}", name, spec))))
}

func testNode(t *testing.T, s *kubetest.Server) {
	config, _ := account(t, s)
	c := client(t, s, kube.Options{Kubeconfig: config})
	if _, err := c.Node(t.Context(), "nobody"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no node: %v, want %v", err, store.ErrNotFound)
	}
	if err := c.SetNetworkAvailable(t.Context(), "nobody", true, "R", "m"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no node: %v, want %v", err, store.ErrNotFound)
	}
	newNode(t, s, "node-a", `{podCIDR: 10.244.3.0/24, podCIDRs: [10.244.3.0/24, "fd00:10:244:3::/64"]}`)
	n, err := c.Node(t.Context(), "node-a")
	if err != nil || n.UID == "" || n.Labels["zone"] != "b" || !slices.Equal(n.PodCIDRs, prefixes("10.244.3.0/24", "fd00:10:244:3::/64")) {
		t.Errorf("%+v, %v", n, err)
	}
	newNode(t, s, "node-b", "{}")
	if n, err := c.Node(t.Context(), "node-b"); err != nil || n.PodCIDRs != nil {
		t.Errorf("%+v, %v", n, err)
	}
	must(t, s.Apply(t.Context(), manifest(t, "{apiVersion: v1, kind: Node, metadata: {name: node-c}}")))
	kubectl(t, s, "patch", "node", "node-c", "--subresource", "status", "--patch", `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`)
	type condition struct{ Type, Status, Reason, Message, LastTransitionTime string }
	look := func() (version string, conditions []condition) {
		var o struct {
			Metadata struct{ ResourceVersion string }
			Status   struct{ Conditions []condition }
		}
		must(t, json.Unmarshal([]byte(kubectl(t, s, "get", "node", "node-c", "--output", "json")), &o))
		return o.Metadata.ResourceVersion, o.Status.Conditions
	}
	var version string
	for i, step := range []struct {
		available      bool
		message, want  string
		writes, single bool
	}{
		{false, "not yet", "True", true, false}, {false, "not yet", "True", false, false},
		{false, "still not", "True", true, false}, {true, "there", "False", true, false}, {true, "there", "False", false, false},
	} {
		must(t, c.SetNetworkAvailable(t.Context(), "node-c", step.available, "Overlay", step.message))
		now, conditions := look()
		at := slices.IndexFunc(conditions, func(c condition) bool { return c.Type == "NetworkUnavailable" })
		if len(conditions) != 2 || at < 0 || conditions[at].Status != step.want || conditions[at].Message != step.message || conditions[at].LastTransitionTime == "" {
			t.Errorf("step %d: conditions are %v", i, conditions)
		}
		if (now != version) != step.writes {
			t.Errorf("step %d: resourceVersion %s after %s", i, now, version)
		}
		version = now
	}
}

// testWatchNode: a Node is told when it comes and when it changes, another never,
// and what we don't know of it neither.
func testWatchNode(t *testing.T, s *kubetest.Server) {
	config, _ := account(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan kube.Node), make(chan error, 1)
	c := client(t, s, kube.Options{Kubeconfig: config})
	go func() {
		ended <- c.WatchNode(ctx, "watched", func(n kube.Node) error {
			select {
			case told <- n:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	next := func() kube.Node {
		t.Helper()
		select {
		case n := <-told:
			return n
		case err := <-ended:
			t.Fatalf("the watch has ended: %v", err)
		case <-time.After(patience):
			t.Fatalf("nothing told within %s", patience)
		}
		return kube.Node{}
	}
	newNode(t, s, "watched-not", "{podCIDR: 10.244.9.0/24, podCIDRs: [10.244.9.0/24]}")
	newNode(t, s, "watched", "{}")
	first := next()
	if first.UID == "" || first.PodCIDRs != nil || first.Labels["zone"] != "b" {
		t.Errorf("first: %+v", first)
	}
	kubectl(t, s, "annotate", "node", "watched", "note=x")
	kubectl(t, s, "patch", "node", "watched", "--patch", `{"spec":{"podCIDR":"10.244.8.0/24","podCIDRs":["10.244.8.0/24"]}}`)
	if n := next(); n.UID != first.UID || !slices.Equal(n.PodCIDRs, prefixes("10.244.8.0/24")) {
		t.Errorf("with a CIDR: %+v", n)
	}
	kubectl(t, s, "label", "node", "watched", "zone=c", "--overwrite")
	if n := next(); n.Labels["zone"] != "c" {
		t.Errorf("with another label: %+v", n)
	}
	kubectl(t, s, "delete", "node", "watched")
	newNode(t, s, "watched", "{}")
	if n := next(); n.UID == first.UID || n.PodCIDRs != nil {
		t.Errorf("a new one: %+v", n)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	enough := errors.New("enough")
	if err := client(t, s, kube.Options{Kubeconfig: config}).WatchNode(t.Context(), "watched", func(kube.Node) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("%v, want %v", err, enough)
	}
}

// testRights: what the daemon's account may do, and what it may not.
func testRights(t *testing.T, s *kubetest.Server) {
	const us = "system:serviceaccount:overlay-cni:overlayd"
	for _, test := range []struct {
		may    bool
		verbs  string
		things string
	}{
		{true, "get list watch create patch delete", "networks.overlay-cni.io blockleases.overlay-cni.io records.overlay-cni.io"},
		{false, "update deletecollection", "networks.overlay-cni.io blockleases.overlay-cni.io records.overlay-cni.io externalpeers.overlay-cni.io"},
		{true, "get list watch", "externalpeers.overlay-cni.io"},
		{false, "create patch delete", "externalpeers.overlay-cni.io"},
		{true, "patch", "networks.overlay-cni.io/status externalpeers.overlay-cni.io/status nodes/status"},
		{false, "update", "nodes/status"},
		{true, "get watch", "nodes"},
		{false, "list create update patch delete", "nodes"},
		{false, "get list watch create update patch delete", "secrets pods configmaps services serviceaccounts nodes/proxy"},
		{false, "create", "pods/exec serviceaccounts/token customresourcedefinitions.apiextensions.k8s.io clusterroles.rbac.authorization.k8s.io"},
		{false, "impersonate", "users"},
	} {
		for verb := range strings.FieldsSeq(test.verbs) {
			for thing := range strings.FieldsSeq(test.things) {
				resource, sub, _ := strings.Cut(thing, "/")
				out, err := s.Kubectl(t.Context(), "auth", "can-i", verb, resource, "--subresource", sub, "--all-namespaces", "--as", us)
				if answer := strings.TrimSpace(out); (answer == "yes") != test.may || answer != "yes" && answer != "no" {
					t.Errorf("%s %s: %q, %v", verb, thing, answer, err)
				}
			}
		}
	}
}

// testForbidden: who may nothing is told so at once, with verb and resource.
func testForbidden(t *testing.T, s *kubetest.Server) {
	c := client(t, s, kube.Options{Kubeconfig: s.Kubeconfig("nobody")})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, getErr := c.Get(ctx, "networks/pods")
	_, _, listErr := c.List(ctx, "leases/pods/")
	_, createErr := c.Create(ctx, "a", nil)
	_, updateErr := c.Update(ctx, "a", nil, 1)
	_, nodeErr := c.Node(ctx, "n1")
	for says, err := range map[string]error{
		`cannot get resource "networks" in API group "overlay-cni.io"`: getErr,
		`cannot list resource "blockleases"`:                           listErr,
		`cannot create resource "records"`:                             createErr,
		`cannot patch resource "records"`:                              updateErr,
		`cannot delete resource "records"`:                             c.Delete(ctx, "a", 1),
		`cannot watch resource "externalpeers"`:                        c.Watch(ctx, "peers/", 1, ignore),
		`cannot get resource "nodes"`:                                  nodeErr,
		`cannot watch resource "nodes"`:                                c.WatchNode(ctx, "n1", func(kube.Node) error { return nil }),
		`get resource "networks"`:                                      c.Report(ctx, "networks/pods", store.Condition{Type: store.Accepted, Reason: "R"}),
	} {
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), `"nobody"`) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}
