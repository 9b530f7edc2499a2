// Package history judges what a cluster's runtimes were told, in the spirit of
// Jepsen: calls are recorded with the times of their begin and end, and the
// record is searched for what no correct cluster can have answered, whatever
// happened to its nodes meanwhile. It is pure.
//
// An attachment definitely holds the addresses of an ADD from the ADD's return
// until the invocation of its DEL, or the beginning of its node's loss. Before
// and after that it may hold them: a call that was killed proves nothing.
package history

import (
	"fmt"
	"net/netip"
	"time"
)

// Verb is what was called.
type Verb string

// The verbs of a history. Lose is no call of a runtime: it is the loss of a
// node with all that ran on it.
const (
	Add  Verb = "ADD"
	Del  Verb = "DEL"
	Lose Verb = "LOSE"
)

// Phase is where in its life a call is.
type Phase string

// A call is invoked and comes to one end. Unknown is the end of one that was
// killed: it may have done all, a part or nothing.
const (
	Invoked Phase = "invoked"
	OK      Phase = "ok"
	Failed  Phase = "failed"
	Unknown Phase = "unknown"
)

// Attachment is what holds addresses.
type Attachment struct {
	Node string
	// Pod is unique on its node for all times; "" for the loss of a node.
	Pod string
}

// String names the pod as people do: node/pod.
func (a Attachment) String() string {
	if a.Pod == "" {
		return a.Node
	}
	return a.Node + "/" + a.Pod
}

// Event is the begin or the end of a call.
type Event struct {
	// Time since the history's beginning, by a monotonic clock.
	Time time.Duration
	// Call is the same for a call's begin and end, and no other's.
	Call       int
	Phase      Phase
	Verb       Verb
	Attachment Attachment
	// Addresses are the result of an ADD that is OK.
	Addresses []netip.Addr
}

// String is a line for people.
func (e Event) String() string {
	s := fmt.Sprintf("%s %s %s %s", e.Time.Round(time.Microsecond), e.Verb, e.Attachment, e.Phase)
	if len(e.Addresses) > 0 {
		s += fmt.Sprintf(" %v", e.Addresses)
	}
	return s
}
