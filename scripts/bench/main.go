//go:build linux

// Command bench measures this project side by side with upstream's plugins.
//
//	bench [flags] [start|cni|parallel|ipam|dataplane|scale|all]
//
// Times on a machine that does other things mean little, so whatever is
// compared is measured in turns, in an order that is new in each round, and the
// ratios count. A target is met by the median of the ratios of each round. The
// exit status says whether all could be measured, not whether targets are met.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	bin, upstream, peers string
	state                string
	rounds               int
	quick, json          bool
	slice                time.Duration
	family, traffic      string
	setups               string
	idle                 time.Duration
	cpu                  int
	role                 string
	sections             []string
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if err := start(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start(o *options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.role != "" {
		return play(ctx, o.role)
	}
	return run(ctx, o)
}

// parse reads flags and sections in any order.
func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.bin, "bin", "bin", "the `folder` of our binaries")
	f.StringVar(&o.upstream, "upstream", "bin/peers", "the `folder` of upstream's plugins")
	f.StringVar(&o.peers, "peers", "", "a `folder` with other plugins; flannel is taken from there")
	f.StringVar(&o.state, "state", "", "the `folder` for both sides' state (default: one in memory, where there is one)")
	f.IntVar(&o.rounds, "n", 0, "how many `rounds` (default: each section's own)")
	f.BoolVar(&o.quick, "quick", false, "fewer rounds")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.DurationVar(&o.slice, "slice", 200*time.Millisecond, "dataplane: how long one kind of traffic runs at a time")
	f.StringVar(&o.family, "family", "ipv4", "dataplane: ipv4 or ipv6 between pods")
	f.StringVar(&o.setups, "setups", "ours,plain,masquerade", "dataplane: what is measured: ours, plain, masquerade, norules, routed, plain+`FILE` (for nft -f)")
	f.StringVar(&o.traffic, "traffic", everyTraffic, "dataplane: the `kinds` of traffic")
	f.DurationVar(&o.idle, "idle", 2*time.Minute, "peers: how long it is measured what a daemon takes in quiet times")
	f.IntVar(&o.cpu, "cpu", -1, "dataplane: the `CPU` that everything runs on (default: the last)")
	f.StringVar(&o.role, "role", "", "internal: what this process is within a measurement")
	for len(args) > 0 {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if args = f.Args(); len(args) > 0 {
			o.sections = append(o.sections, args[0])
			args = args[1:]
		}
	}
	if len(o.sections) == 0 || slices.Contains(o.sections, "all") {
		o.sections = []string{"start", "cni", "parallel", "ipam", "dataplane", "scale"}
	}
	if i := slices.Index(o.sections, "scale"); i >= 0 {
		o.sections = slices.Replace(o.sections, i, i+1, "peers", "flanneld", "crowd")
	}
	for _, name := range o.sections {
		if measurements()[name] == nil {
			return nil, fmt.Errorf("no section %q; there are start, cni, parallel, ipam, dataplane, scale (peers, flanneld, crowd) and all", name)
		}
	}
	if o.family != "ipv4" && o.family != "ipv6" {
		return nil, fmt.Errorf("family %q is neither ipv4 nor ipv6", o.family)
	}
	return o, nil
}

// times returns how many rounds a section has.
func (o *options) times(usual, quick int) int {
	switch {
	case o.rounds > 0:
		return o.rounds
	case o.quick:
		return quick
	}
	return usual
}

// measure makes a section.
type measure func(ctx context.Context, o *options, dir string) (*section, error)

func measurements() map[string]measure {
	return map[string]measure{
		"start": measureStart, "cni": measureCNI, "parallel": measureParallel, "ipam": measureIPAM, "dataplane": measureDataplane,
		"peers": measurePeers, "flanneld": measureFlanneld, "crowd": measureCrowd,
	}
}

func run(ctx context.Context, o *options) (err error) {
	dir, err := stateDir(o.state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var made []*section
	var errs []error
	started := time.Now()
	for _, name := range o.sections {
		s, err := measurements()[name](ctx, o, dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		errs = append(errs, s.complete())
		made = append(made, s)
		if !o.json {
			errs = append(errs, s.print(os.Stdout))
		}
	}
	if o.json {
		errs = append(errs, printJSON(os.Stdout, made))
	} else {
		fmt.Printf("\n%s in %.0f s\n", strings.Join(o.sections, ", "), time.Since(started).Seconds())
	}
	return errors.Join(errs...)
}

func printJSON(w io.Writer, made []*section) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(map[string]any{"sections": made}); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}

// play is what a child process does.
func play(ctx context.Context, role string) error {
	switch role {
	case "cni":
		return playRuntime(ctx, os.Stdin, os.Stdout)
	case "traffic-server":
		return playServer(os.Stdin, os.Stdout)
	case "traffic-client":
		return playClient(os.Stdin, os.Stdout)
	}
	return fmt.Errorf("no role %q", role)
}

// inTurns calls fn for each of count contenders in each round, in an order that
// is new each time. Rounds below zero are for warming up.
func inTurns(ctx context.Context, warmup, rounds, count int, fn func(round, contender int) error) error {
	for round := -warmup; round < rounds; round++ {
		for _, i := range rand.Perm(count) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(round, i); err != nil {
				return err
			}
		}
	}
	return nil
}
