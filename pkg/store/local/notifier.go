package local

import (
	"fmt"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// notifier wakes the watches of one Store when something may have changed. They
// share what the system hands out sparingly (Linux allows a user 128 inotify
// instances), and it is there only while somebody watches.
type notifier struct {
	dir string

	mu      sync.Mutex
	watcher *fsnotify.Watcher
	wakes   map[chan struct{}]struct{}
}

// subscribe returns a channel that receives after changes, once for any number
// of them, and what ends that.
func (n *notifier) subscribe() (<-chan struct{}, func() error, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			return nil, nil, fmt.Errorf("watch directory %s: %w", n.dir, err)
		}
		if err := watcher.Add(n.dir); err != nil {
			_ = watcher.Close()
			return nil, nil, fmt.Errorf("watch directory %s: %w", n.dir, err)
		}
		n.watcher = watcher
		n.wakes = map[chan struct{}]struct{}{}
		go n.run(watcher)
	}
	wake := make(chan struct{}, 1)
	n.wakes[wake] = struct{}{}
	return wake, func() error { return n.unsubscribe(wake) }, nil
}

// unsubscribe ends a subscription, and with the last one the goroutine.
func (n *notifier) unsubscribe(wake chan struct{}) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.wakes, wake)
	if len(n.wakes) > 0 {
		return nil
	}
	err := n.watcher.Close()
	n.watcher = nil
	return err
}

// run turns events into wakes until the watcher is closed. What an event says
// is of no interest, and neither is an error: it means that events were lost,
// which is a reason to look as well.
func (n *notifier) run(watcher *fsnotify.Watcher) {
	for {
		var open bool
		select {
		case _, open = <-watcher.Events:
		case _, open = <-watcher.Errors:
		}
		if !open {
			return
		}
		n.wake(watcher)
	}
}

func (n *notifier) wake(watcher *fsnotify.Watcher) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watcher != watcher {
		return
	}
	for wake := range n.wakes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}
