package uptime

import (
	"time"

	"golang.org/x/sys/windows"
)

// Now returns the time since the machine was started.
func Now() (time.Duration, error) { return windows.DurationSinceBoot(), nil }
