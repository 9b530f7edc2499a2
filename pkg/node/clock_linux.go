package node

import (
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/uptime"
)

// moment is one instant by both clocks: the one by which leases are written, and
// the one that nobody sets.
type moment struct {
	wall   time.Time
	uptime time.Duration
}

func now() (moment, error) {
	up, err := uptime.Now()
	return moment{time.Now(), up}, err
}

// deadline is the uptime at which a lease ends that was written, or read, after
// this moment. One that was known before ends when it was known to: setting the
// clock back makes no lease last longer.
func (m moment) deadline(expires time.Time, previous *nodestate.State) time.Duration {
	if expires.IsZero() {
		return 0
	}
	deadline := m.uptime + expires.Sub(m.wall)
	if previous != nil && previous.Expires.Equal(expires) && previous.Deadline > m.uptime {
		return min(deadline, previous.Deadline)
	}
	return deadline
}
