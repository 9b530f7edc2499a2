package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// killed is what is known of a store whose writers get killed.
type killed struct {
	// values are the acknowledged ones.
	values map[string]string
	// last is the highest revision that anybody has seen.
	last store.Revision
}

// TestKilledWriters kills a writing process at random instants, again and
// again, and looks for what it left.
func TestKilledWriters(t *testing.T) {
	t.Parallel()
	const kills = 120
	dir := t.TempDir()
	know := &killed{values: map[string]string{}}
	watched := watchAlong(t, dir)
	for i := range kills {
		var env []string
		if i%2 == 0 {
			env = append(env, roleVariable+"_NOSYNC=1")
		}
		writer := startChild(t, "write", dir, env...)
		know.followWriter(t, writer, rand.N(6*time.Millisecond))
		know.checkStore(t, open(t, dir, Options{}))
		if t.Failed() {
			t.Fatalf("after %d kills", i+1)
		}
	}
	t.Logf("%d kills, %d revisions", kills, know.last)
	watched(know.values)
}

// followWriter notes what the writer says, and kills it some time after its
// first change has begun. The change that was under way then may have been made
// or not, which is found out.
func (k *killed) followWriter(t *testing.T, writer *child, delay time.Duration) {
	var key, value string
	for {
		line, ok := writer.line()
		if !ok {
			break
		}
		fields := strings.Fields(line)
		switch {
		case len(fields) == 3 && fields[0] == "try":
			if key == "" && delay >= 0 {
				time.AfterFunc(delay, writer.kill)
				delay = -1
			}
			key, value = fields[1], fields[2]
		case len(fields) == 2 && fields[0] == "done":
			k.acknowledge(t, key, value, fields[1])
			key = ""
		default:
			// The line that the process was killed in the middle of.
		}
	}
	if err := writer.Wait(); err == nil || writer.ProcessState.ExitCode() == 1 {
		t.Errorf("writer ended by itself: %v", err)
	}
	if key != "" {
		k.resolve(t, key, value, writer)
	}
}

func (k *killed) acknowledge(t *testing.T, key, value, revisionText string) {
	revision, err := parseRevision(revisionText)
	if err != nil {
		t.Error(err)
	}
	if value == "-" {
		delete(k.values, key)
		return
	}
	k.values[key] = value
	k.grow(t, store.Revision(revision))
}

func (k *killed) grow(t *testing.T, revision store.Revision) {
	if revision <= k.last {
		t.Errorf("revision %d was used again, the last was %d", revision, k.last)
	}
	k.last = revision
}

// resolve finds out whether the last change was made.
func (k *killed) resolve(t *testing.T, key, value string, writer *child) {
	s := open(t, dirOf(writer), Options{})
	entry, err := s.Get(t.Context(), key)
	before, existed := k.values[key]
	switch {
	case err == nil && existed && string(entry.Value) == before:
	case err == nil && string(entry.Value) == value:
		k.values[key] = value
		k.grow(t, entry.Revision)
	case errors.Is(err, store.ErrNotFound) && !existed:
	case errors.Is(err, store.ErrNotFound) && value == "-":
		delete(k.values, key)
	default:
		t.Errorf("%s holds %q (%v): neither %q as before nor %q", key, entry.Value, err, before, value)
	}
}

func dirOf(c *child) string {
	for _, variable := range c.Env {
		if dir, ok := strings.CutPrefix(variable, roleVariable+"_DIR="); ok {
			return dir
		}
	}
	return ""
}

// checkStore compares the store with what was acknowledged, and changes it once.
func (k *killed) checkStore(t *testing.T, s *Store) {
	entries, revision, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if got := valuesOf(entries); !maps.Equal(got, k.values) {
		t.Errorf("store holds %v, acknowledged was %v", got, k.values)
	}
	if revision < k.last {
		t.Errorf("store is at revision %d, before %d", revision, k.last)
	}
	created, err := s.Create(t.Context(), "check", nil)
	if err != nil {
		t.Fatal(err)
	}
	k.grow(t, created)
	if created <= revision {
		t.Errorf("revision %d was used again, the store was at %d", created, revision)
	}
	if err := s.Delete(t.Context(), "check", created); err != nil {
		t.Fatal(err)
	}
}

func valuesOf(entries []store.Entry) map[string]string {
	values := map[string]string{}
	for _, entry := range entries {
		values[entry.Key] = string(entry.Value)
	}
	return values
}

