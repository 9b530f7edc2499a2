// Command overlayctl is the operator's tool: what a node's ledgers hold, whether
// that is so, how to come back from a lost one; networks, external peers and leases
// in the store that the nodes share; and the lab, hosts in network namespaces of
// this machine that run the real binaries.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// What the program ends with.
const (
	exitFailed = 1 // also when an audit found differences
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "overlayctl:", err)
	if errors.Is(err, errUsage) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}
