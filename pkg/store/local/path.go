package local

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// How keys are named in the file system. Each segment but the last is a
// directory; the last is a file that ends with ".entry", so that "a" and "a/b"
// are "a.entry" and "a/b.entry". What some file system can't tell apart or
// doesn't take is written as in URLs, "%3A" for a colon:
//   - colons, and upper case letters, which Windows doesn't tell from lower case;
//   - the dot of a segment that ends with a dot or with ".entry";
//   - the first letter of names that Windows keeps for devices, as "nul".
//
// File names end at 255 bytes and segments don't: a longer one is continued in
// directories whose names end with a bare "%".

const (
	entrySuffix    = ".entry"
	continueSuffix = "%"
	maxNameLength  = 200
)

// entryPath is the file of a key, relative and with slashes.
func entryPath(key string) string {
	return keyPath(key) + entrySuffix
}

// prefixPath is the directory of what is below a prefix.
func prefixPath(prefix string) string {
	if prefix == "" {
		return "."
	}
	return keyPath(strings.TrimSuffix(prefix, "/"))
}

func keyPath(key string) string {
	var names []string
	for segment := range strings.SplitSeq(key, "/") {
		name := escapeSegment(segment)
		for len(name) > maxNameLength {
			names = append(names, name[:maxNameLength]+continueSuffix)
			name = name[maxNameLength:]
		}
		names = append(names, name)
	}
	return strings.Join(names, "/")
}

// pathKey is the key of a file, relative and with slashes; false for a file
// that no key has.
func pathKey(path string) (string, bool) {
	escaped, ok := strings.CutSuffix(path, entrySuffix)
	if !ok {
		return "", false
	}
	escaped = strings.ReplaceAll(escaped, continueSuffix+"/", "")
	key, ok := unescape(escaped)
	if !ok || store.ValidateKey(key) != nil || entryPath(key) != path {
		return "", false
	}
	return key, true
}

func escapeSegment(segment string) string {
	var name strings.Builder
	for i := range len(segment) {
		c := segment[i]
		rest := segment[i:]
		switch {
		case c == ':', c >= 'A' && c <= 'Z',
			rest == ".", rest == entrySuffix,
			i == 0 && isDevice(segment):
			fmt.Fprintf(&name, "%%%02X", c)
		default:
			name.WriteByte(c)
		}
	}
	return name.String()
}

func unescape(escaped string) (string, bool) {
	var text strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' {
			text.WriteByte(escaped[i])
			continue
		}
		if i+2 >= len(escaped) {
			return "", false
		}
		c, err := strconv.ParseUint(escaped[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		text.WriteByte(byte(c))
		i += 2
	}
	return text.String(), true
}

// isDevice says whether Windows takes a file name for a device, which it does
// with any extension.
func isDevice(segment string) bool {
	stem, _, _ := strings.Cut(strings.ToLower(segment), ".")
	switch stem {
	case "con", "prn", "aux", "nul":
		return true
	}
	if len(stem) != len("com1") {
		return false
	}
	return (strings.HasPrefix(stem, "com") || strings.HasPrefix(stem, "lpt")) && stem[3] >= '0' && stem[3] <= '9'
}
