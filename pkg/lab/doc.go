// Package lab makes hosts for tests, demonstrations and benchmarks: network
// namespaces joined by an underlay of bridged segments and a router.
//
//	segment a  172.30.1.0/24 fd00:30:1::/64      segment b  172.30.2.0/24 fd00:30:2::/64
//	  |         |         |                        |         |
//	node n1   node n2    VM v1 .... router ..... node n3    VM v2
//	  |  pods                                      |  pods
//
// A namespace of a lab has no name in /run/netns and no bind mount: it lives
// as long as a process has it open, and that process is the lab's. When the
// lab's process ends, by kill -9 too, the kernel removes the namespaces with
// all that is in them. Child processes started with [Host.Command] die with it.
// What remains are files in one directory per lab, which the next [New] on the
// machine removes, together with processes that the lab's children had started
// themselves. Labs don't share anything, so any number may run side by side.
//
// The hosts are bare: no forwarding and no firewall, whatever the machine's own
// settings are. Duplicate address detection is off for the underlay's
// interfaces only, so that a program which forgets about it is found out.
//
// Making a lab needs root.
package lab
