// Package ctl is what overlayctl does on a node, without a daemon: it shows the
// node's ledgers, compares them with the live interfaces, and rebuilds one that
// is lost or corrupt.
package ctl
