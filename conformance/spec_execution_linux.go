package conformance

// Section 3, execution of network configurations.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
)

func executionClauses() []Clause {
	const of = "Section 3: Lifecycle & Ordering"
	const deriving = "Section 3: Deriving runtimeConfig"
	const declared = "As defined in section 1, the plugin configuration includes an optional key, `capabilities`."
	return []Clause{
		spec("3.1-life-01", Must, of, "Plugins must handle being executed concurrently across different containers. If necessary, they must implement locking on shared resources (e.g. IPAM databases).",
			concurrently).note("four ADDs at once succeed with different addresses, and four DELs; where four succeed one after the other"),
		spec("3.1-life-02", Should, of, "A _delete_ must still be executed even if the _add_ fails.", delAfterFailedAdd).
			where(needsInterface).note("the words bind the runtime; the plugin's DEL should succeed then, and release what its IPAM plugin has given"),
		spec("3.1-life-03", Should, of, "A _delete_ must still be executed even if the _add_ fails.", delAfterPartialAdd).
			where(needsChain).note("the words bind the runtime; DEL of all plugins should succeed when the last one's ADD was never called, and there is no result"),
		spec("3.7-args-01", Should, deriving, "Whereas CNI_ARGS are provided to all plugins, with no indication if they are going to be consumed,", perPlugin(kubernetesArgs)).
			note("ADD works with IgnoreUnknown=1 and the K8S_ arguments that Kubernetes' runtimes give"),
		spec("3.7-args-02", May, deriving, "Whereas CNI_ARGS are provided to all plugins, with no indication if they are going to be consumed,", perPlugin(unknownArgs)).
			note("an unknown argument without IgnoreUnknown is accepted, or refused with an error that can be read"),
		spec("3.7-cap-01", Should, deriving, declared, takesMAC).where(needsCapability("mac")).
			note("the plugin that declares the capability mac gives the interface the hardware address in runtimeConfig"),
		spec("3.7-cap-02", Should, deriving, declared, takesIPs).where(needsCapability("ips")).
			note("the plugin that declares the capability ips gives the address in runtimeConfig"),
	}
}

func concurrently(ctx context.Context, b *bench) error {
	const at = 4
	all := make([]*attachment, at)
	for i := range all {
		var err error
		if all[i], err = b.prepare(); err != nil {
			return err
		}
	}
	adds := together(all, func(a *attachment) *Exchange { return b.add(ctx, a) })
	given := map[netip.Addr]int{}
	for i, x := range adds {
		if x.Status != 0 {
			return b.onlyTogether(ctx, all, x)
		}
		r, err := answerOf(all[i].result())
		if err != nil {
			return nothing("ADD gave no result: %v", err)
		}
		for _, p := range r.addresses(all[i]) {
			if other, taken := given[p.Addr()]; taken {
				return x.violated("containers %d and %d were given %s", other, i, p.Addr())
			}
			given[p.Addr()] = i
		}
	}
	for _, x := range together(all, func(a *attachment) *Exchange { return b.all(ctx, "DEL", a) }) {
		if err := x.succeeds("others ran at the same time"); err != nil {
			return err
		}
	}
	return nil
}

// onlyTogether says what an ADD that failed at the same time as others means: it
// is a violation when as many succeed one after the other. A small range may have
// room for fewer.
func (b *bench) onlyTogether(ctx context.Context, all []*attachment, failed *Exchange) error {
	for _, a := range all {
		b.all(ctx, "DEL", a)
		a.results = nil
	}
	for _, a := range all {
		if x := b.add(ctx, a); x.Status != 0 {
			return nothing("%d containers can't be added one after the other either: %s ADD failed%s", len(all), x.Plugin, x.said())
		}
	}
	return failed.succeeds("others ran at the same time")
}

// together calls something for all attachments at once.
func together(all []*attachment, do func(*attachment) *Exchange) []*Exchange {
	exchanges := make([]*Exchange, len(all))
	var wg sync.WaitGroup
	for i, a := range all {
		wg.Go(func() { exchanges[i] = do(a) })
	}
	wg.Wait()
	return exchanges
}

