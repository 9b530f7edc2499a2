package local

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

func TestEntryPath(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("l", 250)
	for key, want := range map[string]string{
		"a":                          "a.entry",
		"a/b":                        "a/b.entry",
		"network/pods/10.244.3.0-24": "network/pods/10.244.3.0-24.entry",
		"fd00:10::-64":               "fd00%3A10%3A%3A-64.entry",
		"Node-A/x":                   "%4Eode-%41/x.entry",
		"a.entry":                    "a%2Eentry.entry",
		"a.entry/b":                  "a%2Eentry/b.entry",
		"a./b.":                      "a%2E/b%2E.entry",
		"con/nul.x/com1/lpt":         "%63on/%6Eul.x/%63om1/lpt.entry",
		"com/com12/console":          "com/com12/console.entry",
		long + "/x":                  long[:200] + "%/" + long[200:] + "/x.entry",
	} {
		if got := entryPath(key); got != want {
			t.Errorf("path of %s is %s, want %s", key, got, want)
		}
	}
}

// TestPathsAreUnique: every key has a path of its own, also where upper and lower
// case are the same, that leads back to it and that file systems take.
func TestPathsAreUnique(t *testing.T) {
	t.Parallel()
	keys := rapid.StringMatching(`[aC:_-]([aC.:_-]|com1|\.entry|/[aC:_-]|/nul){0,300}`).Filter(func(key string) bool {
		return store.ValidateKey(key) == nil
	})
	seen := map[string]string{}
	rapid.Check(t, func(t *rapid.T) {
		key := keys.Draw(t, "key")
		path := entryPath(key)
		if back, ok := pathKey(path); !ok || back != key {
			t.Fatalf("path %s of %s leads to %s, %v", path, key, back, ok)
		}
		folded := strings.ToLower(path)
		if other, ok := seen[folded]; ok && other != key {
			t.Fatalf("%s and %s have the same path", key, other)
		}
		seen[folded] = key
		for name := range strings.SplitSeq(path, "/") {
			if len(name) > 255 || strings.HasSuffix(name, ".") || strings.Contains(name, ":") || isDevice(name) {
				t.Fatalf("path of %s has a name that does not work: %s", key, name)
			}
		}
	})
}

func TestChangelogRemembersDeletions(t *testing.T) {
	t.Parallel()
	log := changelog{}
	log = log.begin("a", false)
	log = log.begin("a", true)
	log = log.begin("b", false)
	log = log.begin("a", false)
	want := changelog{changes: []change{{2, true, "a"}, {4, false, "a"}}}
	if !reflect.DeepEqual(log, want) {
		t.Errorf("changelog = %v, want %v", log, want)
	}
	log = log.begin("a", true)
	want = changelog{changes: []change{{5, true, "a"}}}
	if !reflect.DeepEqual(log, want) {
		t.Errorf("changelog = %v, want %v", log, want)
	}
	for i := range maxDeletions + 5 {
		log = log.begin("k/"+strings.Repeat("x", i+1), true)
	}
	log = log.begin("a", false)
	if log.floor != 10 || len(log.changes) != maxDeletions+1 || log.head().revision != 5+maxDeletions+5+1 {
		t.Errorf("floor %d, %d changes, head %v", log.floor, len(log.changes), log.head())
	}
}

func TestChangelogIsStrict(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no header":            "1 put a\n",
		"no end":               "changes 0\n1 put a",
		"empty line":           "changes 0\n\n",
		"unknown verb":         "changes 0\n1 move a\n",
		"zero":                 "changes 0\n0 put a\n",
		"negative":             "changes 0\n-1 put a\n",
		"leading zero":         "changes 0\n01 put a\n",
		"leading plus":         "changes +1\n",
		"too large":            "changes 0\n9223372036854775808 put a\n",
		"invalid key":          "changes 0\n1 put a//b\n",
		"descending":           "changes 0\n2 delete a\n1 put b\n",
		"below the floor":      "changes 2\n2 put a\n",
		"put that is not last": "changes 0\n1 put a\n2 put b\n",
		"carriage return":      "changes 0\r\n1 put a\r\n",
	} {
		if log, err := decodeChangelog(seal([]byte(body))); err == nil {
			t.Errorf("%s: decoded as %v", name, log)
		}
	}
}

// The fuzz tests also seal what they are given, for else nothing passes the
// checksum.

func FuzzDecodeEntry(f *testing.F) {
	f.Add(encodeEntry(store.Entry{Key: "a/b", Value: []byte("{}\n"), Revision: 42}))
	for _, body := range []string{"", "entry 1 a\n", "entry 1 a\n\n", "entry 01 a\n\n", "entry 1 a b\n\n", "entry 1 /\n\n", "entry 0 a\n\n"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, frame := range [][]byte{data, seal(data)} {
			entry, err := decodeEntry(frame)
			if err != nil {
				continue
			}
			if again := encodeEntry(entry); !bytes.Equal(again, frame) {
				t.Errorf("%q decodes as what is encoded as %q", frame, again)
			}
			if store.ValidateKey(entry.Key) != nil || entry.Revision <= 0 {
				t.Errorf("%q decodes as an entry that can't be", frame)
			}
		}
	})
}

func FuzzDecodeChangelog(f *testing.F) {
	f.Add(changelog{}.begin("a", true).begin("a/b", false).encode())
	for _, body := range []string{"", "changes 0\n", "changes 3\n4 put a\n", "changes 0\n1 delete a\n2 delete b\n"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, frame := range [][]byte{data, seal(data)} {
			log, err := decodeChangelog(frame)
			if err != nil {
				continue
			}
			if again := log.encode(); !bytes.Equal(again, frame) {
				t.Errorf("%q decodes as what is encoded as %q", frame, again)
			}
			if next := log.begin("a", false).head().revision; next <= log.head().revision {
				t.Errorf("%q counts on at %d", frame, next)
			}
		}
	})
}
