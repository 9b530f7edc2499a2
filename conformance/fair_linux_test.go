package conformance

// What isn't held against a plugin.

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestSmallRange: that four containers don't fit says nothing about what is
// called at once; that four do, one after the other, does.
func TestSmallRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, add string
		fair      bool
	}{
		{"one address", "ln -s $CNI_CONTAINERID DIR/slot", true},
		// The first call fails, whichever of the four it is.
		{"busy", "! mkdir DIR/first", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script(t, dir, "one", strings.ReplaceAll(`
case $CNI_COMMAND in
ADD) `+c.add+` 2>/dev/null || { echo '{"code": 100, "msg": "nothing left"}'; exit 1; }; echo '{"ips": []}';;
DEL) [ "$(readlink DIR/slot)" != $CNI_CONTAINERID ] || rm DIR/slot;;
esac`, "DIR", dir))
			err := concurrently(t.Context(), benchWith(t, dir, `{"type": "one"}`))
			if err == nil || isNothing(err) != c.fair {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestForeignInterface: an interface that was in the container before isn't the
// attachment's, and one that ADD makes is.
func TestForeignInterface(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, add string
		lacks     bool
	}{
		{"nothing made", "", false},
		{"made and not listed", "nsenter --net=$CNI_NETNS ip link add extra0 type veth peer name extra1;", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script(t, dir, "one", c.add+` echo '{"interfaces": []}'`)
			b := benchWith(t, dir, `{"type": "one"}`)
			a, err := b.prepare()
			if err == nil {
				err = occupy(a.container.Host, "tunl0")
			}
			if err != nil {
				t.Fatal(err)
			}
			err = b.listsAll(t.Context(), a)
			if lacks := err != nil && !isNothing(err); lacks != c.lacks {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestSpelling: what is the same isn't held against a plugin that writes it in
// another way.
func TestSpelling(t *testing.T) {
	t.Parallel()
	if how, _ := macDiffers(link{mac: "02:00:5e:10:00:0a"}, map[string]any{"mac": "02:00:5E:10:00:0A"}); how != "" {
		t.Error(how)
	}
	if how, _ := macDiffers(link{mac: "02:00:5e:10:00:0a"}, map[string]any{"mac": "02:00:5e:10:00:0b"}); how == "" {
		t.Error("another hardware address is taken for the interface's")
	}
	for _, c := range []struct {
		was, is string
		lost    bool
	}{
		{`{"ips": [{"address": "fd00:0:0:0::1/64"}]}`, `{"ips": [{"address": "fd00::1/64"}]}`, false},
		{`{"ips": [{"address": "fd00::1/64"}]}`, `{"ips": [{"address": "fd00::1/65"}]}`, true},
		{`{"routes": [{"dst": "0.0.0.0/0"}]}`, `{"routes": [{"dst": "::/0"}]}`, true},
		{`{"interfaces": [{"name": "eth0"}]}`, `{"interfaces": [{"name": "ETH0"}]}`, true},
	} {
		err := (&bench{}).kept(&Exchange{Stdout: c.is}, json.RawMessage(c.was))
		if lost := err != nil; lost != c.lost {
			t.Errorf("%s after %s: %v", c.is, c.was, err)
		}
	}
}

// TestDNS: a chained plugin may change dns, and not lose it.
func TestDNS(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, result string
		lost         bool
	}{
		{"same", `{"dns": {"search": ["conformance.example"], "nameservers": ["192.0.2.53"]}}`, false},
		{"more", `{"dns": {"nameservers": ["10.0.0.1", "192.0.2.53"], "search": ["conformance.example"]}}`, false},
		{"none", `{}`, true},
		{"empty", `{"dns": {}}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script(t, dir, "one", `echo '{"ips": []}'`)
			script(t, dir, "two", `echo '`+c.result+`'`)
			err := keepsDNS(t.Context(), benchWith(t, dir, `{"type": "one"}, {"type": "two"}`))
			if lost := err != nil && !isNothing(err); lost != c.lost {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestNull: a value that is null is one that isn't there.
func TestNull(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		part, result string
		wrong        bool
	}{
		{"dns", `{"dns": {"nameservers": null, "domain": null}}`, false},
		{"dns", `{"dns": {"nameservers": [null]}}`, true},
		{"ips", `{"ips": [{"address": "10.0.0.1/8", "gateway": null, "interface": null}]}`, false},
		{"ips", `{"ips": [{"address": null}]}`, true},
		{"routes", `{"routes": null}`, false},
	} {
		r, err := answerOf(json.RawMessage(c.result))
		if wrong := r.malformed(c.part); err != nil || (wrong != "") != c.wrong {
			t.Errorf("%s: %q, %v", c.result, wrong, err)
		}
	}
}
