package firewall

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// TablePrefix begins the names of our nftables tables; the network's follows.
const TablePrefix = "overlay-cni-"

// Table is a whole nftables table. Its digest covers chains, sets and rules as
// the kernel holds them, so that a rule changed by somebody else is noticed.
type Table struct {
	Name   string
	Digest [sha256.Size]byte
	Chains string // "name(rules) ...", for people
}

// Key implements reconcile.Object.
func (t Table) Key() any { return struct{ table string }{t.Name} }

// Matches implements reconcile.Object.
func (t Table) Matches(have reconcile.Object) bool { return t == have }

// Rank implements reconcile.Object.
func (t Table) Rank() int { return 0 }

// String is in the words of nft(8).
func (t Table) String() string {
	return fmt.Sprintf("table inet %s with chains %s (%x)", t.Name, t.Chains, t.Digest[:4])
}

// NFTables is the reconcile target of one network's table.
type NFTables struct {
	rules *Rules
	table *nftables.Table
	plan  tablePlan
}

// NewNFTables returns the target for a network's rules in the network
// namespace of the process.
func NewNFTables(r *Rules) *NFTables {
	table := &nftables.Table{Name: shortened(TablePrefix, r.Network, unix.NFT_NAME_MAXLEN-1), Family: nftables.TableFamilyINet}
	return &NFTables{rules: r, table: table, plan: planTable(table, r)}
}

// Objects returns what should exist: the table.
func (n *NFTables) Objects() ([]reconcile.Object, error) {
	want, err := describe(n.table, &n.plan)
	if err != nil {
		return nil, err
	}
	return []reconcile.Object{want}, nil
}

// Observe implements reconcile.Target.
func (n *NFTables) Observe(context.Context) ([]reconcile.Object, error) {
	conn, err := dial(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }() // nothing to lose: a query only
	table, err := conn.ListTableOfFamily(n.table.Name, n.table.Family)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	have, err := n.observe(conn)
	if err != nil {
		return nil, fmt.Errorf("list nftables table %s: %w", n.table.Name, err)
	}
	object, err := describe(table, &have)
	if err != nil {
		return nil, err
	}
	return []reconcile.Object{object}, nil
}

// exists says whether the table is there, with its rules: the set of peers comes
// first.
func (n *NFTables) exists() bool {
	conn, err := dial()
	if err != nil {
		return false
	}
	_, err = conn.ListChain(n.table, n.plan.chains[0].Name)
	return err == nil
}

// isMissing says whether there is no such table. Some errors of package
// nftables have only the text of the kernel's.
func isMissing(err error) bool {
	return err != nil && (errors.Is(err, unix.ENOENT) ||
		strings.Contains(err.Error(), unix.ENOENT.Error()) || strings.Contains(err.Error(), "not found"))
}

// observe reads what the table holds; nothing when there is none.
func (n *NFTables) observe(conn *nftables.Conn) (tablePlan, error) {
	all, err := conn.ListChainsOfTableFamily(n.table.Family)
	if err != nil {
		return tablePlan{}, err
	}
	have := tablePlan{
		chains: slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != n.table.Name }),
		rules:  map[string][][]expr.Any{},
	}
	for _, c := range have.chains {
		found, err := conn.GetRules(n.table, c)
		if err != nil {
			return tablePlan{}, err
		}
		for _, r := range found {
			have.rules[c.Name] = append(have.rules[c.Name], r.Exprs)
		}
	}
	have.sets, err = conn.GetSets(n.table)
	return have, err
}

// describe makes the comparable form of a table.
func describe(table *nftables.Table, p *tablePlan) (Table, error) {
	h := sha256.New()
	fmt.Fprintf(h, "flags %d\n", table.Flags)
	var names []string
	for _, c := range slices.SortedFunc(slices.Values(p.chains), func(a, b *nftables.Chain) int { return strings.Compare(a.Name, b.Name) }) {
		fmt.Fprint(h, chainText(c))
		if c.Policy != nil {
			fmt.Fprintf(h, " policy %d", *c.Policy)
		}
		for _, exprs := range p.rules[c.Name] {
			fmt.Fprint(h, "\nrule")
			for _, e := range exprs {
				raw, err := expr.Marshal(unix.NFPROTO_INET, e)
				if err != nil {
					return Table{}, fmt.Errorf("encode rule of chain %s: %w", c.Name, err)
				}
				fmt.Fprintf(h, " %x", raw)
			}
		}
		names = append(names, fmt.Sprintf("%s(%d)", c.Name, len(p.rules[c.Name])))
	}
	for _, s := range slices.SortedFunc(slices.Values(p.sets), func(a, b *nftables.Set) int { return strings.Compare(a.Name, b.Name) }) {
		fmt.Fprint(h, setText(s))
	}
	return Table{Name: table.Name, Digest: [sha256.Size]byte(h.Sum(nil)), Chains: strings.Join(names, " ")}, nil
}

// chainText is what can't be changed of a chain.
func chainText(c *nftables.Chain) string {
	if c.Hooknum == nil || c.Priority == nil {
		return "\nchain " + c.Name
	}
	return fmt.Sprintf("\nchain %s %s hook %d priority %d", c.Name, c.Type, *c.Hooknum, *c.Priority)
}

// setText is what can't be changed of a set: all but its elements.
func setText(s *nftables.Set) string {
	return fmt.Sprintf("\nset %s %d bytes map %t dynamic %t timeout %t %s size %d",
		s.Name, s.KeyType.Bytes, s.IsMap, s.Dynamic, s.HasTimeout, s.Timeout, s.Size)
}

// Apply implements reconcile.Target: the table's rules are replaced in one
// transaction. The sets stay, with the translated flows that they remember.
func (n *NFTables) Apply(_ context.Context, changes []reconcile.Change) error {
	for _, c := range changes {
		err := n.replace()
		if c.Want == nil {
			err = n.Remove()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *NFTables) replace() error {
	conn, err := dial()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	have, err := n.observe(conn)
	if err != nil && !isMissing(err) {
		return fmt.Errorf("list nftables table %s: %w", n.table.Name, err)
	}
	conn.AddTable(n.table)
	conn.FlushTable(n.table)
	n.clear(conn, &have)
	for _, s := range n.plan.sets {
		if err := conn.AddSet(s, nil); err != nil {
			return fmt.Errorf("add nftables set %s: %w", s.Name, err)
		}
	}
	for _, c := range n.plan.chains {
		conn.AddChain(c)
	}
	for _, c := range n.plan.chains {
		for _, exprs := range n.plan.rules[c.Name] {
			conn.AddRule(&nftables.Rule{Table: n.table, Chain: c, Exprs: exprs})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", n.table.Name, err)
	}
	return nil
}

// clear removes the chains and sets that aren't wanted, or not as they are.
func (n *NFTables) clear(conn *nftables.Conn, have *tablePlan) {
	for _, c := range have.chains {
		if !slices.ContainsFunc(n.plan.chains, func(w *nftables.Chain) bool { return chainText(w) == chainText(c) }) {
			conn.DelChain(c)
		}
	}
	for _, s := range have.sets {
		if !slices.ContainsFunc(n.plan.sets, func(w *nftables.Set) bool { return setText(w) == setText(s) }) {
			conn.DelSet(s)
		}
	}
}

// Remove deletes the table. It is no error when there is none.
func (n *NFTables) Remove() error {
	conn, err := dial()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.AddTable(n.table) // so that deleting finds it
	conn.DelTable(n.table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", n.table.Name, err)
	}
	return nil
}