// watchAlong watches while writers live and die, and returns what compares all
// that was watched with what should be there.
func watchAlong(t *testing.T, dir string) func(want map[string]string) {
	s := open(t, dir, Options{})
	state, ended := map[string]string{}, make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- s.Watch(ctx, "", 0, func(event store.Event) error {
			delete(state, event.Key)
			switch {
			case event.Key == "last":
				return errEnough
			case !event.Deleted:
				state[event.Key] = string(event.Value)
			}
			return nil
		})
	}()
	return func(want map[string]string) {
		if _, err := s.Create(t.Context(), "last", nil); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Second, cancel)
		if err := <-ended; !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
		if !maps.Equal(state, want) {
			t.Errorf("watched state is %v, want %v", state, want)
		}
	}
}

// TestInterruptedChange puts a store into each state in which a writer can die,
// and goes on from there.
func TestInterruptedChange(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		deleted bool
		key     string
		applied bool
		want    map[string]string
	}{
		{"create numbered", false, "new", false, map[string]string{"kept": "1", "victim": "2"}},
		{"create made", false, "new", true, map[string]string{"kept": "1", "victim": "2", "new": "3"}},
		{"update numbered", false, "victim", false, map[string]string{"kept": "1", "victim": "2"}},
		{"update made", false, "victim", true, map[string]string{"kept": "1", "victim": "3"}},
		{"delete numbered", true, "victim", false, map[string]string{"kept": "1", "victim": "2"}},
		{"delete made", true, "victim", true, map[string]string{"kept": "1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir(), Options{})
			ctx := t.Context()
			for _, key := range []string{"kept", "victim"} {
				if _, err := s.Create(ctx, key, fmt.Append(nil, len(key)/5+1)); err != nil {
					t.Fatal(err)
				}
			}
			interrupt(t, s, change{key: test.key, deleted: test.deleted}, test.applied)

			entries, at, err := s.List(ctx, "")
			if err != nil || !maps.Equal(valuesOf(entries), test.want) {
				t.Fatalf("List = %v, %v; want %v", valuesOf(entries), err, test.want)
			}
			settled := store.Revision(2)
			if test.applied {
				settled = 3
			}
			if revision, err := s.Revision(ctx); at != settled || revision != settled || err != nil {
				t.Errorf("store is at %d and %d (%v), want %d", at, revision, err, settled)
			}
			if got := watchUntil(t, s, 2, "next"); test.applied != (got[test.key].Revision == 3) || len(got) > 2 {
				t.Errorf("watch delivered %v", got)
			}
			if entry, err := s.Get(ctx, "next"); err != nil || entry.Revision != 4 {
				t.Errorf("next change has revision %d (%v), want 4", entry.Revision, err)
			}
		})
	}
}

// interrupt does what a writer does until it is killed: with the number taken,
// or with the change made and the lock not released.
func interrupt(t *testing.T, s *Store, ch change, applied bool) {
	t.Helper()
	log, err := s.readChangelog()
	if err != nil {
		t.Fatal(err)
	}
	log = log.begin(ch.key, ch.deleted)
	err = s.files.replace(s.changesPath(), log.encode())
	switch {
	case err != nil || !applied:
	case ch.deleted:
		err = s.files.remove(s.entryPath(ch.key), s.keysPath())
	default:
		entry := store.Entry{Key: ch.key, Value: []byte("3"), Revision: log.head().revision}
		err = s.files.replace(s.entryPath(ch.key), encodeEntry(entry))
	}
	if err == nil {
		err = s.files.write(s.files.scratch+"/new", []byte("half of a fi"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// watchUntil watches, creates a key, and returns the events up to that one.
func watchUntil(t *testing.T, s *Store, after store.Revision, last string) map[string]store.Event {
	t.Helper()
	got := map[string]store.Event{}
	if _, err := s.Create(t.Context(), last, nil); err != nil {
		t.Fatal(err)
	}
	err := s.Watch(soon(t), "", after, func(event store.Event) error {
		got[event.Key] = event
		if event.Key == last {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	return got
}

// TestInterruptedDeletion: a put that never happened doesn't make the store
// forget that its key was deleted before.
func TestInterruptedDeletion(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), Options{})
	revision, err := s.Create(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "a", revision); err != nil {
		t.Fatal(err)
	}
	interrupt(t, s, change{key: "a"}, false)
	if got := watchUntil(t, s, revision, "b"); !got["a"].Deleted || got["a"].Revision != 2 {
		t.Errorf("watch delivered %v, want the deletion of a at 2", got)
	}
}
