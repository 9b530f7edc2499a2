package history

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Rule is what a history violates.
type Rule string

// The rules.
const (
	// Shared: two attachments definitely held an address at one moment.
	Shared Rule = "address is shared"
	// Outside: an ADD's result has an address outside of the network.
	Outside Rule = "address is outside of the network"
	// Repeated: an ADD's result has an address twice.
	Repeated Rule = "address is repeated"
	// Malformed: the history itself can't be, so it proves nothing.
	Malformed Rule = "history is malformed"
)

// Violation is a rule that is broken, and the events that show it.
type Violation struct {
	Rule    Rule
	Address netip.Addr
	Events  []Event
}

// String has the events in the order of time.
func (v Violation) String() string {
	lines := make([]string, 0, len(v.Events)+1)
	lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s", v.Rule, v.subject())))
	for _, e := range v.Events {
		lines = append(lines, "  "+e.String())
	}
	return strings.Join(lines, "\n")
}

func (v Violation) subject() string {
	if !v.Address.IsValid() {
		return ""
	}
	return v.Address.String()
}

// Check returns what in a history can't be in a network whose addresses are
// those of the CIDRs. The order of the events doesn't matter, their times do.
func Check(cidrs []netip.Prefix, events []Event) []Violation {
	calls, violations := pair(events)
	for i := range calls {
		violations = append(violations, checkResult(cidrs, &calls[i])...)
	}
	return append(violations, checkShared(holds(calls))...)
}

// call is a call with both its events; end has the last of all times when there
// is none.
type call struct{ begin, end Event }

// forever is when what hasn't ended ends.
const forever time.Duration = math.MaxInt64

// pair puts the calls together, in the order of their invocations.
func pair(events []Event) (calls []call, violations []Violation) {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.Time, b.Time) })
	index := make(map[int]int, len(events)) // of a call's number
	for _, e := range events {
		i, known := index[e.Call]
		switch {
		case e.Phase == Invoked && !known:
			index[e.Call] = len(calls)
			calls = append(calls, call{begin: e, end: Event{Time: forever, Phase: Unknown}})
		case e.Phase == Invoked:
			violations = append(violations, Violation{Rule: Malformed, Events: []Event{calls[i].begin, e}})
		case !known:
			violations = append(violations, Violation{Rule: Malformed, Events: []Event{e}})
		case calls[i].end.Time != forever || calls[i].begin.Verb != e.Verb || calls[i].begin.Attachment != e.Attachment:
			violations = append(violations, Violation{Rule: Malformed, Events: []Event{calls[i].begin, e}})
		default:
			calls[i].end = e
		}
	}
	return calls, violations
}

// checkResult looks at the addresses that an ADD has returned.
func checkResult(cidrs []netip.Prefix, c *call) (violations []Violation) {
	if !c.gave() {
		return nil
	}
	for i, a := range c.end.Addresses {
		if !slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			violations = append(violations, Violation{Outside, a, []Event{c.end}})
		}
		if slices.Contains(c.end.Addresses[:i], a) {
			violations = append(violations, Violation{Repeated, a, []Event{c.end}})
		}
	}
	return violations
}

// gave says whether the call gave addresses for certain.
func (c *call) gave() bool { return c.begin.Verb == Add && c.end.Phase == OK }

// hold is a time in which an attachment definitely holds an address.
type hold struct {
	address  netip.Addr
	from, to time.Duration
	add      Event   // that it begins with
	end      []Event // that it ends with, if it does
}

// holds returns all holds that have a duration, ordered by address and begin.
func holds(calls []call) []hold {
	var all []hold
	enders := map[Attachment][]*call{} // what takes addresses away
	for i := range calls {
		if c := &calls[i]; c.begin.Verb != Add {
			enders[c.begin.Attachment] = append(enders[c.begin.Attachment], c)
		}
	}
	for i := range calls {
		c := &calls[i]
		if !c.gave() {
			continue
		}
		h := hold{from: c.end.Time, to: forever, add: c.end}
		h.cut(c, enders[c.begin.Attachment])
		h.cut(c, enders[Attachment{Node: c.begin.Attachment.Node}])
		for _, a := range slices.Compact(slices.SortedFunc(slices.Values(c.end.Addresses), netip.Addr.Compare)) {
			if h.address = a; h.from < h.to {
				all = append(all, h)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b hold) int {
		return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.from, b.from))
	})
	return all
}

// cut ends a hold with the first call that may have ended it: one that wasn't
// over before its ADD began.
func (h *hold) cut(add *call, enders []*call) {
	for _, e := range enders {
		if e.end.Time >= add.begin.Time && e.begin.Time < h.to {
			h.to, h.end = e.begin.Time, []Event{e.begin}
		}
	}
}

// checkShared finds holds of one address, ordered by begin, that overlap.
func checkShared(all []hold) (violations []Violation) {
	var longest hold // of those that began before, of one address
	for _, h := range all {
		if h.address == longest.address && h.from < longest.to && h.add.Attachment != longest.add.Attachment {
			violations = append(violations, shared(&longest, &h))
		}
		if h.address != longest.address || h.to > longest.to {
			longest = h
		}
	}
	return violations
}

func shared(a, b *hold) Violation {
	events := slices.Concat([]Event{a.add, b.add}, a.end, b.end)
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.Time, b.Time) })
	return Violation{Shared, a.address, events}
}
