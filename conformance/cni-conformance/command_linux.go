package main

// The command line: run and list.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/conformance"
)

// The exit statuses.
const (
	allHold     = 0
	broken      = 1 // a MUST, or with --strict any clause
	wrongUsage  = 2
	couldNotRun = 3
)

const usage = `cni-conformance holds CNI plugins to the CNI specification 1.1.0. It needs root.

  cni-conformance run --conflist FILE --bin DIR[:DIR] [flags]   check the plugins of a network configuration
  cni-conformance list [--unchecked]                            show all clauses with their quotes
  cni-conformance compare --bin DIR[:DIR] [flags] TARGET...     check targets, each a folder, and put them side by side

Each check has a network namespace for a node, others for containers, and empty
/run and /var/lib: nothing of the machine is touched. The network section has
three nodes. What differs from node to node the conflist's texts may name:
${NODE}, ${INDEX} (from 1 on), ${ADDRESS}, ${ADDRESS6}, ${SHARED} (a folder that
the nodes share) and ${API}.

Exit status: 0 all MUSTs hold, 1 one doesn't (with --strict any clause), 2 wrong
usage or a target that attaches no container, 3 the suite couldn't do its work.

Flags of run:
`

// errUsage says that the command line is wrong.
var errUsage = errors.New("wrong usage")

// order is what the command line asks a run for.
type order struct {
	conflist, bin, runtimeConfig, args string
	daemon, api                        string
	joins                              bool
	json, junit                        string
	clauses                            []string
	strict, everyVersion, quiet        bool
	parallel                           int
	timeLimit                          time.Duration
	convergence                        time.Duration
}

// execute runs a command and returns the exit status.
func execute(ctx context.Context, args []string, out, errOut io.Writer) int {
	status, err := dispatch(ctx, args, out, errOut)
	if err != nil {
		fmt.Fprintf(errOut, "cni-conformance: %v\n", err)
	}
	return status
}

func dispatch(ctx context.Context, args []string, out, errOut io.Writer) (int, error) {
	var o order
	flags := o.flags(errOut)
	if len(args) == 0 {
		flags.Usage()
		return wrongUsage, nil
	}
	switch args[0] {
	case "run":
		if err := o.parse(flags, args[1:]); errors.Is(err, flag.ErrHelp) {
			return allHold, nil
		} else if err != nil {
			return wrongUsage, err
		}
		return o.run(ctx, out, errOut)
	case "list":
		return list(args[1:], out, errOut)
	case "compare":
		return compareTargets(ctx, args[1:], out, errOut)
	case "help", "-h", "-help", "--help":
		flags.SetOutput(out)
		flags.Usage()
		return allHold, nil
	}
	return wrongUsage, fmt.Errorf("%w: no command %q; there are run, list, compare and help", errUsage, args[0])
}

func (o *order) flags(errOut io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("cni-conformance run", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.StringVar(&o.conflist, "conflist", "", "network configuration `FILE`, as in /etc/cni/net.d")
	f.StringVar(&o.bin, "bin", os.Getenv("CNI_PATH"), "folders with the plugins, `DIR[:DIR]`")
	f.StringVar(&o.runtimeConfig, "runtime-config", "", "capability arguments, a `JSON` object; a plugin gets those that it declares")
	f.StringVar(&o.args, "cni-args", "", "CNI_ARGS, `KEY=VALUE;...`")
	f.StringVar(&o.daemon, "daemon", "", "`COMMAND` for /bin/sh that runs on each node; the conflist's variables are in its environment")
	f.BoolVar(&o.joins, "nodes", false, "the network joins the pods of several nodes: check the network section, too")
	f.StringVar(&o.api, "api", "", "`URL` of an API server that plugins call; they reach it at ${API}, and requests are counted")
	f.StringVar(&o.json, "json", "", "write the report as JSON to `FILE`")
	f.StringVar(&o.junit, "junit", "", "write the report as JUnit does to `FILE`")
	f.Func("clause", "check only clauses that match the pattern `GLOB`; may be repeated", func(s string) error {
		o.clauses = append(o.clauses, s)
		return nil
	})
	f.BoolVar(&o.strict, "strict", false, "a SHOULD or MAY that doesn't hold counts as a MUST does")
	f.BoolVar(&o.everyVersion, "every-version", false, "check all clauses in each cniVersion, not only those it matters for")
	f.IntVar(&o.parallel, "parallel", 0, "how many clauses are checked at once; 0 means two for each processor")
	f.DurationVar(&o.convergence, "convergence", 0, "how long nodes may take to get ready and to learn of each other; 0 means 30s")
	f.DurationVar(&o.timeLimit, "time-limit", 0, "how long a call may take; 0 means 10s")
	f.BoolVar(&o.quiet, "quiet", false, "show no progress")
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	return f
}

func (o *order) parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("%w: %q is no flag", errUsage, f.Arg(0))
	case o.conflist == "":
		return fmt.Errorf("%w: --conflist is missing", errUsage)
	case o.bin == "":
		return fmt.Errorf("%w: --bin is missing", errUsage)
	}
	return nil
}

