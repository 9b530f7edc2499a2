package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

const (
	// page is how many objects are asked for at once.
	page = 500
	// listings is how often a listing is begun anew whose moment the API
	// server has forgotten before it was complete.
	listings = 5
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	what := "get " + key
	k, name, err := s.locate(key)
	if err != nil {
		return store.Entry{}, err
	}
	o, err := s.get(ctx, k, name)
	if err != nil {
		return store.Entry{}, s.failed(ctx, what, name, err)
	}
	e, err := k.entry(o)
	if err != nil {
		return store.Entry{}, fmt.Errorf("%s: %w", what, err)
	}
	return e, nil
}

func (s *Store) get(ctx context.Context, k *kind, name string) (*object, error) {
	var o object
	err := s.client.do(ctx, &request{method: http.MethodGet, resource: k.resource, name: name}, &o)
	return &o, err
}

// List implements store.Store. Of each kind it is one request for each 500
// objects; and of the kinds after the first, as they were when that was listed.
func (s *Store) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	if err := store.ValidatePrefix(prefix); err != nil {
		return nil, 0, err
	}
	for n := 1; ; n++ {
		entries, at, err := s.list(ctx, prefix)
		if err == nil {
			slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
			return entries, at, nil
		}
		if !apierrors.IsResourceExpired(err) || n == listings {
			return nil, 0, s.failed(ctx, "list "+prefix, "", err)
		}
	}
}

// list lists all kinds that a prefix has, as they are at one moment.
func (s *Store) list(ctx context.Context, prefix string) (entries []store.Entry, at store.Revision, err error) {
	for _, k := range s.below(prefix) {
		if entries, at, err = s.appendKind(ctx, entries, k, prefix, at); err != nil {
			return nil, 0, err
		}
	}
	return entries, at, nil
}

// appendKind appends what of a kind a prefix has; at is the moment that is wanted,
// zero being now, and returned.
func (s *Store) appendKind(ctx context.Context, entries []store.Entry, k *kind, prefix string, at store.Revision) ([]store.Entry, store.Revision, error) {
	query := url.Values{"limit": {strconv.Itoa(page)}}
	if fields := k.fields(prefix); fields != "" {
		query.Set("fieldSelector", fields)
	}
	if at != 0 {
		query.Set("resourceVersion", resourceVersion(at))
		query.Set("resourceVersionMatch", "Exact")
	}
	for {
		var l objectList
		err := s.client.do(ctx, &request{method: http.MethodGet, resource: k.resource, query: query}, &l)
		if err != nil {
			return nil, 0, err
		}
		if at, err = revision(l.Metadata.ResourceVersion); err != nil {
			return nil, 0, err
		}
		for i := range l.Items {
			e, err := k.entry(&l.Items[i])
			if err != nil {
				return nil, 0, err
			}
			if strings.HasPrefix(e.Key, prefix) {
				entries = append(entries, e)
			}
		}
		if l.Metadata.Continue == "" {
			return entries, at, nil
		}
		query.Set("continue", l.Metadata.Continue) // which says the moment
		query.Del("resourceVersion")
		query.Del("resourceVersionMatch")
	}
}
