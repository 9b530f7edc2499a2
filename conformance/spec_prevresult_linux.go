package conformance

// Section 5, results that go from plugin to plugin, and those of IPAM plugins.

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
)

func prevResultClauses() []Clause {
	const of = "Section 5: ADD Success"
	const output = "Plugins provided a `prevResult` key as part of their request configuration must output it as their result, with any possible modifications made by that plugin included."
	return []Clause{
		spec("5.1-prev-01", Must, of, output, keepsForeign).where(needsChain).each().
			note("a chained plugin keeps what others have put into prevResult: an interface, an address, a route"),
		spec("5.1-prev-02", Must, of, output, mergesOwn).where(needsInterface).
			note("an interface plugin that takes a prevResult on ADD keeps it; one that refuses it has nothing to output"),
		spec("5.1-prev-03", Must, of, "If a plugin makes no changes that would be reflected in the _Success result_ type, then it must output a result equivalent to the provided `prevResult`.",
			keepsDNS).where(needsChain).note("dns isn't lost; one that is another is a change that the plugin makes"),
		spec("5.1-ipam-01", Must, "Section 5: Delegated plugins (IPAM)", "Delegated IPAM plugins must return an abbreviated _Success_ object. Specifically, it is missing the `interfaces` array, as well as the `interface` entry in `ips`.",
			abbreviated).where(needsIPAM).each(),
		spec("4.0-ipam-01", Must, "Section 4: Plugin Delegation", "The IPAM plugin must determine the interface IP/subnet, Gateway and Routes and return this information to the \"main\" plugin to apply.",
			determines).where(needsIPAM).each().note("there is an address with its subnet; a gateway and routes need not exist"),
	}
}

// kept is violated when a result lacks what the one before had: interfaces by
// name, addresses, destinations of routes. What a plugin has modified of them
// is its own business.
func (b *bench) kept(x *Exchange, previous json.RawMessage) error {
	was, err := answerOf(previous)
	if err != nil {
		return nothing("%v", err)
	}
	is, err := answerOf(json.RawMessage(x.Stdout))
	if err != nil {
		return x.violated("%v", err)
	}
	for part, key := range required() {
		for _, one := range was.list(part) {
			if !slices.ContainsFunc(is.list(part), func(other map[string]any) bool { return sameText(text(other[key]), text(one[key])) }) {
				return x.violated("the result lacks %s %s of prevResult", part, text(one[key]))
			}
		}
	}
	return nil
}

// sameText compares names, and addresses and destinations however they are
// written.
func sameText(one, other string) bool {
	a, errA := netip.ParsePrefix(one)
	b, errB := netip.ParsePrefix(other)
	return one == other || errA == nil && errB == nil && a == b
}

// foreign is a result with what another plugin of the chain has done. An
// address before 1.0.0 has its version.
func (b *bench) foreign(previous json.RawMessage) (answer, error) {
	r := answer{"cniVersion": b.version}
	if len(previous) > 0 {
		var err error
		if r, err = answerOf(previous); err != nil {
			return nil, nothing("%v", err)
		}
	}
	add := func(part string, o map[string]any) {
		all, _ := r[part].([]any)
		r[part] = append(all, o)
	}
	address := map[string]any{"address": "198.51.100.77/24"}
	if before(b.version, "1.0.0") {
		address["version"] = "4"
	}
	address["interface"] = len(r.list("interfaces"))
	add("interfaces", map[string]any{"name": "conformance0", "mac": "02:00:5e:10:00:03"})
	add("ips", address)
	add("routes", map[string]any{"dst": "198.51.100.0/24"})
	return r, nil
}

// previousOf makes a prevResult of others for the plugin at a place and calls
// its ADD.
func (b *bench) previousOf(ctx context.Context, place int) (*Exchange, json.RawMessage, error) {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return nil, nil, err
	}
	r, err := b.foreign(a.result())
	if err != nil {
		return nil, nil, err
	}
	r["dns"] = map[string]any{"nameservers": []string{"192.0.2.53"}, "search": []string{"conformance.example"}}
	raw, err := r.raw()
	if err != nil {
		return nil, nil, err
	}
	x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: raw})
	if x.Status != 0 {
		return nil, nil, nothing("%s ADD refuses such a prevResult%s", x.Plugin, x.said())
	}
	return x, raw, nil
}

func keepsForeign(ctx context.Context, b *bench) error {
	return b.each(b.chained(), func(place int) error {
		x, previous, err := b.previousOf(ctx, place)
		if err != nil {
			return err
		}
		return b.kept(x, previous)
	})
}

func mergesOwn(ctx context.Context, b *bench) error {
	x, previous, err := b.previousOf(ctx, 0)
	if err != nil {
		return err
	}
	return b.kept(x, previous)
}

func keepsDNS(ctx context.Context, b *bench) error {
	return b.each(b.chained(), func(place int) error {
		x, previous, err := b.previousOf(ctx, place)
		if err != nil {
			return err
		}
		was, is := dns(previous), dns(json.RawMessage(x.Stdout))
		switch {
		case equalJSON(was, is):
			return nil
		case equalJSON(is, "null"), equalJSON(is, "{}"):
			return x.violated("dns is %s, that of prevResult %s", is, was)
		}
		return nothing("%s changes dns", x.Plugin)
	})
}

// dns is that of a result, as JSON.
func dns(result json.RawMessage) string {
	var r struct {
		DNS json.RawMessage `json:"dns"`
	}
	if json.Unmarshal(result, &r) != nil || r.DNS == nil {
		return "null"
	}
	return string(r.DNS)
}

func abbreviated(ctx context.Context, b *bench) error {
	x, r, err := b.sampledResult(ctx)
	if err != nil {
		return err
	}
	if _, there := r["interfaces"]; there {
		return x.violated("the result has interfaces")
	}
	for i, ip := range r.list("ips") {
		if _, there := ip["interface"]; there {
			return x.violated("ips[%d] has an interface", i)
		}
	}
	return nil
}

func determines(ctx context.Context, b *bench) error {
	x, r, err := b.sampledResult(ctx)
	if err != nil {
		return err
	}
	if len(r.list("ips")) == 0 {
		return x.violated("the result has no ips")
	}
	for _, ip := range r.list("ips") {
		if !isPrefix(ip["address"]) {
			return x.violated("%v is no address with its subnet", ip["address"])
		}
	}
	return nil
}
