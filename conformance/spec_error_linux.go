package conformance

// Section 5, errors and their codes.

import (
	"context"
	"slices"
)

func errorClauses() []Clause {
	const of = "Section 5: Error"
	const reserved = "Error codes 0-99 are reserved for well-known errors."
	return []Clause{
		spec("5.3-err-01", Should, of, "Plugins should output a JSON object with the following keys if they encounter an error:", perPlugin(errorKeys)).
			note("cniVersion, code and msg are there"),
		spec("5.3-err-02", Should, of, "- `cniVersion`: The protocol version in use", perPlugin(errorVersion)).each(),
		spec("5.3-code-01", Should, of, "`1`|Incompatible CNI version", perPlugin(incompatible)),
		spec("5.3-code-02", Must, of, "`2`|Unsupported field in network configuration. The error message must contain the key and value of the unsupported field.",
			perPlugin(namesField)).note("where a plugin refuses an unknown field with code 2"),
		spec("5.3-code-04", Must, of, "The error message must contain the names of invalid variables.", perPlugin(namesVariables)).
			note("where a plugin refuses missing variables with code 4"),
		spec("5.3-code-05", Should, of, "`4`|Invalid necessary environment variables, like CNI_COMMAND, CNI_CONTAINERID, etc.", perPlugin(missingVariables)).
			note("each variable that an operation requires, missing, and an unknown CNI_COMMAND are refused with code 4"),
		spec("5.3-code-06", Should, of, "`5`|I/O failure. For example, failed to read network config bytes from stdin.", perPlugin(unreadable)).
			note("standard input can't be read; 6 is as good, as there is nothing to decode"),
		spec("5.3-code-07", Should, of, "`6`|Failed to decode content. For example, failed to unmarshal network config from bytes or failed to decode version info from string.",
			perPlugin(undecodable)),
		spec("5.3-code-08", Should, of, "`7`|Invalid network config. If some validations on network configs do not pass, this error will be raised.", perPlugin(invalid)).
			note("without a name, and with the name ../x"),
		spec("5.3-code-09", Should, of, reserved, perPlugin(reservedCodes)).note("no error has a code below 100 that the table doesn't have"),
	}
}

func errorKeys(ctx context.Context, b *bench, place int) error {
	return b.eachMistake(ctx, place, func(x *Exchange, e map[string]any) error {
		if text(e["cniVersion"]) == "" {
			return x.violated("the error has no cniVersion")
		}
		if details, there := e["details"]; there && !isText(details) {
			return x.violated("details are %v", details)
		}
		return nil
	})
}

// eachMistake looks at the errors that mistakes are refused with. That they are
// errors at all is another clause's business, but for what isn't: then the keys
// are missing.
func (b *bench) eachMistake(ctx context.Context, place int, look func(*Exchange, map[string]any) error) error {
	all, err := b.mistakes(ctx, place)
	if err != nil {
		return err
	}
	refused := false
	for _, x := range all {
		if x.Status == 0 {
			continue
		}
		refused = true
		e, err := x.refusal()
		if err != nil {
			return x.violated("%v", err)
		}
		if err := look(x, e); err != nil {
			return err
		}
	}
	if !refused {
		return nothing("it refused nothing")
	}
	return nil
}

// errorVersion takes a mistake that leaves the version readable.
func errorVersion(ctx context.Context, b *bench, place int) error {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return err
	}
	x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), conf: fields{"name": nil}})
	e, err := x.refusal()
	if err != nil || x.Status == 0 {
		return nothing("a configuration without a name isn't refused with an error")
	}
	if got := text(e["cniVersion"]); got != b.version {
		return x.violated("the error's cniVersion is %q, that in use %q", got, b.version)
	}
	return nil
}

func incompatible(ctx context.Context, b *bench, place int) error {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return err
	}
	x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), conf: fields{"cniVersion": "9.9.9"}})
	return x.failsWith("there is no cniVersion 9.9.9", 1)
}

