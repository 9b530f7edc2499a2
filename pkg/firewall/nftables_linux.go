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
	want, err := describe(n.table.Name, n.plan.chains, n.plan.sets, n.plan.rules)
	if err != nil {
		return nil, err
	}
	return []reconcile.Object{want}, nil
}

// Observe implements reconcile.Target.
func (n *NFTables) Observe(context.Context) ([]reconcile.Object, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }() // nothing to lose: a query only
	_, err = conn.ListTableOfFamily(n.table.Name, n.table.Family)
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
	return []reconcile.Object{have}, nil
}

func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || (err != nil && strings.Contains(err.Error(), "not found"))
}

func (n *NFTables) observe(conn *nftables.Conn) (Table, error) {
	all, err := conn.ListChainsOfTableFamily(n.table.Family)
	if err != nil {
		return Table{}, err
	}
	chains := slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != n.table.Name })
	rules := map[string][][]expr.Any{}
	for _, c := range chains {
		found, err := conn.GetRules(n.table, c)
		if err != nil {
			return Table{}, err
		}
		for _, r := range found {
			rules[c.Name] = append(rules[c.Name], r.Exprs)
		}
	}
	sets, err := conn.GetSets(n.table)
	if err != nil {
		return Table{}, err
	}
	return describe(n.table.Name, chains, sets, rules)
}

// describe makes the comparable form of a table.
func describe(name string, chains []*nftables.Chain, sets []*nftables.Set, rules map[string][][]expr.Any) (Table, error) {
	h := sha256.New()
	chains = slices.SortedFunc(slices.Values(chains), func(a, b *nftables.Chain) int { return strings.Compare(a.Name, b.Name) })
	var names []string
	for _, c := range chains {
		fmt.Fprintf(h, "chain %s %s", c.Name, c.Type)
		if c.Hooknum != nil && c.Priority != nil {
			fmt.Fprintf(h, " hook %d priority %d", *c.Hooknum, *c.Priority)
		}
		if c.Policy != nil {
			fmt.Fprintf(h, " policy %d", *c.Policy)
		}
		for _, exprs := range rules[c.Name] {
			fmt.Fprint(h, "\nrule")
			for _, e := range exprs {
				raw, err := expr.Marshal(unix.NFPROTO_INET, e)
				if err != nil {
					return Table{}, fmt.Errorf("encode rule of chain %s: %w", c.Name, err)
				}
				fmt.Fprintf(h, " %x", raw)
			}
		}
		names = append(names, fmt.Sprintf("%s(%d)", c.Name, len(rules[c.Name])))
	}
	for _, s := range slices.SortedFunc(slices.Values(sets), func(a, b *nftables.Set) int { return strings.Compare(a.Name, b.Name) }) {
		fmt.Fprintf(h, "\nset %s %d bytes dynamic %t", s.Name, s.KeyType.Bytes, s.Dynamic)
	}
	return Table{Name: name, Digest: [sha256.Size]byte(h.Sum(nil)), Chains: strings.Join(names, " ")}, nil
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
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.AddTable(n.table)
	conn.FlushTable(n.table)
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

// Remove deletes the table. It is no error when there is none.
func (n *NFTables) Remove() error {
	conn, err := nftables.New()
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
