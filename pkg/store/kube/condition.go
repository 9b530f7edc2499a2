package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// reports is how often a condition is tried to be set. Each failed try means that
// somebody else has written something.
const reports = 10

// Report implements store.Reporter: it sets a condition in the status of a key's
// object. It writes nothing where the object says so already of what it now asks
// for: of all nodes, which see the same, the first one writes, and the others
// read. It makes a revision, as every change does.
func (s *Store) Report(ctx context.Context, key string, c store.Condition) error {
	what := fmt.Sprintf("report %s of %s", c.Type, key)
	k, name, err := s.locate(key)
	if err != nil {
		return err
	}
	if !k.hasStatus {
		return fmt.Errorf("%s: %w: a %s has no conditions", what, ErrInvalid, k.name)
	}
	for n := 1; ; n++ {
		o, err := s.get(ctx, k, name)
		if err == nil {
			err = s.report(ctx, k, o, c)
		}
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) || n == reports {
			return s.failed(ctx, what, name, err)
		}
	}
}

// report sets a condition of an object as it was read.
func (s *Store) report(ctx context.Context, k *kind, o *object, c store.Condition) error {
	conditions, changed := with(o.Status.Conditions, c, o.Metadata.Generation, s.now())
	if !changed {
		return nil
	}
	r := &request{method: http.MethodPatch, resource: k.resource, name: o.Metadata.Name, subresource: "status", query: writing(), contentType: mergePatch}
	r.body = map[string]any{
		"metadata": map[string]any{"resourceVersion": o.Metadata.ResourceVersion},
		"status":   map[string]any{"conditions": conditions},
	}
	return s.client.do(ctx, r, new(object))
}

// with returns conditions with one set, of an object's generation, and whether
// that changes anything. The time of the transition is that of the last change of
// the status.
func with(conditions []metav1.Condition, c store.Condition, generation int64, now time.Time) ([]metav1.Condition, bool) {
	want := metav1.Condition{
		Type: c.Type, Status: conditionStatus(c.Status), Reason: c.Reason, Message: c.Message,
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now.UTC().Truncate(time.Second)),
	}
	at := slices.IndexFunc(conditions, func(have metav1.Condition) bool { return have.Type == c.Type })
	if at < 0 {
		return append(slices.Clone(conditions), want), true
	}
	have := conditions[at]
	if have.Status == want.Status {
		want.LastTransitionTime = have.LastTransitionTime
	}
	if have == want {
		return conditions, false
	}
	conditions = slices.Clone(conditions)
	conditions[at] = want
	return conditions, true
}

func conditionStatus(is bool) metav1.ConditionStatus {
	if is {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}
