package lease

import (
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// watched is what a registry has seen of leases that somebody wants to take: how
// long each stood unchanged, by a clock that nobody sets, while the registry
// could see the store. So the time of a notice doesn't pass while the store is
// away, for the owner couldn't object either, nor by setting a clock.
type watched struct {
	mu    sync.Mutex
	began time.Time // the zero of the clock, where it is our own
	seen  map[string]sight
}

// sight is what was seen of one lease.
type sight struct {
	revision    store.Revision
	first, last time.Duration
}

// stood says how long a lease has been seen as it is. Looks that are further
// apart than half a notice are none in a row.
func (w *watched) stood(r *Registry, l *stored) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen, w.began = map[string]sight{}, time.Now()
	}
	now := time.Since(w.began)
	if r.Elapsed != nil {
		now = r.Elapsed()
	}
	for key, s := range w.seen {
		if now-s.last > r.notice()/2 {
			delete(w.seen, key)
		}
	}
	s, ok := w.seen[l.Key()]
	if !ok || s.revision != l.revision {
		s = sight{revision: l.revision, first: now}
	}
	s.last = now
	w.seen[l.Key()] = s
	return now - s.first
}
