package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// entry is a key with its value.
func (s *Store) entry(kv *mvccpb.KeyValue) store.Entry {
	return store.Entry{
		Key: strings.TrimPrefix(string(kv.Key), s.prefix), Value: kv.Value, Revision: store.Revision(kv.ModRevision),
		Created: kv.CreateRevision,
	}
}

// event is a change of a key.
func (s *Store) event(e *clientv3.Event) store.Event {
	event := store.Event{Entry: s.entry(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete}
	if event.Deleted {
		event.Value = nil
	}
	return event
}

// failed says what a request was about. The caller's own reason to end it comes
// before what the client makes of it.
func (s *Store) failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		return fmt.Errorf("%s: none of etcd's endpoints %s answered within %s: %w", what, strings.Join(s.client.Endpoints(), ", "), s.timeout, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// hopeless returns an error of a watch that another attempt doesn't mend: one
// about who may do what. A watch that the server ends has its reason as text.
func (s *Store) hopeless(ctx context.Context, what string, err error) error {
	for _, one := range []error{
		rpctypes.ErrPermissionDenied, rpctypes.ErrAuthNotEnabled, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed,
	} {
		if strings.Contains(err.Error(), one.Error()) {
			return s.failed(ctx, what, one)
		}
	}
	return nil
}
