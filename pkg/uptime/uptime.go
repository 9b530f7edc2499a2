// Package uptime is a clock that nobody sets: the time since the machine was
// started, in which it slept or not. All processes of one boot read the same.
package uptime
