package config_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// mistake is an input with the field and the value that its error must name.
type mistake struct {
	name         string
	input        string
	field, value string
}

// malformed is text that is no JSON object, whatever it should have been.
func malformed() map[string]string {
	return map[string]string{
		"empty":            ``,
		"cut off":          `{"name": "pods"`,
		"a trailing comma": `{"name": "pods",}`,
		"two documents":    `{"name": "pods"} {}`,
		"a list":           `[]`,
		"a number":         `4096`,
		"a string":         `"pods"`,
		"single quotes":    `{'name': 'pods'}`,
		"YAML":             "name: pods\n",
		"too deep":         `{"name":` + strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000) + `}`,
		"a zero byte":      "{\x00}",
	}
}

func checkMalformed(t *testing.T, parse func([]byte) error) {
	t.Helper()
	for name, input := range malformed() {
		var syntax *config.SyntaxError
		switch err := parse([]byte(input)); {
		case !errors.As(err, &syntax):
			t.Errorf("%s: got %v, want a syntax error", name, err)
		case !strings.Contains(err.Error(), "malformed JSON") || errors.Unwrap(err) == nil || len(err.Error()) > 300:
			t.Errorf("%s: %q doesn't help", name, err)
		}
	}
}

// checkMistake wants an error that names the field and the value.
func checkMistake(t *testing.T, err error, field, value string) {
	t.Helper()
	var f *lease.FieldError
	switch {
	case !errors.As(err, &f):
		t.Errorf("got %v, want an error about %s", err, field)
	case f.Field != field || f.Value != value || f.Problem == "":
		t.Errorf("%q is about field %q with value %q, want %q with %q", err, f.Field, f.Value, field, value)
	case !strings.Contains(err.Error(), field):
		t.Errorf("%q doesn't name %s", err, field)
	}
}

func checkWarnings(t *testing.T, got []string, fields ...string) {
	t.Helper()
	if len(got) != len(fields) {
		t.Fatalf("warnings are %q, want one about each of %q", got, fields)
	}
	for _, f := range fields {
		if !slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, `"`+f+`"`) }) {
			t.Errorf("warnings are %q, and none is about %s", got, f)
		}
	}
}

func checkEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func checkSlice[T comparable](t *testing.T, what string, got []T, want ...T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s are %v, want %v", what, got, want)
	}
}

func addrs(all ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, s := range all {
		parsed = append(parsed, netip.MustParseAddr(s))
	}
	return parsed
}

func prefixes(all ...string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, s := range all {
		parsed = append(parsed, netip.MustParsePrefix(s))
	}
	return parsed
}
