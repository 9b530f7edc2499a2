package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// failed says what a request was about, for the object of a name if for any, and
// which of package store's errors it is. The caller's own reason to end it comes
// before what the client makes of it.
func (s *Store) failed(ctx context.Context, what, name string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: API server %s hasn't answered within %s: %w", what, s.client.base.Host, s.client.timeout, err)
	}
	if known := meaning(name, err); known != nil {
		return fmt.Errorf("%s: %w: %w", what, known, err)
	}
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: %w; are our resources defined (scripts/kubernetes/crds.yaml)?", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// meaning is what an answer of the API server is to those who use a store; nil:
// nothing that they know.
func meaning(name string, err error) error {
	switch {
	case apierrors.IsAlreadyExists(err):
		return store.ErrExists
	case apierrors.IsConflict(err):
		return store.ErrConflict
	case apierrors.IsNotFound(err) && isAbout(name, err):
		return store.ErrNotFound
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		return store.ErrCompacted
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		return ErrInvalid
	}
	return nil
}

// isAbout says whether an answer names the object. Where it doesn't, it isn't the
// object that can't be found, but all of its kind.
func isAbout(name string, err error) bool {
	s, ok := status(err)
	return ok && name != "" && s.Details != nil && s.Details.Name == name && !isUnexpected(s)
}

// isUnexpected says whether the answer isn't what API servers answer with.
func isUnexpected(s *metav1.Status) bool {
	for _, c := range s.Details.Causes {
		if c.Type == metav1.CauseTypeUnexpectedServerResponse {
			return true
		}
	}
	return false
}

// status returns an answer's, where there was one.
func status(err error) (*metav1.Status, bool) {
	var s *apierrors.StatusError
	if !errors.As(err, &s) {
		return nil, false
	}
	return &s.ErrStatus, true
}

// hopeless returns an error of a watch that another attempt doesn't mend: the API
// server has refused it, and not because it is busy.
func (s *Store) hopeless(ctx context.Context, what string, err error) error {
	answer, ok := status(err)
	if !ok || answer.Code >= http.StatusInternalServerError || answer.Code == http.StatusTooManyRequests || answer.Code == http.StatusRequestTimeout {
		return nil
	}
	return s.failed(ctx, what, "", err)
}
