// Package node brings one network up on one node, and keeps it so: it acquires
// the lease, works out what should exist, makes the kernel agree, and writes
// the node state for the plugin. The daemon calls it again and again; without
// a daemon the plugin calls it once.
package node
