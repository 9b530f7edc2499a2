package space

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// probes is how many addresses are tried before the store is listed.
const probes = 8

// search is the search for addresses for one request.
type search struct {
	space    *Space
	req      ipam.Request
	choosers []*chooser   // by set
	chosen   []netip.Addr // by set
	taken    map[netip.Addr]bool
	failed   int
	surveyed bool
}

// newSearch begins a search. A machine that holds nothing may have been booted:
// that is when its leftovers are to be cleared away, whether or not anybody asks
// for it.
func (s *Space) newSearch(ctx context.Context, req ipam.Request) (*search, error) {
	usage, err := s.ledger.Usage(ctx, req.Sets)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(usage, func(u ipam.Usage) bool { return u.Taken > 0 }) {
		if err := s.Sweep(ctx); err != nil {
			return nil, err
		}
	}
	x := &search{space: s, req: req, chosen: make([]netip.Addr, len(req.Sets)), taken: map[netip.Addr]bool{}}
	x.req.Addresses = make([]netip.Addr, len(req.Addresses))
	for i, a := range req.Addresses {
		x.req.Addresses[i] = a.Unmap()
	}
	node := digest(s.machine.Node)
	random := rand.New(rand.NewPCG(node, digest(req.Attachment.ContainerID, req.Attachment.Interface)))
	for _, set := range req.Sets {
		x.choosers = append(x.choosers, newChooser(set, node, random))
	}
	return x, nil
}

func digest(texts ...string) uint64 {
	h := fnv.New64a()
	for _, text := range texts {
		fmt.Fprintf(h, "%q", text)
	}
	return h.Sum64()
}

// next is the request with an address for each set, or as it is if the attachment
// holds addresses, which the ledger gives again.
func (x *search) next(ctx context.Context) (req ipam.Request, again bool, err error) {
	req = x.req
	held, err := x.space.ledger.Lookup(ctx, req.Attachment)
	if err != nil || len(held) > 0 {
		return req, true, err
	}
	if x.failed >= probes {
		if err := x.survey(ctx); err != nil {
			return req, false, err
		}
	}
	req.Addresses = slices.Clone(x.req.Addresses)
	for n, c := range x.choosers {
		if slices.ContainsFunc(x.req.Addresses, func(a netip.Addr) bool { return gives(c.set, a) }) {
			continue
		}
		a, err := x.choose(ctx, n)
		if err != nil {
			return req, false, err
		}
		req.Addresses = append(req.Addresses, a)
	}
	return req, false, nil
}

// choose proposes an address for a set: the one before, until it is known to be
// taken.
func (x *search) choose(ctx context.Context, n int) (netip.Addr, error) {
	if a := x.chosen[n]; a.IsValid() && !x.taken[a] {
		return a, nil
	}
	a, ok := x.choosers[n].next(x.taken)
	if !ok {
		// It may be that only leftovers are in the way.
		if err := x.survey(ctx); err != nil {
			return a, err
		}
		if a, ok = x.choosers[n].next(x.taken); !ok {
			return a, fmt.Errorf("%w in %v of space %s", ipam.ErrFull, x.req.Sets[n], x.space.name)
		}
	}
	x.chosen[n] = a
	return a, nil
}

// survey finds out, once, what is taken, and clears leftovers away.
func (x *search) survey(ctx context.Context) error {
	if x.surveyed {
		return nil
	}
	v, err := x.space.look(ctx)
	if err != nil {
		return err
	}
	if err := x.space.clear(ctx, v.leftovers(x.space.machine)); err != nil {
		return err
	}
	x.taken = v.taken(x.space.machine)
	x.surveyed = true
	return nil
}

// learn takes from an attempt's error what is taken. It returns the error if no
// other address can help.
func (x *search) learn(ctx context.Context, err error) error {
	x.failed++
	if !errors.Is(err, ipam.ErrTaken) || errors.Is(err, ErrUnavailable) {
		return err
	}
	var lost *lostError
	if errors.As(err, &lost) {
		x.taken[lost.claim.Address] = true
		if slices.Contains(x.req.Addresses, lost.claim.Address) {
			return err
		}
		return nil
	}
	held, lookErr := x.space.ledger.All(ctx)
	if lookErr != nil {
		return lookErr
	}
	for _, h := range held { // by other attachments of this node
		x.taken[h.Address] = true
		if slices.Contains(x.req.Addresses, h.Address) {
			return err
		}
	}
	return nil
}
