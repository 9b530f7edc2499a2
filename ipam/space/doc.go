// Package space gives single addresses of one address space to the attachments
// of all nodes: no node has a block of its own, and no lock is taken over the
// cluster.
//
// # How an address is claimed
//
// Each address that is given is a key in the store, named after the address, so
// that of two claims one fails. Before the store comes the node's own ledger:
//
//	Allocate   ledger takes the address, then the key is created
//	Release    the key is deleted, then the ledger frees the address
//
// So at every instant the ledger holds whatever keys of this machine say, a
// process killed anywhere included, and one more sentence follows: a key of this
// machine that its ledger doesn't know is a leftover, which may be deleted without
// asking anybody. A reboot makes such, for a ledger is believed only within the
// boot that it was written in, and after a reboot no container is left to have the
// address. Who looks for leftovers reads the store first and the ledger after.
//
// Where to begin to look for an address follows from node and attachment, so that
// nodes seldom want the same. In a space that is not nearly full an Allocate costs
// one Create and a Release one Delete. After a few addresses that were taken, the
// store is listed once and what is free is chosen.
//
// # Which keys are this machine's
//
// A claim names node, instance and boot. It is this machine's when two of the
// three agree: a machine that was rebooted, or renamed, or has lost its data
// directory is still itself, as long as only one of these happened. Another one of
// the same name isn't, nor is a copy of its disk that runs under another name.
//
// # What ends a leak
//
// A container that died without Release is released by Collect, which is told
// what lives. Leftovers are cleared away by Collect and Sweep, and by Allocate on
// a machine that holds nothing yet, and where the space seems full. A machine that
// doesn't come back is another matter: see [ReleaseNode].
//
// # A lost ledger
//
// A ledger that was lost while containers run is restored, before it gives an
// address, from the keys that this machine has written in this boot. An Allocate
// that was in between finds that the ledger forgot it, and undoes what it did. (A
// ledger that is lost twice while one operation runs is beyond this.)
package space
