package conformance

// Section 1, network configuration format; section 2, parameters and errors.

import (
	"context"
	"slices"
	"strings"
)

func configClauses() []Clause {
	const of = "Section 1: Plugin configuration objects"
	return []Clause{
		spec("1-conf-01", Should, of, "Plugins that consume any of these configuration keys should respect their intended semantics.", heedsDNS).
			note("dns: the name servers of the configuration are those of the result, if it has any"),
		spec("1-conf-02", May, of, "Plugins may define additional fields that they accept and may generate an error if called with unknown fields.",
			perPlugin(unknownField)).note("an unknown field is accepted, or refused with an error that can be read"),
		spec("1-conf-03", May, of, "Plugin configuration objects may contain additional fields beyond the ones defined here.",
			perPlugin(largeField)).note("a field of 1 MB is treated as a short one is"),
	}
}

func heedsDNS(ctx context.Context, b *bench) error {
	a, err := b.prepare()
	if err != nil {
		return err
	}
	want := []string{"192.0.2.53", "2001:db8::53"}
	x := b.do(ctx, call{command: "ADD", at: a, conf: fields{"dns": fields{"nameservers": want}}})
	if err := b.attached(x); err != nil {
		return err
	}
	o, err := x.object()
	if err != nil {
		return x.violated("%v", err)
	}
	dns, _ := o["dns"].(map[string]any)
	got := strs(dns["nameservers"])
	if len(got) == 0 {
		return nothing("%s doesn't consume dns", x.Plugin)
	}
	for _, server := range want {
		if !slices.Contains(got, server) {
			return x.violated("the result's name servers are %v, those of the configuration %v", got, want)
		}
	}
	return nil
}

func unknownField(ctx context.Context, b *bench, place int) error {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return err
	}
	x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), conf: fields{"conformanceUnknown": "conformance-value"}})
	if x.Status == 0 {
		return nil
	}
	if _, err := x.refusal(); err != nil {
		return x.violated("it refuses an unknown field, and %v", err)
	}
	return nil
}

func largeField(ctx context.Context, b *bench, place int) error {
	for _, size := range []int{1, 1 << 20} {
		a, err := b.addBefore(ctx, place)
		if err != nil {
			return err
		}
		x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), conf: fields{"conformanceUnknown": strings.Repeat("x", size)}})
		if size == 1 && x.Status != 0 {
			return nothing("%s refuses unknown fields", x.Plugin)
		}
		if err := x.succeeds("a field of one byte was accepted"); err != nil {
			return err
		}
	}
	return nil
}

func parameterClauses() []Clause {
	const container = "Must not be empty.  Must start with an alphanumeric character, optionally followed by any combination of one or more alphanumeric characters, underscore (), dot (.) or hyphen (-)."
	return []Clause{
		spec("2.2-env-01", Should, "Section 2: Parameters", container, perPlugin(badContainerID)).
			note("the words bind the runtime; a plugin should refuse ../x and -x"),
		spec("2.2-env-02", Must, "Section 2: Parameters", "if the plugin is unable to use this interface name it must return an error.", badInterfaceName).
			where(needsInterface),
		spec("2.3-err-01", Must, "Section 2: Errors", "A plugin must exit with a return code of 0 on success, and non-zero on failure.",
			perPlugin(statusTells)),
		spec("2.3-err-02", Should, "Section 2: Errors", `If the plugin encounters an error, it should output an ["error" result structure](#Error) (see below).`,
			perPlugin(refusalsAreErrors)),
	}
}

func badContainerID(ctx context.Context, b *bench, place int) error {
	for _, id := range []string{"../x", "-x"} {
		a, err := b.addBefore(ctx, place)
		if err != nil {
			return err
		}
		x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), env: map[string]string{"CNI_CONTAINERID": id}})
		if err := x.fails("CNI_CONTAINERID " + id + " is no container's"); err != nil {
			return err
		}
	}
	return nil
}

func badInterfaceName(ctx context.Context, b *bench) error {
	for _, name := range []string{strings.Repeat("long", 10), "a/b"} {
		a, err := b.prepare()
		if err != nil {
			return err
		}
		x := b.do(ctx, call{command: "ADD", at: a, env: map[string]string{"CNI_IFNAME": name}})
		if err := x.fails("no interface can have the name " + name); err != nil {
			return err
		}
	}
	return nil
}

// mistakes are executions that a plugin is expected to refuse.
func (b *bench) mistakes(ctx context.Context, place int) ([]*Exchange, error) {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return nil, err
	}
	half := `{"cniVersion": "` + b.version + `", "name":`
	base := call{plugin: place, command: "ADD", at: a, prev: a.result()}
	version, malformed, command := base, base, base
	version.conf = fields{"cniVersion": "9.9.9"}
	malformed.stdin = &half
	command.command = "NONSENSE"
	return []*Exchange{b.do(ctx, version), b.do(ctx, malformed), b.do(ctx, command)}, nil
}

func statusTells(ctx context.Context, b *bench, place int) error {
	all, err := b.mistakes(ctx, place)
	if err != nil {
		return err
	}
	seen := false
	for _, x := range all {
		if _, err := x.refusal(); err == nil && x.Status == 0 {
			return x.violated("it printed an error and its status is 0")
		}
		seen = seen || x.Status != 0
	}
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return err
	}
	x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result()})
	if o, err := x.object(); err == nil && x.Status != 0 && o["code"] == nil && o["ips"] != nil {
		return x.violated("it printed a result and its status is %d", x.Status)
	}
	if !seen {
		return nothing("it refused nothing")
	}
	return nil
}

func refusalsAreErrors(ctx context.Context, b *bench, place int) error {
	all, err := b.mistakes(ctx, place)
	if err != nil {
		return err
	}
	seen := false
	for _, x := range all {
		if x.Status == 0 {
			continue
		}
		seen = true
		if _, err := x.refusal(); err != nil {
			return x.violated("%v", err)
		}
	}
	if !seen {
		return nothing("it refused nothing")
	}
	return nil
}
