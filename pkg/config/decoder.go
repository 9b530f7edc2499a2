// Package config turns what users and runtimes write (JSON) into validated
// values. A mistake is a *lease.FieldError that names the field and its value;
// a field that nobody knows is a warning.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// decoder reads the fields of one JSON object. The first mistake sticks.
type decoder struct {
	path     string // of the object, "" or ending with a dot
	fields   map[string]json.RawMessage
	warnings *[]string
	err      error
}

// decode starts with a whole document.
func decode(data []byte, warnings *[]string) *decoder {
	d := &decoder{warnings: warnings}
	if err := json.Unmarshal(data, &d.fields); err != nil {
		d.err = &SyntaxError{Err: err, Text: excerpt(data, err)}
	}
	return d
}

// SyntaxError says that the text isn't JSON, or not an object.
type SyntaxError struct {
	Err  error
	Text string // around the place
}

// Error implements error.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("malformed JSON at %q: %v", e.Text, e.Err)
}

// Unwrap returns the JSON package's own error.
func (e *SyntaxError) Unwrap() error { return e.Err }

func excerpt(data []byte, err error) string {
	const around = 20
	at := len(data)
	switch e := err.(type) { //nolint:errorlint // json returns these unwrapped
	case *json.SyntaxError:
		at = int(e.Offset)
	case *json.UnmarshalTypeError:
		at = int(e.Offset)
	}
	return string(data[max(0, at-around):min(len(data), at+around)])
}

// take removes a field from the object. ok is false when it's absent or null.
func (d *decoder) take(name string) (raw json.RawMessage, ok bool) {
	if d.err != nil {
		return nil, false
	}
	raw, ok = d.fields[name]
	delete(d.fields, name)
	return raw, ok && !bytes.Equal(raw, []byte("null"))
}

// field decodes one field; what says what it should have been.
func field[T any](d *decoder, name, what string, into *T) bool {
	raw, ok := d.take(name)
	if !ok {
		return false
	}
	if err := json.Unmarshal(raw, into); err != nil {
		d.fail(name, raw, "is not %s", what)
		return false
	}
	return true
}

func (d *decoder) fail(name string, raw []byte, problem string, args ...any) {
	if d.err == nil {
		d.err = lease.Invalid(d.path+name, strings.Trim(string(raw), `"`), problem, args...)
	}
}

// object starts reading a field that is an object itself.
func (d *decoder) object(name string) (*decoder, bool) { return d.objectOf(name, "an object") }

// objectOf does so; what says what the object should have been.
func (d *decoder) objectOf(name, what string) (*decoder, bool) {
	raw, ok := d.take(name)
	if !ok {
		return nil, false
	}
	sub := &decoder{path: d.path + name + ".", warnings: d.warnings}
	if err := json.Unmarshal(raw, &sub.fields); err != nil {
		d.fail(name, raw, "is not %s", what)
		return nil, false
	}
	return sub, true
}

// texts decodes an object of strings.
func (d *decoder) texts(name string) map[string]string {
	sub, ok := d.objectOf(name, "an object of strings")
	if !ok {
		return nil
	}
	texts := make(map[string]string, len(sub.fields))
	for _, key := range slices.Sorted(maps.Keys(sub.fields)) {
		raw := sub.fields[key]
		var text string
		if !field(sub, key, "a string", &text) {
			sub.fail(key, raw, "is not a string") // null
		}
		texts[key] = text
	}
	d.join(sub.err)
	return texts
}

// finish returns the first mistake, or warns about the fields left over.
func (d *decoder) finish(known ...string) error {
	if d.err != nil {
		return d.err
	}
	var unknown []string
	for name := range d.fields {
		if !slices.Contains(known, name) && !strings.HasPrefix(name, "cni.dev/") {
			unknown = append(unknown, d.path+name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		*d.warnings = append(*d.warnings, fmt.Sprintf("unknown field %q is ignored", name))
	}
	return nil
}

// join takes over the result of reading an inner object.
func (d *decoder) join(err error) {
	if d.err == nil {
		d.err = err
	}
}

// number decodes an integer within limits.
func (d *decoder) number(name string, least, most int64) (int64, bool) {
	var n json.Number
	raw, ok := d.fields[name]
	if !field(d, name, "a number", &n) || !ok {
		return 0, false
	}
	v, err := n.Int64()
	if err != nil || v < least || v > most || bytes.HasPrefix(raw, []byte(`"`)) {
		d.fail(name, raw, "must be a number within %d..%d", least, most)
		return 0, false
	}
	return v, true
}

// prefixes decodes a list of CIDRs.
func (d *decoder) prefixes(name string) []netip.Prefix {
	var texts []string
	field(d, name, "a list of CIDRs", &texts)
	prefixes := make([]netip.Prefix, 0, len(texts))
	for i, text := range texts {
		prefixes = append(prefixes, d.prefix(fmt.Sprintf("%s[%d]", name, i), text))
	}
	return prefixes
}

// prefix decodes a CIDR.
func (d *decoder) prefix(name, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		d.fail(name, []byte(text), "is not a CIDR such as 10.244.0.0/16 or fd00:10:244::/48")
	}
	return p
}

// parseAddress decodes an address, with or without a prefix length. An
// IPv4-mapped one is that IPv4 address.
func parseAddress(path, text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, lease.Invalid(path, text, "is not an IP address")
	}
	return a.Unmap(), nil
}
