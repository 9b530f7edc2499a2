package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Watch implements store.Store. A connection that broke without a word is noticed
// after 45 seconds: client-go asks on a silent one after 30, and waits for 15.
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	if err := store.ValidatePrefix(prefix); err != nil {
		return err
	}
	what := "watch " + prefix
	one := oneByOne(fn)
	watches, ctx := errgroup.WithContext(ctx)
	for _, k := range s.below(prefix) {
		f := &following{what: what, resource: k.resource, fields: k.fields(prefix), take: func(t watch.EventType, o json.RawMessage) error {
			e, err := k.event(t, o)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if !strings.HasPrefix(e.Key, prefix) {
				return nil
			}
			return one(e)
		}}
		watches.Go(func() error { return s.follow(ctx, f, resourceVersion(after)) })
	}
	return watches.Wait()
}

// oneByOne calls a function for one event at a time, and for none after an error.
func oneByOne(fn func(store.Event) error) func(store.Event) error {
	var mu sync.Mutex
	var ended error
	return func(e store.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if ended == nil {
			ended = fn(e)
		}
		return ended
	}
}

// event is a change of an object.
func (k *kind) event(t watch.EventType, raw json.RawMessage) (store.Event, error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil {
		return store.Event{}, fmt.Errorf("decode %s: %w", k.name, err)
	}
	entry, err := k.entry(&o)
	e := store.Event{Entry: entry, Deleted: t == watch.Deleted}
	if e.Deleted {
		e.Value = nil
	}
	return e, err
}

// following is a watch that goes on where it broke.
type following struct {
	what     string
	resource schema.GroupVersionResource
	fields   string // selector
	// anew says to begin anew where the API server has forgotten what came
	// after the last change that was seen; otherwise that is the end.
	anew bool
	take func(watch.EventType, json.RawMessage) error
}

// anyVersion is the resourceVersion of a watch that begins with what is there, as
// far as the API server knows.
const anyVersion = "0"

// follow follows changes after a resourceVersion. The error is take's, or one
// that another attempt doesn't mend.
func (s *Store) follow(ctx context.Context, f *following, after string) error {
	return store.Resume(ctx, f.what, after, func(ctx context.Context, after string) (string, error) {
		seen, err := s.watch(ctx, f, after)
		if f.anew && errors.Is(err, store.ErrCompacted) {
			return anyVersion, nil
		}
		return seen, err
	})
}

// watch watches until it breaks, and returns the last resourceVersion that it has
// seen. An error is one that another attempt doesn't mend.
func (s *Store) watch(ctx context.Context, f *following, after string) (string, error) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel() // ends the watch at the API server
	query := url.Values{"watch": {"true"}, "resourceVersion": {after}}
	if after != anyVersion {
		// Bookmarks tell of progress now and then, so that a watch of what
		// doesn't change doesn't go on from a revision that is compacted. One
		// of what is there can't have them with an etcd before 3.4.25.
		query.Set("allowWatchBookmarks", "true")
	}
	if f.fields != "" {
		query.Set("fieldSelector", f.fields)
	}
	late := time.AfterFunc(s.client.timeout, cancel)
	response, err := s.client.send(watching, &request{method: http.MethodGet, resource: f.resource, query: query})
	late.Stop()
	if err != nil {
		return after, s.hopeless(ctx, f.what, err)
	}
	defer func() { _ = response.Body.Close() }()
	for events := json.NewDecoder(response.Body); ; {
		var e struct {
			Type   watch.EventType
			Object json.RawMessage
		}
		if err := events.Decode(&e); err != nil {
			return after, nil // it is over, and the next goes on
		}
		if e.Type == watch.Error {
			return after, s.hopeless(ctx, f.what, asError(e.Object))
		}
		if e.Type != watch.Bookmark {
			if err := f.take(e.Type, e.Object); err != nil {
				return after, err
			}
		}
		after = versionOf(e.Object, after)
	}
}

// asError reads the status with which the API server ends a watch.
func asError(raw json.RawMessage) error {
	var s metav1.Status
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("decode the end of a watch: %w", err)
	}
	return &apierrors.StatusError{ErrStatus: s}
}

// versionOf returns an object's resourceVersion, or where it has none another.
func versionOf(raw json.RawMessage, otherwise string) string {
	var o struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if json.Unmarshal(raw, &o) != nil || o.Metadata.ResourceVersion == "" {
		return otherwise
	}
	return o.Metadata.ResourceVersion
}
