package conformance

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func aSite() *site {
	return &site{
		name: "n1", index: 7, v4: netip.MustParseAddr("172.30.1.9"), v6: netip.MustParseAddr("fd00:30:1::9"),
		shared: `/tmp/a "b"\c`, api: "http://127.0.0.1:80",
	}
}

// TestFill: values stand in texts of JSON, whatever is in them, and are what a
// daemon has in its environment.
func TestFill(t *testing.T) {
	t.Parallel()
	s := aSite()
	for _, v := range s.variables() {
		raw, err := json.Marshal(map[string]string{"before-${" + v.name + "}": "<${" + v.name + "}> $" + v.name + " {" + v.name + "}"})
		if err != nil {
			t.Fatal(err)
		}
		var filled map[string]string
		if err := json.Unmarshal([]byte(s.fill(string(raw))), &filled); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
		if got, want := filled["before-"+v.value], "<"+v.value+"> $"+v.name+" {"+v.name+"}"; got != want {
			t.Errorf("%s: %q, want %q", v.name, got, want)
		}
		if !strings.Contains("\n"+strings.Join(s.environ(), "\n")+"\n", "\n"+v.name+"="+v.value+"\n") {
			t.Errorf("the environment lacks %s: %v", v.name, s.environ())
		}
	}
	if got := s.fill("${SHARED}${INDEX}"); !strings.HasSuffix(got, "7") {
		t.Errorf("two in a row: %q", got)
	}
	odd := &site{shared: "${NODE}", name: "n1"}
	if got := odd.fill("${SHARED}"); got != "${NODE}" {
		t.Errorf("a value was filled in, too: %q", got)
	}
}

func TestCheckVariables(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		api  bool
		says string
	}{
		{`{"a": "${NODE} ${INDEX} ${ADDRESS} ${ADDRESS6} ${SHARED}"}`, false, ""},
		{`{"a": "${API}"}`, true, ""},
		{`{"a": "${API}"}`, false, "${API}"},
		{`{"a": "${NODE} ${HOME}"}`, true, "${HOME}"},
		{`{"a": "${node}"}`, true, "${node}"},
		{`{"a": "${}"}`, true, "${}"},
		{`{"a": "$NODE {NODE} $ {NODE}"}`, false, ""},
	} {
		err := checkVariables([]byte(c.text), c.api)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.text, err, c.says)
		}
	}
}

// TestReadTarget: what can't be right is said before anything runs.
func TestReadTarget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "one", "")
	for _, c := range []struct{ conflist, api, says string }{
		{`{"name": "n", "plugins": [{"type": "one"}]}`, "", ""},
		{`{"name": "n", "plugins": [{"type": "one", "at": "${API}"}]}`, "https://10.0.0.1:6443/base", ""},
		{`{"name": "n", "plugins": [{"type": "one", "at": "${API}"}]}`, "", "no API server"},
		{`{"name": "n", "plugins": [{"type": "one", "at": "${WHERE}"}]}`, "", "${WHERE}"},
		{`{"name": "n", "plugins": [{"type": "one"}]}`, "10.0.0.1:6443", "10.0.0.1:6443"},
		{`{"name": "n", "plugins": [{"type": "one"}]}`, "ftp://10.0.0.1", "ftp"},
		{`{"name": "n", "plugins": [{"type": "one"}]}`, "https:///x", "a host"},
	} {
		_, err := read(Target{Conflist: []byte(c.conflist), Bin: []string{dir}, API: c.api})
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s with %q: %v, want %q", c.conflist, c.api, err, c.says)
		}
	}
}