// target reads what is tested.
func (o *order) target() (conformance.Target, error) {
	t := conformance.Target{Bin: filepath.SplitList(o.bin), Args: o.args, Daemon: o.daemon, Joins: o.joins, API: o.api}
	var err error
	if t.Conflist, err = os.ReadFile(o.conflist); err != nil {
		return t, fmt.Errorf("%w: --conflist: %w", errUsage, err)
	}
	if o.runtimeConfig != "" {
		if err := json.Unmarshal([]byte(o.runtimeConfig), &t.RuntimeConfig); err != nil {
			return t, fmt.Errorf("%w: --runtime-config: %w", errUsage, err)
		}
	}
	return t, nil
}

func (o *order) run(ctx context.Context, out, errOut io.Writer) (int, error) {
	t, err := o.target()
	if err != nil {
		return wrongUsage, err
	}
	options := conformance.Options{
		Clauses: o.clauses, EveryVersion: o.everyVersion, Parallel: o.parallel, TimeLimit: o.timeLimit, Convergence: o.convergence,
	}
	if !o.quiet {
		options.Progress = func(done, of int, one conformance.Outcome) {
			fmt.Fprintf(errOut, "[%d/%d] %s %s\n", done, of, one.Clause.ID, one.Verdict)
		}
	}
	report, err := conformance.Run(ctx, t, options)
	if errors.Is(err, conformance.ErrTarget) {
		return wrongUsage, err
	}
	if err != nil {
		return couldNotRun, err
	}
	if err := o.write(report, out); err != nil {
		return couldNotRun, err
	}
	if !report.Holds(o.strict) {
		return broken, nil
	}
	return allHold, nil
}

// write writes the report in all forms that are asked for.
func (o *order) write(report *conformance.Report, out io.Writer) error {
	err := file(o.json, report.WriteJSON)
	junit := func(w io.Writer) error { return report.WriteJUnit(w, o.strict) }
	return errors.Join(err, file(o.junit, junit), report.Write(out))
}

// file writes a file, if it has a name.
func file(name string, write func(io.Writer) error) (err error) {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}

// list shows the clauses, or the sentences that have none.
func list(args []string, out, errOut io.Writer) (int, error) {
	f := flag.NewFlagSet("cni-conformance list", flag.ContinueOnError)
	f.SetOutput(errOut)
	unchecked := f.Bool("unchecked", false, "show the sentences of SPEC.md that no clause checks, and why")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return allHold, nil
	} else if err != nil {
		return wrongUsage, fmt.Errorf("%w: %w", errUsage, err)
	}
	if *unchecked {
		for _, u := range conformance.Unchecked() {
			fmt.Fprintf(out, "%s\n    %q\n", u.Reason, u.Quote)
		}
		return allHold, nil
	}
	for _, c := range conformance.Clauses() {
		fmt.Fprintf(out, "%-10s %-19s %-6s %s\n    %q\n", c.Section, c.ID, c.Level, c.Of, strings.TrimSpace(c.Quote))
		if c.Note != "" {
			fmt.Fprintf(out, "    %s\n", c.Note)
		}
	}
	return allHold, nil
}
