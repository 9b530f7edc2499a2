package conformance

// Section 2, STATUS and VERSION.

import (
	"context"
	"strings"
)

func statusClauses() []Clause {
	const of = "Section 2: STATUS"
	const forwarded = "If a plugin relies on a delegated plugin (e.g. IPAM) to service `ADD` requests, it must also execute a `STATUS` request to that plugin when it receives a `STATUS` request for itself."
	all := []Clause{
		spec("2.4-status-01", Must, of, "A plugin must exit with a zero (success) return code if the plugin is ready to service ADD requests.", readyWhenServing),
		spec("2.4-status-02", Must, of, "If the plugin knows that it is not able to service ADD requests, it must exit with a non-zero return code and output an error on standard out (see below).",
			statusPrintsError).note("whenever STATUS fails, an error is on standard output"),
		spec("2.4-status-03", Should, of, "it should return an error if those resources are exhausted and no new `ADD` requests can be serviced.", exhausted).
			note("up to eight containers are added until an ADD fails; a small range of addresses makes it apply"),
		spec("2.4-status-04", Should, of, "The following error codes are defined in the context of `STATUS`:", statusCode).note("STATUS fails with 50 or 51"),
		spec("2.4-status-05", Must, of, "A plugin MUST NOT rely on `STATUS` being called.", addWithoutStatus),
		spec("2.4-status-06", Should, of, "Plugins should always expect other CNI operations (like `ADD`, `DEL`, etc) even if `STATUS` returns an error.", othersAfterStatus),
		spec("2.4-status-07", Must, of, forwarded, delegatesStatus).where(needsDelegate),
		spec("2.4-status-08", Should, of, "If the delegated plugin return an error result, the executing plugin should return an error result.", passesStatusError).
			where(needsDelegate),
	}
	for i := range all {
		all[i].Since = "1.1.0"
	}
	return all
}

func (b *bench) status(ctx context.Context, place int) *Exchange {
	return b.do(ctx, call{plugin: place, command: "STATUS"})
}

func readyWhenServing(ctx context.Context, b *bench) error {
	for i := range b.plugins {
		x := b.status(ctx, i)
		if x.Status == 0 {
			continue
		}
		if _, err := b.attach(ctx); err != nil {
			return err
		}
		return x.violated("it failed%s; the ADD after it was served", x.said())
	}
	_, err := b.attach(ctx)
	return err
}

// unready brings about that STATUS fails: by a delegated plugin, or by as many
// containers as there are addresses. The second value is whether an ADD really
// has failed.
func (b *bench) unready(ctx context.Context) (*Exchange, error) {
	for _, place := range b.delegates() {
		if err := b.shim(place); err != nil {
			return nil, err
		}
		if err := b.fail("STATUS"); err != nil {
			return nil, err
		}
		if x := b.status(ctx, place); x.Status != 0 {
			return x, nil
		}
		b.unshim()
	}
	if err := b.exhaust(ctx); err != nil {
		return nil, err
	}
	for i := range b.plugins {
		if x := b.status(ctx, i); x.Status != 0 {
			return x, nil
		}
	}
	return nil, nothing("STATUS couldn't be made to fail")
}

// exhaust adds containers until an ADD fails.
func (b *bench) exhaust(ctx context.Context) error {
	const most = 8
	for range most {
		if _, err := b.attach(ctx); isNothing(err) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nothing("%d ADDs exhaust nothing, so STATUS can't be made to fail", most)
}

func statusPrintsError(ctx context.Context, b *bench) error {
	x, err := b.unready(ctx)
	if err != nil {
		return err
	}
	if _, err := x.refusal(); err != nil {
		return x.violated("%v", err)
	}
	return nil
}

func statusCode(ctx context.Context, b *bench) error {
	x, err := b.unready(ctx)
	if err != nil {
		return err
	}
	return x.failsWith("these are defined for STATUS", 50, 51)
}

func exhausted(ctx context.Context, b *bench) error {
	if err := b.exhaust(ctx); err != nil {
		return err
	}
	var first *Exchange
	for i := range b.plugins {
		x := b.status(ctx, i)
		if x.Status != 0 {
			return nil
		}
		if first == nil {
			first = x
		}
	}
	return first.fails("the last ADD found nothing left")
}

func addWithoutStatus(ctx context.Context, b *bench) error {
	_, err := b.attach(ctx)
	if !isNothing(err) {
		return err
	}
	for i := range b.plugins {
		b.status(ctx, i)
	}
	a, prepareErr := b.prepare()
	if prepareErr != nil {
		return prepareErr
	}
	if x := b.add(ctx, a); x.Status == 0 {
		return x.violated("ADD is served after STATUS, and wasn't before")
	}
	return err
}

func othersAfterStatus(ctx context.Context, b *bench) error {
	a, err := b.attach(ctx)
	if err != nil {
		return err
	}
	if _, err := b.unready(ctx); err != nil {
		return err
	}
	if err := b.all(ctx, "CHECK", a).succeeds("STATUS had failed, the container was as before"); err != nil {
		return err
	}
	return b.all(ctx, "DEL", a).succeeds("STATUS had failed, the container was as before")
}

func delegatesStatus(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error { return b.wasDelegated(b.status(ctx, place)) })
}

