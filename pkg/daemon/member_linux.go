package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
)

// member is what a Kubernetes cluster knows of the node, and is told of it. A
// machine that isn't one of its Nodes, such as a VM, is a node of ours all the
// same.
type member struct {
	store *kube.Store
	name  string
	log   *slog.Logger

	mu    sync.Mutex
	known bool
	node  kube.Node // zero where there is none
}

// Reasons of the condition NetworkUnavailable.
const (
	reasonReady    = "OverlayReady"
	reasonNotReady = "OverlayNotReady"
)

// meet returns the Node, which is asked for once; it is watched from then on.
func (m *member) meet(ctx context.Context) (kube.Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known {
		return m.node, nil
	}
	n, err := m.store.Node(ctx, m.name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return kube.Node{}, err
	}
	if err != nil {
		m.log.Info("the cluster has no Node of this name", "node", m.name)
	}
	m.learn(n)
	return n, nil
}

// learn takes a Node over. What the node leases goes with it.
func (m *member) learn(n kube.Node) {
	m.node, m.known = n, true
	if n.UID != "" {
		m.store.SetOwner(kube.Owner{Node: m.name, UID: n.UID})
	}
}

// watch calls changed when the cluster changed what it knows of the node.
func (m *member) watch(ctx context.Context, changed func()) error {
	return m.store.WatchNode(ctx, m.name, func(n kube.Node) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.learn(n)
		changed()
		return nil
	})
}

// announce says in the Node's status whether its pods have a network.
func (m *member) announce(ctx context.Context, ready bool, reason string) error {
	word, message := reasonReady, "overlayd serves all networks"
	if !ready {
		word, message = reasonNotReady, reason
	}
	if err := m.store.SetNetworkAvailable(ctx, m.name, ready, word, message); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil // none of the cluster's Nodes
}
