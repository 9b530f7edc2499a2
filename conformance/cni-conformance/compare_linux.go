package main

// The command compare.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/conformance"
	"github.com/overlay-cni/overlay-cni/conformance/compare"
)

// compareTargets holds targets to the clauses. The status says whether what
// doesn't hold is what is known not to.
func compareTargets(ctx context.Context, args []string, out, errOut io.Writer) (int, error) {
	f := flag.NewFlagSet("cni-conformance compare", flag.ContinueOnError)
	f.SetOutput(errOut)
	bin := f.String("bin", os.Getenv("CNI_PATH"), "folders with plugins and programs, `DIR[:DIR]`")
	markdown := f.String("markdown", "", "write the comparison to `FILE`")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return allHold, nil
	} else if err != nil {
		return wrongUsage, fmt.Errorf("%w: %w", errUsage, err)
	}
	targets, err := readTargets(f.Args(), filepath.SplitList(*bin))
	if err != nil {
		return wrongUsage, err
	}
	begins := func(t *compare.Target) { fmt.Fprintf(errOut, "%s\n", t.Name) }
	progress := func(done, of int, o conformance.Outcome) {
		if o.Verdict == conformance.Fail {
			fmt.Fprintf(errOut, "  [%d/%d] %s %s\n", done, of, o.Clause.ID, o.Verdict)
		}
	}
	c, err := compare.Run(ctx, targets, conformance.Options{Progress: progress}, begins)
	if err != nil {
		return couldNotRun, err
	}
	if err := errors.Join(file(*markdown, c.Markdown), c.Write(out)); err != nil {
		return couldNotRun, err
	}
	surprises := c.Surprises()
	for _, s := range surprises {
		fmt.Fprintf(out, "\n%s\n", s)
	}
	if len(surprises) > 0 {
		return broken, nil
	}
	return allHold, nil
}

func readTargets(dirs, bin []string) ([]*compare.Target, error) {
	if len(dirs) == 0 {
		return nil, fmt.Errorf("%w: no target is named", errUsage)
	}
	var all []*compare.Target
	for _, dir := range dirs {
		t, err := compare.Read(dir, bin)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		all = append(all, t)
	}
	return all, nil
}
