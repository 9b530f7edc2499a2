package labtest

// Labs, nodes, machines and pods which a test can't do without.

import (
	"os"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// New makes a lab that is closed when the test ends. Without root the test
// fails: a test that was skipped has proved nothing.
func New(tb testing.TB, t lab.Topology) *lab.Lab {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("this test makes network namespaces and needs root")
	}
	l, err := lab.New(tb.Context(), t)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// Node adds a node to the lab.
func Node(tb testing.TB, l *lab.Lab, name, segment string) *lab.Node {
	tb.Helper()
	n, err := l.AddNode(name, segment)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// VM adds a machine that is no node to the lab.
func VM(tb testing.TB, l *lab.Lab, name, segment string) *lab.Machine {
	tb.Helper()
	m, err := l.AddVM(name, segment)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Pod makes a pod on a node.
func Pod(tb testing.TB, n *lab.Node, name string) *lab.Pod {
	tb.Helper()
	p, err := n.NewPod(name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// Server serves a port of a host until the test ends.
func Server(tb testing.TB, h *lab.Host, port uint16) *lab.Server {
	tb.Helper()
	s, err := h.Serve(tb.Context(), port)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}
