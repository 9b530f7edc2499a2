package lab

// The end of everything that waits on the network.

import (
	"context"
	"fmt"
	"time"
)

// exchangeDeadline ends an exchange whose context has no deadline.
const exchangeDeadline = 5 * time.Second

// Retries start soon, as what is new in the lab is usable within
// milliseconds, and grow seldom.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 250 * time.Millisecond
)

// withDeadline gives ctx a deadline if it has none.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, exchangeDeadline)
}

// ended tells why an exchange came to nothing: ctx's end, and what the kernel
// had said before that, if anything.
func ended(ctx context.Context, last error) error {
	if last == nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w, before that: %w", context.Cause(ctx), last)
}

// pause waits before something is tried again, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}
