package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// safetyInterval is how often a watch looks without having been woken.
const safetyInterval = 30 * time.Second

// Watch calls fn for every change below prefix after the given revision, by
// ascending revision; changes of one key that follow each other quickly, or
// while fn is busy, come as the last of them. It returns what ends it: the error
// of ctx, the error of fn, or an error of the store, which is
// store.ErrCompacted when more deletions followed after than the store
// remembers, or when after has not been reached, so that it is of another store.
func (s *Store) Watch(ctx context.Context, prefix string, after store.Revision, fn func(store.Event) error) error {
	if err := errors.Join(ctx.Err(), store.ValidatePrefix(prefix)); err != nil {
		return fmt.Errorf("watch %q: %w", prefix, err)
	}
	// The subscription comes first: what changes after the first look wakes us.
	wake, unsubscribe, err := s.notifier.subscribe()
	if err != nil {
		return fmt.Errorf("watch %q: %w", prefix, err)
	}
	err = s.watch(ctx, prefix, after, wake, fn)
	return fmt.Errorf("watch %q: %w", prefix, errors.Join(err, unsubscribe()))
}

func (s *Store) watch(ctx context.Context, prefix string, seen store.Revision, wake <-chan struct{}, fn func(store.Event) error) error {
	log, err := s.readSettledChangelog()
	if err != nil {
		return err
	}
	if head := log.head().revision; seen > head {
		return fmt.Errorf("%w: revision %d is not reached, the store is at %d", store.ErrCompacted, seen, head)
	}
	safety := time.NewTicker(safetyInterval)
	defer safety.Stop()
	for {
		events, revision, err := s.eventsAfter(ctx, prefix, seen)
		if err != nil {
			return err
		}
		for _, event := range events {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(event); err != nil {
				return err
			}
		}
		seen = revision
		select {
		case <-wake:
		case <-safety.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// eventsAfter returns the events after a revision, and the revision up to which
// they are all.
func (s *Store) eventsAfter(ctx context.Context, prefix string, seen store.Revision) ([]store.Event, store.Revision, error) {
	now, err := s.state(ctx)
	if err != nil {
		return nil, 0, err
	}
	if now.revision() <= seen {
		return nil, seen, nil
	}
	if event, ok := now.onlyEvent(seen); ok {
		if !strings.HasPrefix(event.Key, prefix) {
			return nil, event.Revision, nil
		}
		return []store.Event{event}, event.Revision, nil
	}
	entries, now, err := s.snapshot(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	if seen < now.floor {
		return nil, 0, fmt.Errorf("%w: revision %d, deletions are remembered after %d", store.ErrCompacted, seen, now.floor)
	}
	return now.events(prefix, seen, entries), now.revision(), nil
}

// onlyEvent is the event of the head when it is done and nothing else happened
// after a revision, which saves reading all the keys.
func (s state) onlyEvent(seen store.Revision) (store.Event, bool) {
	head := s.head()
	if !s.done || head.revision != seen+1 {
		return store.Event{}, false
	}
	if head.deleted {
		return store.Event{Entry: store.Entry{Key: head.key, Revision: head.revision}, Deleted: true}, s.entry.Key == ""
	}
	return store.Event{Entry: s.entry}, s.entry.Revision == head.revision
}

// events are the changes after a revision, by ascending revision, given the
// entries that this state shows. A deletion of a key that exists has been
// superseded, or was never completed.
func (s state) events(prefix string, seen store.Revision, entries []store.Entry) []store.Event {
	var events []store.Event
	exists := map[string]bool{}
	for _, entry := range entries {
		exists[entry.Key] = true
		if entry.Revision > seen {
			events = append(events, store.Event{Entry: entry})
		}
	}
	for _, ch := range s.changes {
		if ch.deleted && ch.revision > seen && strings.HasPrefix(ch.key, prefix) && !exists[ch.key] {
			events = append(events, store.Event{Entry: store.Entry{Key: ch.key, Revision: ch.revision}, Deleted: true})
		}
	}
	slices.SortFunc(events, func(a, b store.Event) int { return cmp.Compare(a.Revision, b.Revision) })
	return events
}
