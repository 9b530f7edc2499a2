package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// A kind is one of ours.
type kind struct {
	name     string
	resource schema.GroupVersionResource
	// hasStatus says whether objects of it have conditions.
	hasStatus bool
	codec
}

// A codec knows which keys are stored as objects of a kind, and how.
type codec interface {
	// has says whether a key, or all below a prefix, is of the kind.
	has(key string) bool
	// fields is a selector of objects among which are all of a prefix.
	fields(prefix string) string
	// object is what the object of a key is called.
	object(key string) (name string, err error)
	// encode makes an object's content of a value that replaces that of a
	// revision, zero being none; decode is the way back.
	encode(key string, value []byte, replaces store.Revision) (content, error)
	decode(o *object) (key string, value []byte, err error)
}

// kinds are all of ours. A key is of the first that has it.
func kinds(owner func() Owner) []kind {
	return []kind{
		{"Network", resource("networks"), true, named{prefix: "networks/"}},
		{"ExternalPeer", resource("externalpeers"), true, named{prefix: "peers/"}},
		{"BlockLease", resource("blockleases"), false, blockLease{owner}},
		{"Record", resource("records"), false, record{}},
	}
}

func resource(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: Group, Version: Version, Resource: plural}
}

// find returns the kind of a key, or of all below a prefix that isn't empty.
func (s *Store) find(key string) *kind {
	last := len(s.kinds) - 1 // records: it has whatever the others don't
	for i := range s.kinds[:last] {
		if s.kinds[i].has(key) {
			return &s.kinds[i]
		}
	}
	return &s.kinds[last]
}

// locate returns the kind of a key, and what the key's object is called.
func (s *Store) locate(key string) (*kind, string, error) {
	if err := store.ValidateKey(key); err != nil {
		return nil, "", err
	}
	k := s.find(key)
	name, err := k.object(key)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %q can't be a %s: %w", store.ErrInvalidKey, key, k.name, err)
	}
	return k, name, nil
}

// below are the kinds that may have keys below a prefix.
func (s *Store) below(prefix string) []*kind {
	if prefix != "" {
		return []*kind{s.find(prefix)}
	}
	all := make([]*kind, len(s.kinds))
	for i := range s.kinds {
		all[i] = &s.kinds[i]
	}
	return all
}
