package cluster_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// sampler takes the kernel for a witness of what pods really have.
type sampler struct {
	run *run
	// told has who was reported to share an address; once is enough.
	told map[[2]*pod]bool
}

// sighting is an address seen on a pod's interface. Interfaces of a namespace
// never get an index that another one had.
type sighting struct {
	pod     *pod
	index   int
	address netip.Addr
}

// sampling is the time between two looks at all pods.
const sampling = 10 * time.Millisecond

func (s *sampler) work(ctx context.Context) {
	for ctx.Err() == nil {
		s.look()
		pause(ctx, sampling)
	}
}

// look reads the addresses of all pods, one after the other. Two pods that were
// seen with one address had it at one moment if the first still has it, on the
// same interface.
func (s *sampler) look() {
	first := map[netip.Addr]sighting{}
	for _, m := range s.run.members {
		for _, p := range m.all() {
			seen := s.read(p)
			s.run.counts.add("addresses sampled", len(seen))
			for _, x := range seen {
				y, known := first[x.address]
				if !known || y.pod == p {
					first[x.address] = x
				} else if slices.Contains(s.read(y.pod), y) {
					s.tell(y.pod, p, x.address)
				}
			}
		}
	}
}

func (s *sampler) tell(a, b *pod, address netip.Addr) {
	s.run.t.Helper()
	if pair := [2]*pod{a, b}; !s.told[pair] {
		s.told[pair] = true
		s.run.t.Errorf("%s: in the kernel, %s and %s both have %s", time.Since(s.run.recorder.start), a, b, address)
	}
}

// read returns the network's addresses that a pod has; none when it is gone.
func (s *sampler) read(p *pod) (seen []sighting) {
	var found []netlink.Addr
	err := p.Do(func() (err error) {
		found, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		if !errors.Is(err, lab.ErrDown) && !errors.Is(err, netlink.ErrDumpInterrupted) {
			s.run.t.Error(err)
		}
		return nil
	}
	for _, f := range found {
		a, ok := netip.AddrFromSlice(f.IP)
		if a = a.Unmap(); ok && slices.ContainsFunc(s.run.cidrs, func(c netip.Prefix) bool { return c.Contains(a) }) {
			seen = append(seen, sighting{p, f.LinkIndex, a})
		}
	}
	return seen
}
