// Package ipam gives addresses to attachments on one node.
//
// A Ledger is a file that says which attachment (a container's interface)
// holds which address of one network. It is shared by short-lived processes:
// each opens it, does one operation under an exclusive lock and exits. The
// time an operation takes does not grow with the number of addresses taken.
//
// # What survives what
//
// A process killed at any instant leaves a ledger in which its operation has
// happened entirely or not at all. Each address has a record, and the records
// are the truth; everything else (the index by attachment, the index by
// address, the queues of freed addresses, the counts) follows from them. An
// operation numbers itself, marks the header dirty, writes records and indexes,
// and ends with one write of the header that clears the mark and publishes its
// number. Whoever finds the mark set undoes, record by record, what bears an
// unpublished number, and derives the rest anew.
//
// Nothing of an operation is synced to the disk, and nothing has to be. What a
// killed process wrote is in the page cache, where the next process finds it.
// Only a power failure or a crash of the kernel loses the page cache, and after
// these no container runs: the header names the boot it was written in, in a
// sector that is synced once and not changed until the next boot, and a ledger
// of another boot is started anew whatever else it holds.
//
// # Blocks that come and go
//
// What requests may have is named by the requests, and they may be a moment late.
// So a node that gives a block back says so here first: Withdraw fails while an
// address of it is held, and from then on none is given, whatever a request names,
// until Admit. The list of what is withdrawn is in the file and changes with the
// header that ends an operation.
//
// The next boot forgets it with the rest, and that is right: what is withdrawn is
// what requests of this boot may still name. After a boot nobody has named
// anything yet, the node begins with the blocks that its store says are its own,
// and no address is given before it has published these. A list that outlived
// the boot could only keep back a block that has been claimed again.
//
// # What is and what should be
//
// Audit compares the ledger with what lives and with the node's blocks, and a
// Collector says what of it has leaked for long enough to be freed, which
// ReleaseIf does unless it was taken again meanwhile. What was requested Elsewhere
// has an interface that nobody here can look at, and never counts as leaked.
//
// Inspect is for people and programs that only look: it reads all of a ledger, also
// what is left of a corrupt one, and changes nothing.
//
// # What is refused
//
// A file that is neither whole nor empty nor of another boot is refused with
// ErrCorrupt, because to guess might be to give an address twice. Rebuild
// writes a new one from the attachments that are alive, and RebuildFrom also from
// what can still be read of the old one.
package ipam
