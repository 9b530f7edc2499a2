package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	return s.create(ctx, key, value)
}

func (s *Store) create(ctx context.Context, key string, value []byte, options ...clientv3.OpOption) (store.Revision, error) {
	what := "create " + key
	if err := validate(what, key, value); err != nil {
		return 0, err
	}
	r, err := s.swap(ctx, what, key, 0, clientv3.OpPut(s.key(key), string(value), options...))
	if err != nil {
		return 0, err
	}
	if !r.Succeeded {
		return 0, fmt.Errorf("%s: %w", what, store.ErrExists)
	}
	return store.Revision(r.Header.Revision), nil
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	return s.update(ctx, key, value, revision)
}

func (s *Store) update(ctx context.Context, key string, value []byte, revision store.Revision, options ...clientv3.OpOption) (store.Revision, error) {
	what := "update " + key
	if err := validate(what, key, value); err != nil {
		return 0, err
	}
	return s.change(ctx, what, key, revision, clientv3.OpPut(s.key(key), string(value), options...))
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, revision store.Revision) error {
	what := "delete " + key
	if err := store.ValidateKey(key); err != nil {
		return err
	}
	_, err := s.change(ctx, what, key, revision, clientv3.OpDelete(s.key(key)))
	return err
}

// change does something to a key that has a revision.
func (s *Store) change(ctx context.Context, what, key string, revision store.Revision, op clientv3.Op) (store.Revision, error) {
	if revision <= 0 {
		revision = -1 // etcd's zero is a key that isn't there; no key has this one
	}
	r, err := s.swap(ctx, what, key, revision, op)
	if err != nil {
		return 0, err
	}
	if r.Succeeded {
		return store.Revision(r.Header.Revision), nil
	}
	if found := r.Responses[0].GetResponseRange(); len(found.GetKvs()) > 0 {
		return 0, fmt.Errorf("%s: %w: it has revision %d, not %d", what, store.ErrConflict, found.Kvs[0].ModRevision, revision)
	}
	return 0, fmt.Errorf("%s: %w", what, store.ErrNotFound)
}

// swap does something to a key if its revision is the given one, zero being a
// key that isn't there; otherwise it looks at the key.
func (s *Store) swap(ctx context.Context, what, key string, revision store.Revision, op clientv3.Op) (*clientv3.TxnResponse, error) {
	bounded, cancel := s.bound(ctx)
	defer cancel()
	r, err := s.client.Txn(bounded).
		If(clientv3.Compare(clientv3.ModRevision(s.key(key)), "=", int64(revision))).
		Then(op).
		Else(clientv3.OpGet(s.key(key), clientv3.WithKeysOnly())).
		Commit()
	if err != nil {
		return nil, s.failed(ctx, what, err)
	}
	return r, nil
}

// validate checks what is to be written.
func validate(what, key string, value []byte) error {
	if err := store.ValidateKey(key); err != nil {
		return err
	}
	if len(value) > store.MaxValueLength {
		return fmt.Errorf("%s: value of %d bytes is above the limit of %d", what, len(value), store.MaxValueLength)
	}
	return nil
}
