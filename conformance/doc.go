// Package conformance holds CNI plugins to the CNI specification, from outside:
// it executes them as a runtime does, in network namespaces of its own, and
// looks at what they print and at what they did to the kernel.
//
//	report, err := conformance.Run(ctx, conformance.Target{Conflist: conflist, Bin: dirs}, conformance.Options{})
//
// A [Clause] is one thing that a plugin can be held to: in the section [Spec] a
// sentence of SPEC.md with its words, in [Behaviour] what a runtime relies on
// besides, in [Network] what pods on several nodes rely on. A clause passes only
// when something was exercised: where the target has nothing that it is about,
// it is not applicable, with the reason.
//
// Each check has a node, containers and state folders (/run and /var/lib) that
// nobody had before; the machine's own network and files are never touched.
// Those of the network section have three nodes on two links with a router in
// between, if [Target].Joins says that the network is one of several nodes.
// [Target].Daemon is what runs on each node besides. It and the conflist name
// what differs from node to node, as ${INDEX} and ${ADDRESS}.
// Running needs Linux and root. Package conformancetest makes subtests of it,
// the command cni-conformance a table.
package conformance