func namesField(ctx context.Context, b *bench, place int) error {
	const key, value = "conformanceUnknown", "conformance-value"
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return err
	}
	x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), conf: fields{key: value}})
	if x.Status == 0 || x.code() != 2 {
		return nothing("an unknown field isn't refused with code 2")
	}
	for _, word := range []string{key, value} {
		if !x.mentions(word) {
			return x.violated("the error doesn't mention %s", word)
		}
	}
	return nil
}

// needed are the variables that operations require.
func needed() map[string][]string {
	return map[string][]string{
		"ADD":   {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"DEL":   {"CNI_CONTAINERID", "CNI_IFNAME"},
		"CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
	}
}

// withoutVariable calls operations, each without a variable that it requires.
func (b *bench) withoutVariable(ctx context.Context, place int, look func(x *Exchange, variable string) error) error {
	a, err := b.attach(ctx)
	if err != nil {
		return err
	}
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		if command == "CHECK" && before(b.version, "0.4.0") {
			continue
		}
		for _, variable := range needed()[command] {
			at, prev := a, a.result()
			if command == "ADD" {
				if at, err = b.prepare(); err != nil {
					return err
				}
				prev = a.previous(place)
			}
			x := b.do(ctx, call{plugin: place, command: command, at: at, prev: prev, unset: []string{variable}})
			if err := look(x, variable); err != nil {
				return err
			}
		}
	}
	return nil
}

func missingVariables(ctx context.Context, b *bench, place int) error {
	err := b.withoutVariable(ctx, place, func(x *Exchange, variable string) error { return x.failsWith(variable+" was missing", 4) })
	if err != nil {
		return err
	}
	a, err := b.prepare()
	if err != nil {
		return err
	}
	return b.do(ctx, call{plugin: place, command: "NONSENSE", at: a}).failsWith("there is no such command", 4)
}

func namesVariables(ctx context.Context, b *bench, place int) error {
	seen := false
	err := b.withoutVariable(ctx, place, func(x *Exchange, variable string) error {
		if x.Status == 0 || x.code() != 4 {
			return nil
		}
		if seen = true; !x.mentions(variable) {
			return x.violated("the error doesn't mention %s", variable)
		}
		return nil
	})
	if err == nil && !seen {
		return nothing("missing variables aren't refused with code 4")
	}
	return err
}

func unreadable(ctx context.Context, b *bench, place int) error {
	a, err := b.addBefore(ctx, place)
	if err != nil {
		return err
	}
	return b.do(ctx, call{plugin: place, command: "ADD", at: a, broken: true}).failsWith("standard input can't be read", 5, 6)
}

func undecodable(ctx context.Context, b *bench, place int) error {
	for _, stdin := range []string{"{", "nonsense", `{"cniVersion": 5, "name": "x"}`} {
		a, err := b.addBefore(ctx, place)
		if err != nil {
			return err
		}
		if err := b.do(ctx, call{plugin: place, command: "ADD", at: a, stdin: &stdin}).failsWith("standard input can't be decoded", 6); err != nil {
			return err
		}
	}
	return nil
}

func invalid(ctx context.Context, b *bench, place int) error {
	for _, name := range []any{nil, "../x"} {
		a, err := b.addBefore(ctx, place)
		if err != nil {
			return err
		}
		x := b.do(ctx, call{plugin: place, command: "ADD", at: a, prev: a.result(), conf: fields{"name": name}})
		if err := x.failsWith("this is no network's name", 7); err != nil {
			return err
		}
	}
	return nil
}

func reservedCodes(ctx context.Context, b *bench, place int) error {
	return b.eachMistake(ctx, place, func(x *Exchange, _ map[string]any) error {
		known := []int64{1, 2, 3, 4, 5, 6, 7, 11, 50, 51}
		if code := x.code(); code < 100 && !slices.Contains(known, code) {
			return x.violated("code %d is reserved", code)
		}
		return nil
	})
}
