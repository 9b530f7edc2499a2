// Package etcd is the store on an etcd (v3): what several machines share.
//
// A key is an etcd key below a prefix, a revision is etcd's own, and every
// change is one transaction that compares and swaps. So the promises of package
// store are those of etcd; only what etcd leaves to its clients is here: asking
// another member when one has no leader, going on with a watch where it broke,
// and waiting longer from attempt to attempt.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Defaults of Options.
const (
	DefaultPrefix         = "/overlay-cni/"
	DefaultRequestTimeout = 10 * time.Second
)

// keepAlive is how long a connection may be silent until it is probed, and how
// long the answer may take: a member that vanished without a word is noticed.
const keepAlive = 5 * time.Second

// Options say where the etcd is.
type Options struct {
	// Endpoints are the URLs of its members, such as https://10.0.0.1:2379.
	Endpoints []string
	// Prefix of all keys; "": DefaultPrefix. It begins and ends with a slash.
	// Clusters with prefixes of their own share an etcd.
	Prefix string
	// TLS is used when the endpoints have https.
	TLS TLS
	// Username and Password, where the etcd has authentication on.
	Username, Password string
	// RequestTimeout is how long a request may take, with all attempts; zero:
	// DefaultRequestTimeout. A watch lasts as long as its context.
	RequestTimeout time.Duration
	// Dial connects to a member's host and port; nil: as usual.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Store is a store on an etcd.
type Store struct {
	client  *clientv3.Client
	prefix  string
	timeout time.Duration
	leases  leases
}

var _ store.Expirer = (*Store)(nil)

// Open returns the store. Nothing is asked of the etcd yet, except for a token
// where there is a user name.
func Open(o Options) (*Store, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	config := clientv3.Config{
		Endpoints:            o.Endpoints,
		DialTimeout:          o.RequestTimeout,
		DialKeepAliveTime:    keepAlive,
		DialKeepAliveTimeout: keepAlive,
		Username:             o.Username,
		Password:             o.Password,
		Logger:               zap.NewNop(), // what goes wrong is returned
	}
	var err error
	if config.TLS, err = o.TLS.config(); err != nil {
		return nil, err
	}
	if o.Dial != nil {
		config.DialOptions = append(config.DialOptions, grpc.WithContextDialer(o.Dial))
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("open etcd %s: %w", strings.Join(o.Endpoints, ", "), err)
	}
	return &Store{client: client, prefix: o.Prefix, timeout: o.RequestTimeout}, nil
}

// Close ends all requests and watches.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd: %w", err)
	}
	return nil
}

// bound gives a request its time.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(clientv3.WithRequireLeader(ctx), s.timeout)
}

// key returns a key as etcd has it.
func (s *Store) key(key string) string { return s.prefix + key }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := store.ValidateKey(key); err != nil {
		return store.Entry{}, err
	}
	bounded, cancel := s.bound(ctx)
	defer cancel()
	r, err := s.client.Get(bounded, s.key(key))
	if err != nil {
		return store.Entry{}, s.failed(ctx, "get "+key, err)
	}
	if len(r.Kvs) == 0 {
		return store.Entry{}, fmt.Errorf("get %s: %w", key, store.ErrNotFound)
	}
	return s.entry(r.Kvs[0]), nil
}

// List implements store.Store. It is one request, whatever the number of
// entries.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	if err := store.ValidatePrefix(prefix); err != nil {
		return nil, 0, err
	}
	bounded, cancel := s.bound(ctx)
	defer cancel()
	r, err := s.client.Get(bounded, s.key(prefix), clientv3.WithPrefix())
	if err != nil {
		return nil, 0, s.failed(ctx, "list "+prefix, err)
	}
	entries := make([]store.Entry, len(r.Kvs))
	for i, kv := range r.Kvs {
		entries[i] = s.entry(kv)
	}
	return entries, store.Revision(r.Header.Revision), nil
}
