package kube

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// object is one as it is read: of its metadata only what is needed, for there are
// many, and most of them is who changed what when.
type object struct {
	Metadata struct {
		Name            string    `json:"name"`
		UID             types.UID `json:"uid"`
		ResourceVersion string    `json:"resourceVersion"`
		Generation      int64     `json:"generation"`
		// CreationTimestamp is to the second.
		CreationTimestamp time.Time `json:"creationTimestamp,omitzero"`
		Finalizers        []string  `json:"finalizers"`
	} `json:"metadata"`
	Spec   json.RawMessage `json:"spec"`
	Status struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

// objectList is a page of a listing.
type objectList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []object `json:"items"`
}

// newObject is one to be created.
type newObject struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   newMetadata     `json:"metadata"`
	Spec       json.RawMessage `json:"spec"`
}

type newMetadata struct {
	Name            string            `json:"name"`
	Labels          map[string]string `json:"labels,omitempty"`
	OwnerReferences []ownerReference  `json:"ownerReferences,omitempty"`
}

type ownerReference struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
}

// content is what a kind makes of a value.
type content struct {
	spec json.RawMessage
	// labels that go with it, besides others that the object may have.
	labels map[string]string
	// owners replace those that the object has, unless they are nil.
	owners []ownerReference
}

// revision reads a resourceVersion.
func revision(resourceVersion string) (store.Revision, error) {
	r, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion %q is no number", resourceVersion)
	}
	return store.Revision(r), nil
}

// resourceVersion is the way back. No object has that of etcd's first revision,
// which is that of an empty etcd; to the API server, zero means any.
func resourceVersion(r store.Revision) string { return strconv.FormatInt(max(int64(r), 1), 10) }

// entry is an object as an entry.
func (k *kind) entry(o *object) (store.Entry, error) {
	r, err := revision(o.Metadata.ResourceVersion)
	if err == nil {
		var key string
		var value []byte
		if key, value, err = k.decode(o); err == nil {
			return store.Entry{Key: key, Value: value, Revision: r, Created: o.Metadata.CreationTimestamp.Unix()}, nil
		}
	}
	return store.Entry{}, fmt.Errorf("%w: %s %s: %w", store.ErrCorrupt, k.name, o.Metadata.Name, err)
}

// decodeFields reads a value that has to be a JSON object.
func decodeFields(value []byte) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(value, &fields); err != nil {
		return nil, fmt.Errorf("%w: the value is no JSON object: %w", ErrInvalid, err)
	}
	if fields == nil {
		return nil, fmt.Errorf("%w: the value is no JSON object, but null", ErrInvalid)
	}
	return fields, nil
}
