package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Node is what we need to know of a Kubernetes Node.
type Node struct {
	UID types.UID
	// PodCIDRs are what the cluster has allocated to it, if it does.
	PodCIDRs []netip.Prefix
	Labels   map[string]string
}

func (n *Node) equal(other *Node) bool {
	return n.UID == other.UID && slices.Equal(n.PodCIDRs, other.PodCIDRs) && maps.Equal(n.Labels, other.Labels)
}

// nodeObject is a Node as it is read.
type nodeObject struct {
	Metadata struct {
		UID    types.UID         `json:"uid"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []netip.Prefix `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Conditions []nodeCondition `json:"conditions"`
	} `json:"status"`
}

func (o *nodeObject) node() Node {
	return Node{UID: o.Metadata.UID, PodCIDRs: o.Spec.PodCIDRs, Labels: o.Metadata.Labels}
}

// nodeCondition is one of a Node's status.
type nodeCondition struct {
	Type    string                 `json:"type"`
	Status  metav1.ConditionStatus `json:"status"`
	Reason  string                 `json:"reason"`
	Message string                 `json:"message"`
	// LastHeartbeatTime is when it was written, LastTransitionTime when it
	// became so.
	LastHeartbeatTime  metav1.Time `json:"lastHeartbeatTime"`
	LastTransitionTime metav1.Time `json:"lastTransitionTime"`
}

func nodes() schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
}

// Node returns a Node; the error is store.ErrNotFound where there is none.
func (s *Store) Node(ctx context.Context, name string) (Node, error) {
	o, err := s.nodeObject(ctx, name)
	if err != nil {
		return Node{}, s.failed(ctx, "get node "+name, name, err)
	}
	return o.node(), nil
}

func (s *Store) nodeObject(ctx context.Context, name string) (*nodeObject, error) {
	var o nodeObject
	err := s.client.do(ctx, &request{method: http.MethodGet, resource: nodes(), name: name}, &o)
	return &o, err
}

// WatchNode calls fn with a Node as it is, and whenever something that Node holds
// has changed. It waits for one that isn't there, or no longer. It blocks until
// ctx ends (and returns its error), fn returns an error (and returns that) or the
// API server refuses it. Only this Node is sent.
func (s *Store) WatchNode(ctx context.Context, name string, fn func(Node) error) error {
	var last Node
	f := &following{what: "watch node " + name, resource: nodes(), fields: "metadata.name=" + name, anew: true}
	f.take = func(t watch.EventType, raw json.RawMessage) error {
		var o nodeObject
		if err := json.Unmarshal(raw, &o); err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
		n := o.node()
		if t == watch.Deleted || n.equal(&last) {
			return nil
		}
		last = n
		return fn(n)
	}
	return s.follow(ctx, f, anyVersion)
}

// SetNetworkAvailable says in a Node's status, by its condition
// NetworkUnavailable, whether pods on it have a network: the scheduler sends none
// where they don't. It writes nothing where the Node says so already.
func (s *Store) SetNetworkAvailable(ctx context.Context, name string, available bool, reason, message string) error {
	what := "set NetworkUnavailable of node " + name
	o, err := s.nodeObject(ctx, name)
	if err != nil {
		return s.failed(ctx, what, name, err)
	}
	now := metav1.NewTime(s.now().UTC().Truncate(time.Second))
	want := nodeCondition{
		Type: "NetworkUnavailable", Status: conditionStatus(!available), Reason: reason, Message: message,
		LastHeartbeatTime: now, LastTransitionTime: now,
	}
	for _, have := range o.Status.Conditions {
		if have.Type != want.Type || have.Status != want.Status {
			continue
		}
		if have.Reason == reason && have.Message == message {
			return nil
		}
		want.LastTransitionTime = have.LastTransitionTime
	}
	// Conditions are merged by their type.
	r := &request{method: http.MethodPatch, resource: nodes(), name: name, subresource: "status", contentType: strategicPatch}
	r.body = map[string]any{"status": map[string]any{"conditions": []nodeCondition{want}}}
	if err := s.client.do(ctx, r, new(nodeObject)); err != nil {
		return s.failed(ctx, what, name, err)
	}
	return nil
}
