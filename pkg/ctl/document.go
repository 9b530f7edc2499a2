package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"sigs.k8s.io/yaml"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// document is one object of a file that is to be applied.
type document struct {
	// place is where it stands in the file, before what is said of it; "" where
	// it is the only one.
	place string
	// name that stands outside of the specification; "": it is within.
	name     string
	spec     []byte // JSON
	warnings []string
}

// readDocuments reads YAML or JSON: one object, several documents, or a list. An
// object is a specification with its name, or one in the shape of Kubernetes'.
func readDocuments(in io.Reader, kind string) ([]document, error) {
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	objects, err := split(data)
	if err != nil {
		return nil, err
	}
	if len(objects) == 0 {
		return nil, errors.New("read objects: there is none")
	}
	all := make([]document, len(objects))
	for i, o := range objects {
		d := &all[i]
		if len(objects) > 1 {
			d.place = fmt.Sprintf("object %d: ", i+1)
		}
		if err := d.read(o, kind); err != nil {
			return nil, fmt.Errorf("%s%w", d.place, err)
		}
	}
	return all, nil
}

// split returns a file's objects as JSON.
func split(data []byte) ([]json.RawMessage, error) {
	if objects, err := splitJSON(data); err == nil {
		return objects, nil
	}
	var objects []json.RawMessage
	for i, text := range regexp.MustCompile(`(?m)^---(?:[ \t].*)?$`).Split(string(data), -1) {
		read, err := yaml.YAMLToJSONStrict([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("read YAML document %d: %w", i+1, err)
		}
		found, err := splitJSON(read)
		if err != nil {
			return nil, fmt.Errorf("read YAML document %d: %w", i+1, err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// splitJSON reads values one after the other; those of a list are its items, and
// null is none.
func splitJSON(data []byte) ([]json.RawMessage, error) {
	var objects []json.RawMessage
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var value json.RawMessage
		if err := d.Decode(&value); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		var items []json.RawMessage
		if bytes.Equal(value, []byte("null")) {
			continue
		}
		if json.Unmarshal(value, &items) != nil {
			items = []json.RawMessage{value}
		}
		objects = append(objects, items...)
	}
}

// read tells the shapes of objects apart.
func (d *document) read(object json.RawMessage, kind string) error {
	var o struct {
		APIVersion *string `json:"apiVersion"`
		Kind       *string `json:"kind"`
		Metadata   struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return fmt.Errorf("read object: %w", err)
	}
	if o.APIVersion == nil && o.Kind == nil {
		d.spec = object
		return nil
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	switch {
	case text(o.APIVersion) != apiVersion:
		return lease.Invalid("apiVersion", text(o.APIVersion), "must be %s", apiVersion)
	case text(o.Kind) != kind:
		return lease.Invalid("kind", text(o.Kind), "must be %s here", kind)
	case o.Metadata.Name == "":
		return lease.Invalid("metadata.name", "", "is missing")
	case len(o.Spec) == 0:
		return lease.Invalid("spec", "", "is missing")
	}
	d.name, d.spec = o.Metadata.Name, o.Spec
	return nil
}

// within names fields by where they stand in the object.
func (d *document) within(err error) error {
	var f *lease.FieldError
	if d.name == "" || !errors.As(err, &f) {
		return err
	}
	prefix := "spec."
	if f.Field == "name" {
		prefix = "metadata."
	}
	return &lease.FieldError{Field: prefix + f.Field, Value: f.Value, Problem: f.Problem}
}