func delAfterFailedAdd(ctx context.Context, b *bench) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	delegates := b.plugins[0].ipam != ""
	if delegates {
		if err := b.shim(0); err != nil {
			return err
		}
	}
	if err := occupy(a.container.Host, a.ifname); err != nil {
		return err
	}
	if x := b.do(ctx, call{command: "ADD", at: a}); x.Status == 0 {
		return nothing("no ADD failed")
	}
	x := b.do(ctx, call{command: "DEL", at: a})
	if err := x.succeeds("a DEL follows every ADD that failed"); err != nil || !delegates {
		return err
	}
	all, err := b.delegations()
	if err != nil {
		return err
	}
	if delegated(all, "ADD") && !delegated(all, "DEL") {
		return x.violated("the IPAM plugin's ADD was called, its DEL never")
	}
	return nil
}

func delAfterPartialAdd(ctx context.Context, b *bench) error {
	a, err := b.addBefore(ctx, len(b.plugins)-1)
	if err != nil {
		return err
	}
	return b.delAll(ctx, a, func(c *call) { c.prev = nil }).succeeds("the ADD of a plugin before it would have failed")
}

// argue calls ADD of one plugin with more CNI_ARGS than the target's.
func (b *bench) argue(ctx context.Context, place int, args string) (*Exchange, error) {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return nil, err
	}
	if a.args != "" {
		args = a.args + ";" + args
	}
	a.args = args
	return b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result()}), nil
}

func kubernetesArgs(ctx context.Context, b *bench, place int) error {
	x, err := b.argue(ctx, place, "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;"+
		"K8S_POD_INFRA_CONTAINER_ID=0123456789abcdef;K8S_POD_UID=2f3a5b0e-7d1c-4b7e-9a58-0c6f6a1d2e3f")
	if err != nil {
		return err
	}
	return x.succeeds("this is what Kubernetes' runtimes give")
}

func unknownArgs(ctx context.Context, b *bench, place int) error {
	x, err := b.argue(ctx, place, "CONFORMANCE=1")
	if err != nil || x.Status == 0 {
		return err
	}
	if _, err := x.refusal(); err != nil {
		return x.violated("%v", err)
	}
	return nil
}

// needsCapability is about plugins that declare a capability.
func needsCapability(capability string) func(*plan) string {
	return func(p *plan) string {
		if len(p.places(func(one *plugin) bool { return one.capabilities[capability] })) == 0 {
			return "no plugin declares the capability " + capability
		}
		return ""
	}
}

// requested attaches a container with a capability argument.
func (b *bench) requested(ctx context.Context, capability string, value any) (*attachment, *Exchange, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s: %w", capability, err)
	}
	a, err := b.prepare()
	if err != nil {
		return nil, nil, err
	}
	capable := map[string]json.RawMessage{capability: raw}
	for name, other := range b.capable {
		if name != capability {
			capable[name] = other
		}
	}
	a.capable = capable
	return a, b.add(ctx, a), nil
}

func takesMAC(ctx context.Context, b *bench) error {
	const mac = "02:00:5e:10:00:02"
	a, x, err := b.requested(ctx, "mac", mac)
	if err != nil {
		return err
	}
	if err := x.succeeds("the capability mac is declared"); err != nil {
		return err
	}
	found, err := links(a.container.Host)
	if err != nil {
		return err
	}
	if got := found[a.ifname].mac; got != mac {
		return x.violated("the interface has %s instead of %s", got, mac)
	}
	return nil
}

// takesIPs asks for an address that the target gave before.
func takesIPs(ctx context.Context, b *bench) error {
	first, err := b.attach(ctx)
	if err != nil {
		return err
	}
	r, err := answerOf(first.result())
	if err != nil {
		return nothing("%v", err)
	}
	given := r.addresses(first)
	if x := b.all(ctx, "DEL", first); x.Status != 0 || len(given) == 0 {
		return nothing("there is no address to ask for")
	}
	a, x, err := b.requested(ctx, "ips", []string{given[0].Addr().String()})
	if err != nil {
		return err
	}
	if err := x.succeeds("the capability ips is declared, and " + given[0].Addr().String() + " was given before"); err != nil {
		return err
	}
	again, err := answerOf(a.result())
	if err != nil {
		return nothing("%v", err)
	}
	for _, p := range again.addresses(a) {
		if p.Addr() == given[0].Addr() {
			return nil
		}
	}
	return x.violated("the addresses are %v, asked for was %s", again.addresses(a), given[0].Addr())
}
