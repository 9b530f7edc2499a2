package conformance

// Section 5, results of ADD.

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

func resultClauses() []Clause {
	const of = "Section 5: ADD Success"
	const keys = "Plugins must output a JSON object with the following keys upon a successful `ADD` operation:"
	mtu := spec("5.1-add-08", Must, of, "- `mtu`: (uint) The MTU of the interface (if applicable).", sameAsKernel(mtuDiffers)).since("1.1.0").
		where(needsInterface).note("if it is there it is that of the kernel")
	return []Clause{
		spec("5.0-out-01", Should, "Section 5: Result Types", "The output should be serialized as JSON on standard out.", perPlugin(printsResult)).each(),
		spec("5.1-add-01", Must, of, "- `cniVersion`: The same version supplied on input", perPlugin(sameVersion)).each().
			note("a key of the object that plugins must output; delegated plugins may omit it"),
		spec("5.1-add-02", Must, of, keys, wellFormed("interfaces")).each().note("interfaces: types of values; the one in the container is listed").where(needsInterface),
		spec("5.1-add-03", Must, of, keys, wellFormed("ips")).each().note("ips: types of values, interface is an index of interfaces"),
		spec("5.1-add-04", Must, of, keys, wellFormed("routes")).each().note("routes: types of values"),
		spec("5.1-add-05", Must, of, keys, wellFormed("dns")).each().note("dns: types of values"),
		spec("5.1-add-06", Should, of, "For interfaces created inside the container, this should be the value passed via `CNI_NETNS`.", sandboxIsNetns).where(needsInterface),
		spec("5.1-add-07", Must, of, "- `mac` (string): The hardware address of the interface (if applicable).", sameAsKernel(macDiffers)).
			where(needsInterface).note("if it is there it is that of the kernel"),
		mtu,
		spec("5.1-add-09", Must, of, "- `interfaces`: An array of all interfaces created by the attachment, including any host-level interfaces:", listsContainer).
			where(needsInterface).note("those in the container"),
		spec("5.1-add-10", Should, of, "- `interfaces`: An array of all interfaces created by the attachment, including any host-level interfaces:", listsNode).
			where(needsInterface).note("those on the node; what the first attachment alone makes may be the network's"),
		spec("5.1-add-11", Must, of, "- `ips`: IPs assigned by this attachment. Plugins may include IPs assigned external to the container.", addressesAreThere).
			where(needsInterface).note("those that name the container's interface are on it"),
		spec("5.1-add-12", Should, of, "- `routes`: Routes created by this attachment:", routesAreThere).where(needsInterface),
		spec("5.1-add-13", Should, "Released versions", "removed `version` field of `interfaces` array", versionOfIPs).each().
			note("before 1.0.0 each of ips had version 4 or 6, which is what the words are about"),
	}
}

// resultOf attaches a container and reads the last result.
func (b *bench) resultOf(ctx context.Context) (*attachment, *Exchange, answer, error) {
	a, err := b.prepare()
	if err != nil {
		return nil, nil, nil, err
	}
	x, r, err := b.resultFor(ctx, a)
	return a, x, r, err
}

// resultFor adds a container and reads the last result.
func (b *bench) resultFor(ctx context.Context, a *attachment) (*Exchange, answer, error) {
	x := b.add(ctx, a)
	if err := b.attached(x); err != nil {
		return nil, nil, err
	}
	r, err := answerOf(a.result())
	return x, r, err
}

func sameVersion(ctx context.Context, b *bench, place int) error {
	x, err := b.sampled(ctx, place)
	if err == nil {
		err = b.attached(x)
	}
	if err != nil {
		return err
	}
	o, err := x.object()
	if err != nil {
		return err
	}
	if _, there := o["cniVersion"]; !there && b.plugins[place].kind == ipamPlugin {
		return nothing("an IPAM plugin may omit cniVersion")
	}
	if got := text(o["cniVersion"]); got != b.version {
		return x.violated("cniVersion is %q, that on input was %q", got, b.version)
	}
	return nil
}

func wellFormed(part string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		x, r, err := b.sampledResult(ctx)
		if err != nil {
			return err
		}
		if r[part] == nil && part != "interfaces" {
			return nothing("the result has no %s", part)
		}
		if wrong := r.malformed(part); wrong != "" {
			return x.violated("%s", wrong)
		}
		switch part {
		case "interfaces":
			if r.index(&attachment{ifname: "eth0"}) < 0 {
				return x.violated("interfaces lack eth0 in the container")
			}
		case "ips":
			for i, ip := range r.list("ips") {
				if at, named := whole(ip["interface"]); named && at >= int64(len(r.list("interfaces"))) {
					return x.violated("ips[%d].interface is %d, and there are %d interfaces", i, at, len(r.list("interfaces")))
				}
			}
		}
		return nil
	}
}

func sandboxIsNetns(ctx context.Context, b *bench) error {
	a, x, r, err := b.resultOf(ctx)
	if err != nil {
		return err
	}
	place := r.index(a)
	if place < 0 {
		return nothing("the result doesn't list the interface")
	}
	if got := text(r.list("interfaces")[place]["sandbox"]); got != a.container.Path() {
		return x.violated("sandbox is %q, CNI_NETNS is %q", got, a.container.Path())
	}
	return nil
}

