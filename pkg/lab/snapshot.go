package lab

// Comparing what was in a host's namespace with what is. Pure.

import (
	"slices"
	"strings"
)

// A Snapshot is the network state of a host as sorted lines of text, see
// [Host.Snapshot].
type Snapshot []string

// String returns the lines.
func (s Snapshot) String() string { return strings.Join(s, "\n") }

// Diff returns what differs in a later snapshot, each line with a "+" if it is
// new and with a "-" if it is gone. Equal snapshots have no difference.
func (s Snapshot) Diff(later Snapshot) []string {
	var diff []string
	before, after := slices.Sorted(slices.Values(s)), slices.Sorted(slices.Values(later))
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0] < after[0]:
			diff, before = append(diff, "- "+before[0]), before[1:]
		case len(before) == 0 || after[0] < before[0]:
			diff, after = append(diff, "+ "+after[0]), after[1:]
		default:
			before, after = before[1:], after[1:]
		}
	}
	return diff
}
