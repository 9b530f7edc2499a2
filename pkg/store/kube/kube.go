// Package kube is the store on the Kubernetes API: networks, leases and external
// peers are objects that kubectl shows (scripts/kubernetes/crds.yaml), and what
// else is stored is a Record.
//
// A revision is an object's resourceVersion, and every change is one request that
// the API server refuses where that is another by now. All our kinds are in one
// etcd, whose revisions they have, so that those of several kinds can be
// compared; Kubernetes promises since 1.35 that a kind's own can, which it always
// did. A listing is never older than the request, and a watch goes on by itself
// where it broke.
//
// The API server doesn't write what changes nothing. An Update of a Network,
// BlockLease or ExternalPeer that does so returns the revision that there was.
package kube

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Group and Version of our kinds.
const (
	Group   = "overlay-cni.io"
	Version = "v1alpha1"
)

// DefaultRequestTimeout is that of Options.
const DefaultRequestTimeout = 10 * time.Second

// ErrInvalid says that an object can't be what is asked for. The message names
// the field, whether it is this package's or the API server's.
var ErrInvalid = errors.New("object is invalid")

// Options say where the API server is.
type Options struct {
	// Kubeconfig is the path of a kubeconfig; "": the service account of the
	// pod that this runs in, whose token is read anew as it is renewed.
	Kubeconfig string
	// Context is the kubeconfig's context; "": its current one.
	Context string
	// Owner, where set, makes the leases of that node depend on its Node:
	// Kubernetes removes them when the Node is removed.
	Owner Owner
	// RequestTimeout is how long a request may take, with all attempts; zero:
	// DefaultRequestTimeout. A watch lasts as long as its context.
	RequestTimeout time.Duration
	// UserAgent is how we call ourselves; "": as Kubernetes' clients do.
	UserAgent string
	// Dial connects to the API server; nil: as usual.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Owner is a Node.
type Owner struct {
	Node string
	UID  types.UID
}

// Store is a store on the Kubernetes API.
type Store struct {
	client *client
	kinds  []kind
	owner  atomic.Pointer[Owner]
	now    func() time.Time
}

var _ store.Reporter = (*Store)(nil)

// Open returns the store. Nothing is asked of the API server yet.
func Open(o Options) (*Store, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	c, err := newClient(config, o.RequestTimeout)
	if err != nil {
		return nil, err
	}
	s := &Store{client: c, now: time.Now}
	s.kinds = kinds(s.ownerNow)
	s.SetOwner(o.Owner)
	return s, nil
}

// SetOwner changes Options.Owner, for leases written from now on: a Node that was
// removed and comes back has another UID.
func (s *Store) SetOwner(o Owner) { s.owner.Store(&o) }

func (s *Store) ownerNow() Owner { return *s.owner.Load() }

// Close closes connections that aren't in use. Requests and watches end with
// their contexts.
func (s *Store) Close() error {
	utilnet.CloseIdleConnectionsFor(s.client.http.Transport)
	return nil
}
