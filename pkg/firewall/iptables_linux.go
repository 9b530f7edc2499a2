package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/nftables"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// IPTables is the reconcile target of chains in iptables. It runs the iptables
// programs, which is why the daemon uses it and ADD doesn't need it.
type IPTables struct {
	want  []Chain
	tools map[lease.Family]*iptables.IPTables
}

// NewIPTables returns the target that does all of a network's rules.
func NewIPTables(r *Rules) (*IPTables, error) {
	want := append(r.iptables(lease.IPv4), r.iptables(lease.IPv6)...)
	return newIPTables(want)
}

// NewForward returns the target that only lets a network's packets be
// forwarded, for families whose FORWARD chain exists in iptables. Where there
// is none, nothing in iptables drops them, and the target is empty.
func NewForward(r *Rules) (*IPTables, error) {
	var want []Chain
	for _, f := range lease.Families() {
		exists, err := hasForward(f)
		if err != nil {
			return nil, err
		}
		if exists && r.forwarded(f) {
			want = append(want, r.forwardChain(f))
		}
	}
	return newIPTables(want)
}

// hasForward says whether iptables has a FORWARD chain: the legacy one does
// when its table is in use, the nftables-backed one when that was created.
func hasForward(f lease.Family) (bool, error) {
	if slices.Contains(strings.Fields(LegacyTables(f)), "filter") {
		return true, nil
	}
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	family := nftables.TableFamilyIPv4
	if f == lease.IPv6 {
		family = nftables.TableFamilyIPv6
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	return slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
		return c.Table.Name == "filter" && c.Name == "FORWARD"
	}), nil
}

// LegacyTables returns the legacy iptables' tables that are in use, separated
// by white space.
func LegacyTables(f lease.Family) string {
	name := "/proc/thread-self/net/ip_tables_names"
	if f == lease.IPv6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	tables, err := os.ReadFile(name)
	if err != nil {
		return "" // the module isn't loaded, so none is
	}
	return string(tables)
}

func newIPTables(want []Chain) (*IPTables, error) {
	t := &IPTables{want: want, tools: map[lease.Family]*iptables.IPTables{}}
	for _, c := range want {
		if t.tools[c.Family] != nil {
			continue
		}
		tool, err := openTool(c.Family)
		if err != nil {
			return nil, fmt.Errorf("find iptables for %s, where the node's forwarding rules are: %w", c.Family, err)
		}
		t.tools[c.Family] = tool
	}
	return t, nil
}

// lockSeconds is how long iptables waits for another iptables.
const lockSeconds = 10

func openTool(f lease.Family) (*iptables.IPTables, error) {
	options, name := []any{iptables.ProtocolIPv4}, "iptables-legacy"
	if f == lease.IPv6 {
		options, name = []any{iptables.ProtocolIPv6}, "ip6tables-legacy"
	}
	if strings.TrimSpace(LegacyTables(f)) != "" {
		if path, err := exec.LookPath(name); err == nil {
			return iptables.New(iptables.IPFamily(options[0].(iptables.Protocol)), iptables.Timeout(lockSeconds), iptables.Path(path))
		}
	}
	return iptables.New(iptables.IPFamily(options[0].(iptables.Protocol)), iptables.Timeout(lockSeconds))
}

// Objects returns what should exist: the chains.
func (t *IPTables) Objects() []reconcile.Object {
	objects := make([]reconcile.Object, len(t.want))
	for i, c := range t.want {
		objects[i] = c
	}
	return objects
}

// Observe implements reconcile.Target.
func (t *IPTables) Observe(context.Context) ([]reconcile.Object, error) {
	var have []reconcile.Object
	for _, c := range t.want {
		tool := t.tools[c.Family]
		exists, err := tool.ChainExists(c.Table, c.Name)
		if err != nil {
			return nil, fmt.Errorf("look for iptables chain %s: %w", c.Name, err)
		}
		if !exists {
			continue
		}
		lines, err := tool.List(c.Table, c.Name)
		if err != nil {
			return nil, fmt.Errorf("list iptables chain %s: %w", c.Name, err)
		}
		found := c
		found.Rules = ruleText(c.Name, lines)
		found.Parents, err = parents(tool, c)
		if err != nil {
			return nil, err
		}
		have = append(have, found)
	}
	return have, nil
}

func ruleText(chain string, lines []string) string {
	var rules []string
	for _, l := range lines {
		if rule, ok := strings.CutPrefix(l, "-A "+chain+" "); ok {
			rules = append(rules, rule)
		}
	}
	return strings.Join(rules, "\n")
}

// parents returns those of the chain's parents that do jump to it.
func parents(tool *iptables.IPTables, c Chain) (string, error) {
	var found []string
	for parent := range strings.FieldsSeq(c.Parents) {
		exists, err := tool.Exists(c.Table, parent, "-j", c.Name)
		if err != nil {
			return "", fmt.Errorf("look for jump from iptables chain %s: %w", parent, err)
		}
		if exists {
			found = append(found, parent)
		}
	}
	return strings.Join(found, " "), nil
}

// Apply implements reconcile.Target.
func (t *IPTables) Apply(_ context.Context, changes []reconcile.Change) error {
	var errs []error
	for _, change := range changes {
		c, ok := change.Subject().(Chain)
		if !ok {
			continue
		}
		write := t.write
		if change.Want == nil {
			write = t.remove
		}
		if err := write(c); err != nil {
			errs = append(errs, fmt.Errorf("write iptables chain %s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (t *IPTables) write(c Chain) error {
	tool := t.tools[c.Family]
	if err := tool.ClearChain(c.Table, c.Name); err != nil {
		return err
	}
	for rule := range strings.SplitSeq(c.Rules, "\n") {
		if err := tool.Append(c.Table, c.Name, strings.Fields(rule)...); err != nil {
			return err
		}
	}
	for parent := range strings.FieldsSeq(c.Parents) {
		if err := tool.InsertUnique(c.Table, parent, 1, "-j", c.Name); err != nil {
			return err
		}
	}
	return nil
}

func (t *IPTables) remove(c Chain) error {
	tool := t.tools[c.Family]
	for parent := range strings.FieldsSeq(c.Parents) {
		if err := tool.DeleteIfExists(c.Table, parent, "-j", c.Name); err != nil {
			return err
		}
	}
	return tool.ClearAndDeleteChain(c.Table, c.Name)
}
