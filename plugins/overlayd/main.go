// Command overlayd is the node daemon: it holds the node's leases, programs the
// VTEPs, peers and rules of any number of networks, and writes the node state
// that the CNI plugin works from.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/overlay-cni/overlay-cni/pkg/daemon"
)

func main() {
	path := flag.String("config", daemon.DefaultConfig, "the configuration `file` (YAML or JSON)")
	level := slog.LevelInfo
	flag.TextVar(&level, "log-level", level, "the least `level` that is logged: debug, info, warn, error")
	format := flag.String("log-format", "text", "how logs are written: text or json")
	flag.Parse()

	log := newLogger(*format, level)
	if err := run(*path, log); err != nil {
		log.Error("overlayd stopped", "error", err)
		os.Exit(1)
	}
}

func run(path string, log *slog.Logger) error {
	c, err := daemon.ReadConfig(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return daemon.Run(ctx, c, log)
}

func newLogger(format string, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
