package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// leases are the etcd leases of this client, one for each time to live: what it
// writes with one lives on with its next write.
type leases struct {
	mu   sync.Mutex
	byID map[time.Duration]clientv3.LeaseID
}

// expiring is a store whose changes expire.
type expiring struct {
	*Store
	ttl time.Duration
}

// Expiring implements store.Expirer, by an etcd lease. It isn't revoked when the
// store is closed: a daemon that restarts has lost nothing.
func (s *Store) Expiring(ttl time.Duration) store.Store { return &expiring{s, ttl} }

// Create implements store.Store.
func (s *expiring) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	lease, err := s.lease(ctx)
	if err != nil {
		return 0, err
	}
	return s.create(ctx, key, value, clientv3.WithLease(lease))
}

// Update implements store.Store.
func (s *expiring) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	lease, err := s.lease(ctx)
	if err != nil {
		return 0, err
	}
	return s.update(ctx, key, value, revision, clientv3.WithLease(lease))
}

// lease returns an etcd lease that has all its time to live before it.
func (s *expiring) lease(ctx context.Context) (clientv3.LeaseID, error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	bounded, cancel := s.bound(ctx)
	defer cancel()
	if id, ok := s.leases.byID[s.ttl]; ok {
		_, err := s.client.KeepAliveOnce(bounded, id)
		if err == nil {
			return id, nil
		}
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return 0, s.failed(ctx, "keep etcd lease", err)
		}
	}
	granted, err := s.client.Grant(bounded, int64(s.ttl/time.Second))
	if err != nil {
		return 0, s.failed(ctx, "get an etcd lease", err)
	}
	if s.leases.byID == nil {
		s.leases.byID = map[time.Duration]clientv3.LeaseID{}
	}
	s.leases.byID[s.ttl] = granted.ID
	return granted.ID, nil
}
