package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Peer is an element of the set of addresses that a network's VXLAN packets come
// from.
type Peer struct {
	Table, Set string
	Address    netip.Addr
}

// Key implements reconcile.Object.
func (p Peer) Key() any { return p }

// Matches implements reconcile.Object.
func (p Peer) Matches(have reconcile.Object) bool { return p == have }

// Rank implements reconcile.Object.
func (p Peer) Rank() int { return 0 }

// String is in the words of nft(8).
func (p Peer) String() string {
	return fmt.Sprintf("element inet %s %s { %s }", p.Table, p.Set, p.Address)
}

// peers is the reconcile target of the set's elements. They are written before the
// table, whose rules drop what others send, and stay when it is replaced.
type peers struct {
	table *nftables.Table
	set   *nftables.Set
	want  []netip.Addr
}

// newPeers returns the target for a network's rules; nil where they have no set.
func newPeers(n *NFTables) *peers {
	set := peerSet(n.table, n.rules)
	if set == nil {
		return nil
	}
	return &peers{table: n.table, set: set, want: n.rules.Peers}
}

// objects returns what should exist.
func (p *peers) objects() []reconcile.Object {
	objects := make([]reconcile.Object, len(p.want))
	for i, a := range p.want {
		objects[i] = p.element(a)
	}
	return objects
}

func (p *peers) element(a netip.Addr) Peer { return Peer{p.table.Name, p.set.Name, a} }

// Observe implements reconcile.Target.
func (p *peers) Observe(context.Context) ([]reconcile.Object, error) {
	conn, err := dial(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }() // nothing to lose: a query only
	have, err := p.look(conn)
	if err != nil || have == nil || setText(have) != setText(p.set) {
		return nil, err
	}
	addresses, err := elements(conn, p.set)
	if err != nil {
		return nil, err
	}
	objects := make([]reconcile.Object, len(addresses))
	for i, a := range addresses {
		objects[i] = p.element(a)
	}
	return objects, nil
}

// look returns the set of this name; nil where there is none.
func (p *peers) look(conn *nftables.Conn) (*nftables.Set, error) {
	have, err := conn.GetSetByName(p.table, p.set.Name)
	if isMissing(err) {
		return nil, nil //nolint:nilnil // no set is an answer here
	}
	if err != nil {
		return nil, fmt.Errorf("look for nftables set %s: %w", p.set.Name, err)
	}
	return have, nil
}

// elements returns the addresses in a set, sorted; none when there is no such set.
func elements(conn *nftables.Conn, set *nftables.Set) ([]netip.Addr, error) {
	have, err := conn.GetSetElements(set)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables set %s: %w", set.Name, err)
	}
	addresses := make([]netip.Addr, 0, len(have))
	for i := range have {
		if a, ok := netip.AddrFromSlice(have[i].Key); ok {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), nil
}

// peersAtOnce is how many elements a transaction has. A message holds 64 KiB of
// them, and a transaction must fit the socket's buffer.
const peersAtOnce = 1000

// Apply implements reconcile.Target.
func (p *peers) Apply(_ context.Context, changes []reconcile.Change) error {
	var more, less []nftables.SetElement
	for _, c := range changes {
		e, ok := c.Subject().(Peer)
		switch {
		case !ok:
		case c.Want == nil:
			less = append(less, nftables.SetElement{Key: e.Address.AsSlice()})
		default:
			more = append(more, nftables.SetElement{Key: e.Address.AsSlice()})
		}
	}
	conn, err := dial(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	err = p.prepare(conn)
	if err == nil {
		err = errors.Join(p.write(conn, more, conn.SetAddElements), p.write(conn, less, conn.SetDeleteElements))
	}
	return errors.Join(err, conn.CloseLasting())
}

// prepare makes the set where there is none. One that is of another kind goes, with
// all rules, since these may be about it: they come back with the table.
func (p *peers) prepare(conn *nftables.Conn) error {
	have, err := p.look(conn)
	if err != nil || have != nil && setText(have) == setText(p.set) {
		return err
	}
	conn.AddTable(p.table)
	if have != nil {
		conn.FlushTable(p.table)
		conn.DelSet(have)
	}
	if err := conn.AddSet(p.set, nil); err != nil {
		return fmt.Errorf("add nftables set %s: %w", p.set.Name, err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add nftables set %s: %w", p.set.Name, err)
	}
	return nil
}

// write adds or deletes elements.
func (p *peers) write(conn *nftables.Conn, all []nftables.SetElement, message func(*nftables.Set, []nftables.SetElement) error) error {
	for some := range slices.Chunk(all, peersAtOnce) {
		err := message(p.set, some)
		if err == nil {
			err = conn.Flush()
		}
		if err != nil {
			return fmt.Errorf("write %d elements of nftables set %s of table %s: %w", len(some), p.set.Name, p.table.Name, err)
		}
	}
	return nil
}

// Strangers returns, sorted, who lately sent VXLAN packets of the network and is
// none of its peers, those of iptables aside. Who has become a peer is forgotten.
func (w Firewall) Strangers(r *Rules) ([]netip.Addr, error) {
	if w.usesIPTables() || !r.Underlay.IsValid() {
		return nil, nil
	}
	conn, err := dial(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }() // nothing to lose: each change is acknowledged
	set := strangerSet(NewNFTables(r).table, r)
	found, err := elements(conn, set)
	if err != nil {
		return nil, err
	}
	var strangers []netip.Addr
	for _, a := range found {
		if !slices.Contains(r.Peers, a) {
			strangers = append(strangers, a)
			continue
		}
		err := conn.SetDeleteElements(set, []nftables.SetElement{{Key: a.AsSlice()}})
		if err == nil {
			err = conn.Flush()
		}
		if err != nil && !isMissing(err) { // it had its time
			return nil, fmt.Errorf("delete element %s of nftables set %s: %w", a, set.Name, err)
		}
	}
	return strangers, nil
}
