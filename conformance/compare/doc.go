// Package compare holds several targets to the clauses of package conformance,
// one after the other on the same machine, and puts side by side what has come
// of it.
//
// A target is a folder with a conflist, a file target.json that says what it is
// and, where it has a daemon, a script daemon.sh that runs it on a node. What is
// known not to hold stands in target.json, with the command that shows it: a
// failure is published when a person has looked at it. Another outcome than the
// known one is an error, in both directions.
package compare
