package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// record is the codec of what has no kind of its own: the object is called after
// a digest of the key.
type record struct{}

// recordFields are those of a Record.
type recordFields struct {
	Key string `json:"key"`
	// Prefix is what a key of more than two segments begins with, so that a
	// listing of "addresses/pods/" is sent those alone.
	Prefix string `json:"prefix,omitempty"`
	Value  []byte `json:"value,omitempty"`
	// Replaces is the revision that an update replaced. It makes every update
	// a change, and so a revision, also where the value is as it was.
	Replaces store.Revision `json:"replaces,omitempty"`
}

func (record) has(string) bool { return true }

func (record) fields(prefix string) string {
	if p := recordPrefix(prefix); p != "" {
		return "spec.prefix=" + p
	}
	return ""
}

// recordPrefix is that of a key, or of all keys below a prefix; "" where there is
// none, or they may have several.
func recordPrefix(key string) string {
	segments := strings.SplitN(key, "/", 3)
	if len(segments) < 3 {
		return ""
	}
	return segments[0] + "/" + segments[1]
}

func recordName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func (record) object(key string) (string, error) { return recordName(key), nil }

func (record) encode(key string, value []byte, replaces store.Revision) (content, error) {
	spec, err := json.Marshal(recordFields{Key: key, Prefix: recordPrefix(key), Value: value, Replaces: replaces})
	return content{spec: spec}, err
}

func (record) decode(o *object) (string, []byte, error) {
	var f recordFields
	if err := json.Unmarshal(o.Spec, &f); err != nil {
		return "", nil, err
	}
	if name := recordName(f.Key); name != o.Metadata.Name {
		return "", nil, fmt.Errorf("it is about key %q, whose object is %s", f.Key, name)
	}
	return f.Key, f.Value, nil
}
