// Package xtables programs chains of package firewall by the iptables programs:
// where the node's packet filter is the legacy iptables, or is to be iptables by
// configuration. Each look and each change runs programs, which is why the CNI
// plugin has no part of it.
package xtables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// target is the reconcile target of chains in iptables.
type target struct {
	chains []firewall.Chain // all that may be there
	tools  map[lease.Family]*iptables.IPTables
}

// Open returns the target for chains. It is a firewall.OpenChains.
func Open(chains []firewall.Chain) (reconcile.Target, error) {
	t := &target{chains: chains, tools: map[lease.Family]*iptables.IPTables{}}
	for _, c := range chains {
		if t.tools[c.Family] != nil {
			continue
		}
		tool, err := openTool(c.Family)
		if err != nil {
			return nil, fmt.Errorf("find iptables for %s, where the node's rules are: %w", c.Family, err)
		}
		t.tools[c.Family] = tool
	}
	return t, nil
}

// lockSeconds is how long iptables waits for another iptables.
const lockSeconds = 10

// openTool finds the programs of a family: the legacy ones where legacy tables
// are in use, for others would write where nobody looks.
func openTool(f lease.Family) (*iptables.IPTables, error) {
	protocol, legacy := iptables.ProtocolIPv4, "iptables-legacy"
	if f == lease.IPv6 {
		protocol, legacy = iptables.ProtocolIPv6, "ip6tables-legacy"
	}
	path := "" // go-iptables then takes the family's usual one
	if strings.TrimSpace(firewall.LegacyTables(f)) != "" {
		if found, err := exec.LookPath(legacy); err == nil {
			path = found
		}
	}
	return iptables.New(iptables.IPFamily(protocol), iptables.Timeout(lockSeconds), iptables.Path(path))
}

// Observe implements reconcile.Target.
func (t *target) Observe(context.Context) ([]reconcile.Object, error) {
	var have []reconcile.Object
	for _, c := range t.chains {
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
func parents(tool *iptables.IPTables, c firewall.Chain) (string, error) {
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
func (t *target) Apply(_ context.Context, changes []reconcile.Change) error {
	var errs []error
	for _, change := range changes {
		c, ok := change.Subject().(firewall.Chain)
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

func (t *target) write(c firewall.Chain) error {
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
		add := func(table, chain string, rule ...string) error { return tool.InsertUnique(table, chain, 1, rule...) }
		if c.Last {
			add = tool.AppendUnique
		}
		if err := add(c.Table, parent, "-j", c.Name); err != nil {
			return err
		}
	}
	return nil
}

func (t *target) remove(c firewall.Chain) error {
	tool := t.tools[c.Family]
	for parent := range strings.FieldsSeq(c.Parents) {
		if err := tool.DeleteIfExists(c.Table, parent, "-j", c.Name); err != nil {
			return err
		}
	}
	return tool.ClearAndDeleteChain(c.Table, c.Name)
}