// sameAsKernel compares the interface in the container with that of the result.
func sameAsKernel(differs func(link, map[string]any) (string, bool)) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		a, x, r, err := b.resultOf(ctx)
		if err != nil {
			return err
		}
		found, err := links(a.container.Host)
		if err != nil {
			return err
		}
		place := r.index(a)
		actual, there := found[a.ifname]
		if place < 0 || !there {
			return nothing("the result doesn't list the interface, or it isn't there")
		}
		how, stated := differs(actual, r.list("interfaces")[place])
		if !stated {
			return nothing("the result doesn't have it")
		}
		if how != "" {
			return x.violated("%s", how)
		}
		return nil
	}
}

func macDiffers(actual link, listed map[string]any) (how string, stated bool) {
	mac := text(listed["mac"])
	if mac != "" && !strings.EqualFold(mac, actual.mac) {
		how = fmt.Sprintf("mac is %s, the interface has %s", mac, actual.mac)
	}
	return how, mac != ""
}

func mtuDiffers(actual link, listed map[string]any) (how string, stated bool) {
	mtu, stated := whole(listed["mtu"])
	if stated && mtu != int64(actual.mtu) {
		how = fmt.Sprintf("mtu is %d, the interface has %d", mtu, actual.mtu)
	}
	return how, stated
}

func listsContainer(ctx context.Context, b *bench) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	return b.listsAll(ctx, a)
}

// listsAll adds a container. What it had before isn't the attachment's: with
// some modules loaded the kernel makes interfaces such as tunl0 in each network
// namespace.
func (b *bench) listsAll(ctx context.Context, a *attachment) error {
	earlier, err := links(a.container.Host)
	if err != nil {
		return err
	}
	x, r, err := b.resultFor(ctx, a)
	if err != nil {
		return err
	}
	made, err := links(a.container.Host)
	if err != nil {
		return err
	}
	maps.DeleteFunc(made, func(name string, _ link) bool { _, old := earlier[name]; return old })
	if len(made) == 0 {
		return nothing("ADD made no interface in the container")
	}
	return listed(x, r, made, true)
}

// listsNode looks at a second attachment: what only the first one makes is
// there by then.
func listsNode(ctx context.Context, b *bench) error {
	if _, err := b.attach(ctx); err != nil {
		return err
	}
	earlier, err := links(b.machine.node.Host)
	if err != nil {
		return err
	}
	_, x, r, err := b.resultOf(ctx)
	if err != nil {
		return err
	}
	later, err := links(b.machine.node.Host)
	if err != nil {
		return err
	}
	maps.DeleteFunc(later, func(name string, _ link) bool { _, old := earlier[name]; return old })
	if len(later) == 0 {
		return nothing("the second attachment made no interface on the node")
	}
	return listed(x, r, later, false)
}

// listed says whether the result has interfaces by name.
func listed(x *Exchange, r answer, found map[string]link, inContainer bool) error {
	for name := range found {
		if !slices.ContainsFunc(r.list("interfaces"), func(i map[string]any) bool {
			return text(i["name"]) == name && (text(i["sandbox"]) != "") == inContainer
		}) {
			return x.violated("interfaces lack %s", name)
		}
	}
	return nil
}

func addressesAreThere(ctx context.Context, b *bench) error {
	a, x, r, err := b.resultOf(ctx)
	if err != nil {
		return err
	}
	found, err := links(a.container.Host)
	if err != nil {
		return err
	}
	place, seen := int64(r.index(a)), false
	for _, ip := range r.list("ips") {
		if at, named := whole(ip["interface"]); !named || at != place {
			continue
		}
		p, err := netip.ParsePrefix(text(ip["address"]))
		if err != nil {
			continue
		}
		if seen = true; !slices.Contains(found[a.ifname].addresses, p) {
			return x.violated("%s lacks the address %s", a.ifname, p)
		}
	}
	if !seen {
		return nothing("no address names the container's interface")
	}
	return nil
}

func routesAreThere(ctx context.Context, b *bench) error {
	a, x, r, err := b.resultOf(ctx)
	if err != nil {
		return err
	}
	found, err := routes(a.container.Host)
	if err != nil {
		return err
	}
	if len(r.destinations()) == 0 {
		return nothing("the result has no route")
	}
	for _, dst := range r.destinations() {
		if !slices.Contains(found, dst) {
			return x.violated("the container has no route to %s", dst)
		}
	}
	return nil
}

func versionOfIPs(ctx context.Context, b *bench) error {
	x, r, err := b.sampledResult(ctx)
	if err != nil {
		return err
	}
	if len(r.list("ips")) == 0 || !before(b.version, "1.0.0") {
		return nothing("there is no ips of a version before 1.0.0")
	}
	for _, ip := range r.list("ips") {
		p, err := netip.ParsePrefix(text(ip["address"]))
		want := "4"
		if err == nil && p.Addr().Is6() {
			want = "6"
		}
		if got := text(ip["version"]); got != want {
			return x.violated("the version of %s is %q", p, got)
		}
	}
	return nil
}
