package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

func stateWith(pooled bool, problem string, blocks ...string) *nodestate.State {
	s := &nodestate.State{Network: lease.Network{Name: "pods"}, Problem: problem}
	if pooled {
		s.Network.Pools = []lease.Pool{{CIDR: netip.MustParsePrefix("10.244.0.0/16"), BlockLength: 26}}
	}
	for _, b := range blocks {
		s.VTEP = vtep.Spec{Blocks: append(s.VTEP.Blocks, netip.MustParsePrefix(b))}
	}
	return s
}

// TestExhausted: full blocks are no reason to say that ADD would fail while the
// node may get another.
func TestExhausted(t *testing.T) {
	t.Parallel()
	full, other := fmt.Errorf("%w in 10.244.0.1-10.244.0.62", ipam.ErrFull), errors.New("disk is full")
	for _, test := range []struct {
		err   error
		state *nodestate.State
		want  string // "": nothing
	}{
		{nil, stateWith(true, "no free block"), ""},
		{full, stateWith(false, ""), "no free address"},
		{full, stateWith(true, ""), ""},
		{full, stateWith(true, "no free block"), "add a pool to network pods"},
		{other, stateWith(true, ""), "disk is full"},
	} {
		err := exhausted(test.err, test.state)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v with problem %q: got %v, want %q", test.err, test.state.Problem, err, test.want)
		}
	}
}

// TestWithBlocks: an ADD tries again when, and only when, the node has other
// blocks.
func TestWithBlocks(t *testing.T) {
	t.Parallel()
	first, same, more := stateWith(true, "", "10.244.0.0/26"), stateWith(true, "", "10.244.0.0/26"), stateWith(true, "", "10.244.0.0/26", "10.244.0.64/26")
	states := []*nodestate.State{same, same, more, same}
	var tried []int
	err := withBlocks(t.Context(), first, func() (*nodestate.State, error) {
		next := states[0]
		states = states[1:]
		return next, nil
	}, func(s *nodestate.State) error {
		if tried = append(tried, len(s.Blocks())); len(s.Blocks()) > 1 {
			return nil
		}
		return ipam.ErrFull
	})
	if err != nil || fmt.Sprint(tried) != "[1 2]" {
		t.Errorf("got %v after %v", err, tried)
	}
	unready := func() (*nodestate.State, error) { return nil, nodestate.ErrNotReady }
	full := func(*nodestate.State) error { return ipam.ErrFull }
	if err := withBlocks(t.Context(), first, unready, full); !errors.Is(err, nodestate.ErrNotReady) {
		t.Errorf("the state was lost: got %v", err)
	}
	if err := withBlocks(t.Context(), stateWith(false, ""), unready, full); !errors.Is(err, ipam.ErrFull) || strings.Contains(err.Error(), "overlayd") {
		t.Errorf("without pools: got %v", err)
	}
}
