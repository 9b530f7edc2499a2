// Command overlayd is the node daemon: it holds the node's leases, programs the
// VTEPs, peers and rules of any number of networks, and writes the node state
// that the CNI plugin works from.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/overlay-cni/overlay-cni/pkg/daemon"
)

// gcPercent is less than Go's own 100, unless the environment says otherwise. What
// a node with ten thousand peers knows of them stays, and a sync leaves garbage
// of its size: this saves a fifth of the memory, for a tenth more CPU time while
// nodes come and go, and nothing else.
const gcPercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	path := flag.String("config", daemon.DefaultConfig, "the configuration `file` (YAML or JSON)")
	level := slog.LevelInfo
	flag.TextVar(&level, "log-level", level, "the least `level` that is logged: debug, info, warn, error")
	format := flag.String("log-format", "text", "how logs are written: text or json")
	flag.Usage = usage
	flag.Parse()

	log := newLogger(*format, level)
	if err := run(*path, flag.Args(), log); err != nil {
		log.Error("overlayd stopped", "error", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprint(flag.CommandLine.Output(), `overlayd [flags]         runs the node daemon
overlayd [flags] leave   takes a node without pods out of all networks for good, and gives its leases back
`)
	flag.PrintDefaults()
}

func run(path string, args []string, log *slog.Logger) error {
	do := daemon.Run
	switch {
	case len(args) == 1 && args[0] == "leave":
		do = daemon.Leave
	case len(args) > 0:
		return fmt.Errorf("unknown command %q; overlayd -h says what there is", strings.Join(args, " "))
	}
	c, err := daemon.ReadConfig(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return do(ctx, c, log)
}

func newLogger(format string, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
