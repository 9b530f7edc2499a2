package local

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// The file of a key is a frame of a header line, the value, and a line feed
// that keeps a terminal tidy:
//
//	9a0b1c2d entry 42 network/pods/lease/10.244.3.0-24
//	{"node":"a"}

// encodeEntry is the file of an entry.
func encodeEntry(entry store.Entry) []byte {
	body := fmt.Appendf(nil, "entry %d %s\n", entry.Revision, entry.Key)
	body = append(body, entry.Value...)
	return seal(append(body, '\n'))
}

// decodeEntry reads the file of an entry. It accepts exactly what encodeEntry
// writes.
func decodeEntry(data []byte) (store.Entry, error) {
	body, err := unseal(data)
	if err != nil {
		return store.Entry{}, err
	}
	header, rest, _ := bytes.Cut(body, []byte{'\n'})
	fields := strings.Split(string(header), " ")
	if len(fields) != 3 || fields[0] != "entry" {
		return store.Entry{}, fmt.Errorf("header %.80q is not that of an entry", header)
	}
	revision, err := parseRevision(fields[1])
	if err != nil {
		return store.Entry{}, err
	}
	if revision == 0 {
		return store.Entry{}, errors.New("revision is zero")
	}
	if err := store.ValidateKey(fields[2]); err != nil {
		return store.Entry{}, err
	}
	value, ok := bytes.CutSuffix(rest, []byte{'\n'})
	if !ok {
		return store.Entry{}, errors.New("value has no end")
	}
	return store.Entry{Key: fields[2], Value: bytes.Clone(value), Revision: store.Revision(revision)}, nil
}
