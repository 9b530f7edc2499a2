// Package reconcile makes the difference between what should exist and what
// exists. Everything this project does to a system goes through it: a pod's
// interface, a node's VTEP with its peers, and the check whether they are
// still as they should be, which is a difference that must be empty.
package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Object is one thing of a system's state: a link, a route, a neighbour. The
// implementations are small comparable values.
type Object interface {
	// Key says which thing this is. It is a comparable value, and differs
	// between kinds. Two objects of one key can't exist together.
	Key() any
	// Matches says whether what exists is as this object wants it: what equals
	// it is. It may leave out what can't be seen, and what the object doesn't
	// care for.
	Matches(have Object) bool
	// Rank orders kinds: what others depend on has the lower rank, is
	// created first and removed last.
	Rank() int
	// String is the object in one line, in the words of the system's own
	// tools, for people, logs and golden files.
	String() string
}

// Change is one step from what exists to what should exist.
type Change struct {
	// Want is nil when Have is to be removed.
	Want Object
	// Have is nil when Want doesn't exist yet.
	Have Object
}

// String describes the difference: what is missing, differs or is too much.
func (c Change) String() string {
	switch {
	case c.Have == nil:
		return "missing: " + c.Want.String()
	case c.Want == nil:
		return "unexpected: " + c.Have.String()
	default:
		return fmt.Sprintf("differs: %s, should be %s", c.Have, c.Want)
	}
}

// Subject is the object that the change is about: Want, or Have where it is
// to be removed.
func (c Change) Subject() Object {
	if c.Want != nil {
		return c.Want
	}
	return c.Have
}

// Scope says what becomes of objects that exist and aren't wanted.
type Scope bool

// The scopes of a difference.
const (
	// Shared: others may have objects there too; only what is wanted counts.
	Shared Scope = false
	// Owned: all that was observed is ours, so what isn't wanted goes.
	Owned Scope = true
)

// Diff returns the changes that lead from have to want, in the order in which
// they are to be made: what is added or changed, foundations first; then what
// is removed, foundations last. So at no time is less there than before and
// after. Of several wanted objects with one key the last counts.
func Diff(want, have []Object, scope Scope) []Change {
	want, have = unsettled(want, have)
	existing := make(map[any]Object, len(have))
	for _, h := range have {
		existing[h.Key()] = h
	}
	wanted := make(map[any]int, len(want))
	for i, w := range want {
		wanted[w.Key()] = i
	}
	var changes, removals []Change
	for i, w := range want {
		if wanted[w.Key()] != i {
			continue
		}
		if h := existing[w.Key()]; h == nil || !w.Matches(h) {
			changes = append(changes, Change{Want: w, Have: h})
		}
	}
	if scope == Owned {
		for _, h := range have {
			if _, ok := wanted[h.Key()]; !ok {
				removals = append(removals, Change{Have: h})
			}
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Want.Rank(), b.Want.Rank()) })
	slices.SortStableFunc(removals, func(a, b Change) int { return cmp.Compare(b.Have.Rank(), a.Have.Rank()) })
	return append(changes, removals...)
}

// unsettled leaves out what is just as it's wanted, and that is nearly all: of
// tens of thousands of objects no table by key is made. What is left has all
// objects of the keys that it's about.
func unsettled(want, have []Object) (unmet, odd []Object) {
	settled := make(map[Object]bool, len(have)) // what exists: whether it's wanted
	for _, h := range have {
		settled[h] = false
	}
	open := map[any]bool{}
	for _, w := range want {
		if _, ok := settled[w]; ok {
			settled[w] = true
		} else {
			open[w.Key()] = true
		}
	}
	for _, h := range have {
		if !settled[h] {
			open[h.Key()] = true
		}
	}
	if len(open) == 0 {
		return nil, nil
	}
	isSettled := func(o Object) bool { return !open[o.Key()] }
	return slices.DeleteFunc(slices.Clone(want), isSettled), slices.DeleteFunc(slices.Clone(have), isSettled)
}

// Target is a system, or a part of one, that can be looked at and changed.
type Target interface {
	// Observe returns what exists.
	Observe(ctx context.Context) ([]Object, error)
	// Apply makes changes, in order. It goes on after a failed one and
	// returns all errors joined, each naming its object.
	Apply(ctx context.Context, changes []Change) error
}

// Run observes the target and makes the difference. It returns the changes
// that were needed, also when making them failed.
func Run(ctx context.Context, target Target, want []Object, scope Scope) ([]Change, error) {
	changes, err := Check(ctx, target, want, scope)
	if err != nil || len(changes) == 0 {
		return changes, err
	}
	return changes, target.Apply(ctx, changes)
}

// settlePasses bounds Settle: one pass to make the difference, one for what a
// recreated object took with it, one that finds nothing left.
const settlePasses = 3

// Settle runs until there is no difference any more. Some changes undo others:
// a link that must be created anew loses its addresses and routes.
func Settle(ctx context.Context, target Target, want []Object, scope Scope) ([]Change, error) {
	var made []Change
	for range settlePasses {
		changes, err := Run(ctx, target, want, scope)
		made = append(made, changes...)
		if err != nil || len(changes) == 0 {
			return made, err
		}
	}
	changes, err := Check(ctx, target, want, scope)
	if err != nil {
		return made, err
	}
	return made, Drift(changes)
}

// Check observes the target and returns the difference, changing nothing.
func Check(ctx context.Context, target Target, want []Object, scope Scope) ([]Change, error) {
	have, err := target.Observe(ctx)
	if err != nil {
		return nil, err
	}
	return Diff(want, have, scope), nil
}

// DriftError is a difference that should not be there.
type DriftError struct{ Changes []Change }

// Error lists the changes, one after the other.
func (e *DriftError) Error() string {
	lines := make([]string, len(e.Changes))
	for i, c := range e.Changes {
		lines[i] = c.String()
	}
	return strings.Join(lines, "; ")
}

// Drift returns a *DriftError for changes, or nil when there are none.
func Drift(changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	return &DriftError{changes}
}

// IsDrift says whether an error is a difference rather than a failure to look.
func IsDrift(err error) bool {
	var d *DriftError
	return errors.As(err, &d)
}

// Format prints objects one per line, sorted by rank and then text: the form
// of golden files.
func Format(objects []Object) string {
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Rank(), b.Rank()), strings.Compare(a.String(), b.String()))
	})
	var b strings.Builder
	for _, o := range sorted {
		b.WriteString(o.String())
		b.WriteByte('\n')
	}
	return b.String()
}