func passesStatusError(ctx context.Context, b *bench) error {
	return b.eachDelegate(ctx, func(place int, _ *attachment) error {
		if x := b.status(ctx, place); x.Status != 0 {
			return nothing("STATUS failed before%s", x.said())
		}
		if err := b.fail("STATUS"); err != nil {
			return err
		}
		return b.status(ctx, place).fails("the delegated plugin's STATUS failed, or should have been called")
	})
}

func versionClauses() []Clause {
	const keys = "Plugins must output a JSON object with the following keys upon a `VERSION` operation:"
	return []Clause{
		spec("2.4-version-01", Should, "Section 2: VERSION", "The plugin should output via standard-out a json-serialized version result object (see below).",
			perPlugin(printsVersion)).each().note("with CNI_COMMAND and nothing else in the environment"),
		spec("5.2-version-01", Must, "Section 5: VERSION Success", keys, perPlugin(versionKeys)).each().note("cniVersion and supportedVersions are there"),
		spec("5.2-version-02", Must, "Section 5: VERSION Success", "- `cniVersion`: The value of `cniVersion` specified on input", perPlugin(echoesVersion)).each().
			note("a key of the object that plugins must output"),
		spec("5.2-version-03", Must, "Section 5: Version", "- `supportedVersions`: A list of supported specification versions", perPlugin(supportsWhatItSays)).each().
			note("a key of the object that plugins must output: ADD isn't refused with code 1 in a version that is listed, and is served in the one of the run"),
	}
}

func printsVersion(ctx context.Context, b *bench, place int) error {
	x := b.do(ctx, call{plugin: place, command: "VERSION"})
	if err := x.succeeds("VERSION needs only CNI_COMMAND and cniVersion"); err != nil {
		return err
	}
	if _, err := x.object(); err != nil {
		return x.violated("%v", err)
	}
	return nil
}

// version calls VERSION, which works: if not is another clause's business.
func (b *bench) versionOf(ctx context.Context, place int) (*Exchange, map[string]any, error) {
	x := b.do(ctx, call{plugin: place, command: "VERSION"})
	o, err := x.object()
	if err != nil || x.Status != 0 {
		return x, nil, nothing("%s VERSION doesn't work", x.Plugin)
	}
	return x, o, nil
}

func versionKeys(ctx context.Context, b *bench, place int) error {
	x, o, err := b.versionOf(ctx, place)
	if err != nil {
		return err
	}
	if text(o["cniVersion"]) == "" {
		return x.violated("there is no cniVersion")
	}
	if !isTexts(o["supportedVersions"]) || len(strs(o["supportedVersions"])) == 0 {
		return x.violated("supportedVersions is %v", o["supportedVersions"])
	}
	return nil
}

func echoesVersion(ctx context.Context, b *bench, place int) error {
	x, o, err := b.versionOf(ctx, place)
	if err != nil {
		return err
	}
	if got := text(o["cniVersion"]); got != b.version {
		return x.violated("cniVersion is %q, that on input was %q", got, b.version)
	}
	return nil
}

func supportsWhatItSays(ctx context.Context, b *bench, place int) error {
	if _, _, err := b.versionOf(ctx, place); err != nil {
		return err
	}
	x, err := b.sampled(ctx, place)
	if err != nil {
		return err
	}
	if x.code() == 1 {
		return x.violated("VERSION lists %s, and ADD refuses it (%s)", b.version, strings.TrimSpace(x.Stdout))
	}
	return b.attached(x)
}
