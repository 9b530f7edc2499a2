package conformance

// Results as the plugin printed them: no type that would fill in what is
// missing or leave out what is too much.

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
)

// An answer is a result of ADD.
type answer map[string]any

// answerOf reads a result.
func answerOf(raw json.RawMessage) (answer, error) {
	o, err := (&Exchange{Stdout: string(raw)}).object()
	return o, err
}

// list is a list of objects in a result; what is something else is left out.
func (r answer) list(key string) []map[string]any {
	all, _ := r[key].([]any)
	var objects []map[string]any
	for _, one := range all {
		if o, ok := one.(map[string]any); ok {
			objects = append(objects, o)
		}
	}
	return objects
}

// strs is a list of texts, or nothing.
func strs(v any) []string {
	all, _ := v.([]any)
	var texts []string
	for _, one := range all {
		if s, ok := one.(string); ok {
			texts = append(texts, s)
		}
	}
	return texts
}

// index is the place in interfaces of the one in the container, or -1.
func (r answer) index(a *attachment) int {
	return slices.IndexFunc(r.list("interfaces"), func(i map[string]any) bool {
		return text(i["name"]) == a.ifname && text(i["sandbox"]) != ""
	})
}

// addresses are those of the container's interface: those that name it, and
// those that name none.
func (r answer) addresses(a *attachment) []netip.Prefix {
	var all []netip.Prefix
	for _, ip := range r.list("ips") {
		at, named := whole(ip["interface"])
		if named && at != int64(r.index(a)) {
			continue
		}
		if p, err := netip.ParsePrefix(text(ip["address"])); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// destinations are those of the routes.
func (r answer) destinations() []netip.Prefix {
	var all []netip.Prefix
	for _, route := range r.list("routes") {
		if p, err := netip.ParsePrefix(text(route["dst"])); err == nil {
			all = append(all, p.Masked())
		}
	}
	return all
}

// raw is the result as JSON.
func (r answer) raw() (json.RawMessage, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	return raw, nil
}

// A shape is what a value of JSON has to be.
type shape func(any) bool

func isText(v any) bool  { _, ok := v.(string); return ok }
func isCount(v any) bool { n, ok := whole(v); return ok && n >= 0 }
func isTexts(v any) bool {
	all, ok := v.([]any)
	return ok && len(strs(v)) == len(all)
}

func isPrefix(v any) bool {
	_, err := netip.ParsePrefix(text(v))
	return err == nil
}

func isAddress(v any) bool {
	_, err := netip.ParseAddr(text(v))
	return err == nil
}

// shapes are those of the objects in a result's lists, and of its dns.
func shapes() map[string]map[string]shape {
	return map[string]map[string]shape{
		"interfaces": {"name": isText, "mac": isText, "mtu": isCount, "sandbox": isText, "socketPath": isText, "pciID": isText},
		"ips":        {"address": isPrefix, "gateway": isAddress, "interface": isCount},
		"routes": {
			"dst": isPrefix, "gw": isAddress, "mtu": isCount, "advmss": isCount,
			"priority": isCount, "table": isCount, "scope": isCount,
		},
		"dns": {"nameservers": isTexts, "domain": isText, "search": isTexts, "options": isTexts},
	}
}

// required are the keys without which an object of a list says nothing.
func required() map[string]string {
	return map[string]string{"interfaces": "name", "ips": "address", "routes": "dst"}
}

// malformed returns what is wrong with the form of a part of a result.
func (r answer) malformed(part string) string {
	value, there := r[part]
	if !there || value == nil {
		return ""
	}
	if part == "dns" {
		o, ok := value.(map[string]any)
		if !ok {
			return fmt.Sprintf("dns is no object: %v", value)
		}
		return misshapen("dns", o)
	}
	all, ok := value.([]any)
	if !ok || len(r.list(part)) != len(all) {
		return fmt.Sprintf("%s is no list of objects: %v", part, value)
	}
	for i, o := range r.list(part) {
		if key := required()[part]; o[key] == nil {
			return fmt.Sprintf("%s[%d] has no %s", part, i, key)
		}
		if wrong := misshapen(part, o); wrong != "" {
			return fmt.Sprintf("%s[%d]: %s", part, i, wrong)
		}
	}
	return ""
}

func misshapen(part string, o map[string]any) string {
	for key, fits := range shapes()[part] {
		if value := o[key]; value != nil && !fits(value) {
			return fmt.Sprintf("%s is %v", key, value)
		}
	}
	return ""
}
