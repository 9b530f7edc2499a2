// Package labtest makes labs for tests: what can't be made fails the test, and
// the lab ends with it. See package lab.
package labtest
