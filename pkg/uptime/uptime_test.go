package uptime_test

import (
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/uptime"
)

func TestNow(t *testing.T) {
	t.Parallel()
	wall := time.Now()
	first, err := uptime.Now()
	if err != nil || first <= 0 {
		t.Fatalf("got %s, %v", first, err)
	}
	const pause = 20 * time.Millisecond
	<-time.After(pause)
	second, err := uptime.Now()
	if passed := time.Since(wall); err != nil || second-first < pause || second-first > passed {
		t.Errorf("%s passed of %s, %v", second-first, passed, err)
	}
}
