package firewall

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Forward is a chain of ours in the table in which today's iptables keeps its
// FORWARD chain, and the jump to it from there. The rules are such as iptables
// itself would have written, so that it lists them as its own.
type Forward struct {
	Family lease.Family
	Name   string
	Digest [sha256.Size]byte // of the chain's rules
	Jump   bool              // FORWARD has the jump
}

// Key implements reconcile.Object.
func (f Forward) Key() any { return struct{ forward lease.Family }{f.Family} }

// Matches implements reconcile.Object.
func (f Forward) Matches(have reconcile.Object) bool { return f == have }

// Rank implements reconcile.Object.
func (f Forward) Rank() int { return 0 }

// String names the chain.
func (f Forward) String() string {
	return fmt.Sprintf("%s chain %s of filter FORWARD (%x, jump %t)", f.Family, f.Name, f.Digest[:4], f.Jump)
}

// forward is the reconcile target of one family's chain.
type forward struct {
	ip     packet
	rules  [][]expr.Any
	chain  *nftables.Chain
	parent *nftables.Chain // FORWARD; nil where iptables has none
}

// newForward returns the target that accepts a network's packets on their way
// through the node. Docker and others set the policy of FORWARD to DROP, which
// no rule elsewhere can lift.
func newForward(r *Rules, f lease.Family) *forward {
	family := nftables.TableFamilyIPv4
	if f == lease.IPv6 {
		family = nftables.TableFamilyIPv6
	}
	table := &nftables.Table{Name: "filter", Family: family}
	t := &forward{
		ip:    packet{f},
		chain: &nftables.Chain{Name: r.forwardChain(f).Name, Table: table},
	}
	for _, p := range of(f, r.CIDRs) {
		t.rules = append(t.rules, t.accept(source, p), t.accept(destination, p))
	}
	return t
}

func (t *forward) accept(f field, p netip.Prefix) []expr.Any {
	return append(t.ip.match(f, p), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
}

// find looks for iptables' FORWARD chain.
func (t *forward) find() error {
	conn, err := dial()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChainsOfTableFamily(t.chain.Table.Family)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == t.chain.Table.Name && c.Name == "FORWARD" {
			t.parent = c
		}
	}
	return nil
}

// objects returns what should exist.
func (t *forward) objects() ([]reconcile.Object, error) {
	digest, err := t.digest(t.rules)
	if err != nil {
		return nil, err
	}
	return []reconcile.Object{Forward{Family: t.ip.Family, Name: t.chain.Name, Digest: digest, Jump: true}}, nil
}

// digest is over rules, but for what their counters have counted.
func (t *forward) digest(rules [][]expr.Any) (digest [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, exprs := range rules {
		fmt.Fprint(h, "\nrule")
		for _, e := range exprs {
			if _, ok := e.(*expr.Counter); ok {
				continue
			}
			raw, err := expr.Marshal(byte(t.chain.Table.Family), e)
			if err != nil {
				return digest, fmt.Errorf("encode rule of chain %s: %w", t.chain.Name, err)
			}
			fmt.Fprintf(h, " %x", raw)
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Observe implements reconcile.Target.
func (t *forward) Observe(context.Context) ([]reconcile.Object, error) {
	conn, err := dial()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	rules, err := conn.GetRules(t.chain.Table, t.chain)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables chain %s: %w", t.chain.Name, err)
	}
	jumps, err := t.jumps(conn)
	if err != nil {
		return nil, err
	}
	if len(rules) == 0 && len(jumps) == 0 && !t.exists(conn) {
		return nil, nil
	}
	exprs := make([][]expr.Any, len(rules))
	for i, r := range rules {
		exprs[i] = r.Exprs
	}
	digest, err := t.digest(exprs)
	if err != nil {
		return nil, err
	}
	return []reconcile.Object{Forward{Family: t.ip.Family, Name: t.chain.Name, Digest: digest, Jump: len(jumps) > 0}}, nil
}

// exists says whether the chain is there, which an empty list of rules doesn't.
func (t *forward) exists(conn *nftables.Conn) bool {
	chains, err := conn.ListChainsOfTableFamily(t.chain.Table.Family)
	return err == nil && slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
		return c.Table.Name == t.chain.Table.Name && c.Name == t.chain.Name
	})
}

// jumps returns FORWARD's rules that lead to our chain.
func (t *forward) jumps(conn *nftables.Conn) ([]*nftables.Rule, error) {
	rules, err := conn.GetRules(t.chain.Table, t.parent)
	if err != nil {
		return nil, fmt.Errorf("list nftables chain %s: %w", t.parent.Name, err)
	}
	return slices.DeleteFunc(rules, func(r *nftables.Rule) bool {
		return !slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
			v, ok := e.(*expr.Verdict)
			return ok && v.Kind == expr.VerdictJump && v.Chain == t.chain.Name
		})
	}), nil
}

// Apply implements reconcile.Target, in one transaction for each change.
func (t *forward) Apply(_ context.Context, changes []reconcile.Change) error {
	for _, c := range changes {
		if err := t.write(c.Want != nil); err != nil {
			return err
		}
	}
	return nil
}

func (t *forward) write(present bool) error {
	conn, err := dial()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	jumps, err := t.jumps(conn)
	if err != nil {
		return err
	}
	conn.AddChain(t.chain)
	conn.FlushChain(t.chain)
	switch {
	case present:
		for _, exprs := range t.rules {
			conn.AddRule(&nftables.Rule{Table: t.chain.Table, Chain: t.chain, Exprs: exprs})
		}
		if len(jumps) == 0 {
			// Last: it lifts the policy, and no drop of anybody's.
			last := append([]expr.Any{&expr.Counter{}}, jump(t.chain.Name)...)
			conn.AddRule(&nftables.Rule{Table: t.chain.Table, Chain: t.parent, Exprs: last})
		}
	default:
		for _, j := range jumps {
			if err := conn.DelRule(j); err != nil {
				return fmt.Errorf("delete jump to chain %s: %w", t.chain.Name, err)
			}
		}
		conn.DelChain(t.chain)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables chain %s: %w", t.chain.Name, err)
	}
	return nil
}

// legacyFilter says whether the legacy iptables filters for a family.
func legacyFilter(f lease.Family) bool {
	return slices.Contains(strings.Fields(LegacyTables(f)), "filter")
}
