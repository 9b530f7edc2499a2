// Package filelock locks open files between processes. The system gives a lock
// back when its holder ends, however it ends.
package filelock

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// Mode says whom a lock excludes.
type Mode int

// The modes.
const (
	Shared    Mode = iota // excludes Exclusive
	Exclusive             // excludes all others
)

// How long to wait between two tries. A blocking lock would wake at once, but
// couldn't be given up. What is done under our locks takes from ten
// microseconds to some milliseconds, so the first pauses are about the former,
// and don't leave the file idle for long when many wait. Where that isn't enough
// the machine is short of processors, and the holder must not be kept from them
// by those who wait: from then on a pause is a part of the time waited, which
// delays nobody by more than that part.
const (
	firstPause = 20 * time.Microsecond
	shortPause = time.Millisecond
	lastPause  = 50 * time.Millisecond
	pausePart  = 16 // of the time waited
)

// longest is the longest pause of who has waited for a time.
func longest(waited time.Duration) time.Duration {
	return min(max(shortPause, waited/pausePart), lastPause)
}

// Wait takes the lock of an open file, or returns ctx's cause when that ends
// first. A lock belongs to the open file: two of one process exclude each
// other when each has opened the file itself.
func Wait(ctx context.Context, f *os.File, mode Mode) error {
	var timer *time.Timer
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longest(time.Since(began))) {
		locked, err := Try(f, mode)
		if err != nil {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if locked {
			return nil
		}
		// Half of the pause is chance, so that those who wait don't come
		// together.
		wait := pause/2 + rand.N(pause/2)
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else {
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
