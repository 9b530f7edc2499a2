package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// writing is how objects are written: a field that the API server doesn't know,
// because its resource definitions are older than we are, is an error, and not
// dropped.
func writing() url.Values {
	return url.Values{"fieldManager": {"overlay-cni"}, "fieldValidation": {"Strict"}}
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, value []byte) (store.Revision, error) {
	what := "create " + key
	k, name, c, err := s.prepare(what, store.Entry{Key: key, Value: value})
	if err != nil {
		return 0, err
	}
	return s.write(ctx, what, &request{
		method: http.MethodPost, resource: k.resource, query: writing(), contentType: plain,
		body: &newObject{
			APIVersion: k.resource.GroupVersion().String(), Kind: k.name, Spec: c.spec,
			Metadata: newMetadata{Name: name, Labels: c.labels, OwnerReferences: c.owners},
		},
	}, name)
}

// prepare makes what is to be written of a new value of a key, and of the
// revision that it replaces.
func (s *Store) prepare(what string, e store.Entry) (*kind, string, content, error) {
	k, name, err := s.locate(e.Key)
	if err != nil {
		return nil, "", content{}, err
	}
	if len(e.Value) > store.MaxValueLength {
		return nil, "", content{}, fmt.Errorf("%s: value of %d bytes is above the limit of %d", what, len(e.Value), store.MaxValueLength)
	}
	c, err := k.encode(e.Key, e.Value, e.Revision)
	if err != nil {
		return nil, "", content{}, fmt.Errorf("%s: %w", what, err)
	}
	return k, name, c, nil
}

// write makes a request that changes an object, and returns the change's
// revision.
func (s *Store) write(ctx context.Context, what string, r *request, name string) (store.Revision, error) {
	var o object
	if err := s.client.do(ctx, r, &o); err != nil {
		return 0, s.failed(ctx, what, name, err)
	}
	at, err := revision(o.Metadata.ResourceVersion)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return at, nil
}

// operation is one of a JSON patch (RFC 6902). To add what is there replaces it.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func add(path string, value any) operation { return operation{Op: "add", Path: path, Value: value} }

// Update implements store.Store. It is one request, which replaces the spec and
// what follows from it, and nothing else: labels, annotations and status of
// others stay. The resourceVersion that it writes is the one that the object must
// have.
func (s *Store) Update(ctx context.Context, key string, value []byte, revision store.Revision) (store.Revision, error) {
	what := "update " + key
	k, name, c, err := s.prepare(what, store.Entry{Key: key, Value: value, Revision: revision})
	if err != nil {
		return 0, err
	}
	r := &request{method: http.MethodPatch, resource: k.resource, name: name, query: writing(), contentType: jsonPatch}
	r.body = append(c.patch(revision), addLabels(c.labels)...)
	at, err := s.write(ctx, what, r, name)
	if err != nil && len(c.labels) > 0 && isInapplicable(err) {
		// Somebody has taken all labels off, so that none can be added to them.
		r.body = append(c.patch(revision), add("/metadata/labels", c.labels))
		at, err = s.write(ctx, what, r, name)
	}
	return at, err
}

// patch replaces all but the labels of an object that has a revision.
func (c *content) patch(revision store.Revision) []operation {
	all := []operation{add("/metadata/resourceVersion", resourceVersion(revision)), add("/spec", c.spec)}
	if c.owners != nil {
		all = append(all, add("/metadata/ownerReferences", c.owners))
	}
	return all
}

// addLabels adds labels to those that an object has.
func addLabels(labels map[string]string) []operation {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	var all []operation
	for label, value := range labels {
		all = append(all, add("/metadata/labels/"+escape.Replace(label), value))
	}
	return all
}

// isInapplicable says whether a patch could not be applied to what an object has.
// Otherwise, what is invalid is an object, with a name.
func isInapplicable(err error) bool {
	s, ok := status(err)
	return ok && apierrors.IsInvalid(err) && (s.Details == nil || s.Details.Name == "")
}

// deletion says how an object is deleted.
type deletion struct {
	APIVersion        string `json:"apiVersion"`
	Kind              string `json:"kind"`
	PropagationPolicy string `json:"propagationPolicy"`
	Preconditions     struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"preconditions"`
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, revision store.Revision) error {
	what := "delete " + key
	k, name, err := s.locate(key)
	if err != nil {
		return err
	}
	d := &deletion{APIVersion: "v1", Kind: "DeleteOptions", PropagationPolicy: "Background"}
	d.Preconditions.ResourceVersion = resourceVersion(revision)
	// The answer is the object where it stays for a while, otherwise a Status.
	var o struct {
		object
		Status json.RawMessage `json:"status"`
	}
	r := &request{method: http.MethodDelete, resource: k.resource, name: name, contentType: plain, body: d}
	if err := s.client.do(ctx, r, &o); err != nil {
		return s.failed(ctx, what, name, err)
	}
	if waits := o.Metadata.Finalizers; len(waits) > 0 {
		return fmt.Errorf("%s: it is still there, until its finalizers %v are removed", what, waits)
	}
	return nil
}
