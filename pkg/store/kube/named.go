package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// named is the codec of objects that are called as their values' "name", which
// the spec doesn't repeat.
type named struct{ prefix string }

func (n named) has(key string) bool    { return strings.HasPrefix(key, n.prefix) }
func (n named) fields(string) string   { return "" }
func (n named) key(name string) string { return n.prefix + name }

func (n named) object(key string) (string, error) {
	name := strings.TrimPrefix(key, n.prefix)
	if wrong := validation.IsDNS1123Subdomain(name); wrong != nil {
		return "", errors.New(wrong[0])
	}
	return name, nil
}

func (n named) encode(key string, value []byte, _ store.Revision) (content, error) {
	fields, err := decodeFields(value)
	if err != nil {
		return content{}, err
	}
	var name string
	if raw, ok := fields["name"]; ok {
		if err := json.Unmarshal(raw, &name); err != nil {
			return content{}, fmt.Errorf("%w: the value's name: %w", ErrInvalid, err)
		}
	}
	if n.key(name) != key {
		return content{}, fmt.Errorf("%w: the value's name is %q, which is not that of %s", ErrInvalid, name, key)
	}
	delete(fields, "name")
	spec, err := json.Marshal(fields)
	return content{spec: spec}, err
}

func (n named) decode(o *object) (string, []byte, error) {
	fields, err := decodeFields(o.Spec)
	if err != nil {
		return "", nil, err
	}
	if fields["name"], err = json.Marshal(o.Metadata.Name); err != nil {
		return "", nil, err
	}
	value, err := json.Marshal(fields)
	return n.key(o.Metadata.Name), value, err
}
