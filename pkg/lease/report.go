package lease

import (
	"context"
	"errors"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// ReportNetwork shows people who look into the store whether a network can be
// used, or why not; where the store shows nothing, it does nothing.
func (r *Registry) ReportNetwork(ctx context.Context, name string, problem error) error {
	return r.report(ctx, networkPrefix+name, problem)
}

// ReportPeer does the same for an external peer.
func (r *Registry) ReportPeer(ctx context.Context, name string, problem error) error {
	return r.report(ctx, peerPrefix+name, problem)
}

func (r *Registry) report(ctx context.Context, key string, problem error) error {
	s, ok := r.Store.(store.Reporter)
	if !ok {
		return nil
	}
	c := store.Condition{Type: store.Accepted, Status: problem == nil, Reason: "Accepted"}
	if problem != nil {
		c.Message, c.Reason = problem.Error(), "Invalid"
	}
	if errors.Is(problem, ErrConflict) {
		c.Reason = "Conflict"
	}
	return s.Report(ctx, key, c)
}
