package local

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// The changelog is the file that numbers the changes. It is replaced before
// each change, so that a revision is used up before anything carries it, and
// it remembers recent deletions, which leave no entry behind. Changes that put
// a value are remembered only while they are the last: the entries themselves
// carry their revisions.
//
//	1f00beef changes 0
//	40 delete network/pods/lease/10.244.1.0-24
//	43 put network/pods/lease/10.244.3.0-24

// maxDeletions is how many deletions are remembered. It bounds what a change
// writes; watchers that fall behind further than that get ErrCompacted.
const maxDeletions = 256

// change is one line of the changelog: what a writer is about to do, or did.
type change struct {
	revision store.Revision
	deleted  bool
	key      string
}

// changelog is the contents of the file: deletions by ascending revision, and
// the last change whatever it is.
type changelog struct {
	// floor is the newest revision of a deletion that is forgotten.
	floor   store.Revision
	changes []change
}

// head is the last change that was begun; the zero change in a new store.
func (c changelog) head() change {
	if len(c.changes) == 0 {
		return change{}
	}
	return c.changes[len(c.changes)-1]
}

// begin is the changelog with one more change, which becomes the head.
//
// A put leaves the older deletions of its key alone: its writer may die before
// it wrote the entry, and then the deletion still is what watchers must learn.
// A deletion replaces older ones of its key, since that key exists until the
// deletion is complete.
func (c changelog) begin(key string, deleted bool) changelog {
	next := changelog{floor: c.floor}
	for _, old := range c.changes {
		if old.deleted && (!deleted || old.key != key) {
			next.changes = append(next.changes, old)
		}
	}
	if drop := len(next.changes) - maxDeletions; drop > 0 {
		next.floor = next.changes[drop-1].revision
		next.changes = slices.Delete(next.changes, 0, drop)
	}
	next.changes = append(next.changes, change{revision: c.head().revision + 1, deleted: deleted, key: key})
	return next
}

// encode is the file of a changelog.
func (c changelog) encode() []byte {
	body := fmt.Appendf(nil, "changes %d\n", c.floor)
	for _, ch := range c.changes {
		verb := "put"
		if ch.deleted {
			verb = "delete"
		}
		body = fmt.Appendf(body, "%d %s %s\n", ch.revision, verb, ch.key)
	}
	return seal(body)
}

// decodeChangelog reads the file of a changelog.
func decodeChangelog(data []byte) (changelog, error) {
	body, err := unseal(data)
	if err != nil {
		return changelog{}, err
	}
	text, ok := strings.CutSuffix(string(body), "\n")
	if !ok {
		return changelog{}, errors.New("last line has no end")
	}
	lines := strings.Split(text, "\n")
	floorText, ok := strings.CutPrefix(lines[0], "changes ")
	if !ok {
		return changelog{}, fmt.Errorf("header %.80q is not that of the changelog", lines[0])
	}
	floor, err := parseRevision(floorText)
	if err != nil {
		return changelog{}, err
	}
	log := changelog{floor: store.Revision(floor)}
	last := log.floor
	for i, line := range lines[1:] {
		ch, err := decodeChange(line)
		if err != nil {
			return changelog{}, err
		}
		if ch.revision <= last || (!ch.deleted && i != len(lines)-2) {
			return changelog{}, fmt.Errorf("change %.80q is out of place", line)
		}
		last = ch.revision
		log.changes = append(log.changes, ch)
	}
	return log, nil
}

func decodeChange(line string) (change, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 || (fields[1] != "put" && fields[1] != "delete") {
		return change{}, fmt.Errorf("%.80q is not a change", line)
	}
	revision, err := parseRevision(fields[0])
	if err != nil {
		return change{}, err
	}
	if err := store.ValidateKey(fields[2]); err != nil {
		return change{}, err
	}
	return change{revision: store.Revision(revision), deleted: fields[1] == "delete", key: fields[2]}, nil
}
