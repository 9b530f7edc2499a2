package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Watch implements store.Store. The client goes on by itself where a connection
// broke; what it doesn't, such as a member that lost its leader, is tried again
// here.
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	if err := store.ValidatePrefix(prefix); err != nil {
		return err
	}
	return store.Resume(ctx, "watch "+prefix, after, func(ctx context.Context, after store.Revision) (store.Revision, error) {
		return s.watch(ctx, prefix, after, fn)
	})
}

// watch watches until it breaks, and returns the last revision that it has
// seen. An error is one that another attempt doesn't mend.
func (s *Store) watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) (store.Revision, error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel() // ends the watch at the server
	// Progress is told of now and then, so that a prefix where nothing happens
	// doesn't go on from a revision that is compacted.
	responses := s.client.Watch(ctx, s.key(prefix), clientv3.WithPrefix(), clientv3.WithRev(int64(after)+1),
		clientv3.WithProgressNotify(), clientv3.WithFragment())
	for r := range responses {
		if err := r.Err(); errors.Is(err, rpctypes.ErrCompacted) {
			return after, fmt.Errorf("watch %s after revision %d: %w: the oldest is %d", prefix, after, store.ErrCompacted, r.CompactRevision)
		} else if err != nil {
			return after, s.hopeless(ctx, "watch "+prefix, err)
		}
		for _, e := range r.Events {
			if err := fn(s.event(e)); err != nil {
				return after, err
			}
			after = store.Revision(e.Kv.ModRevision)
		}
		if r.IsProgressNotify() {
			after = max(after, store.Revision(r.Header.Revision))
		}
	}
	return after, nil
}
