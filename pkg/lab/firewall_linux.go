package lab

// The firewall's part of a snapshot.

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// familyName returns the name nft gives a family.
func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyARP:
		return "arp"
	case nftables.TableFamilyNetdev:
		return "netdev"
	case nftables.TableFamilyBridge:
		return "bridge"
	default:
		return fmt.Sprintf("family%d", f)
	}
}

// describeFirewall lists the tables of the thread's namespace, their chains
// with numbers of rules, their named sets with elements, but for what packets have
// put there. It starts over when one of them went while it was read.
func describeFirewall() (lines Snapshot, err error) {
	const attempts = 10
	for range attempts {
		lines, err = readFirewall()
		// Some errors of package nftables have only the text of the kernel's.
		if err == nil || !strings.Contains(err.Error(), unix.ENOENT.Error()) {
			return lines, err
		}
	}
	return nil, err
}

func readFirewall() (lines Snapshot, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }()
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	for _, t := range tables {
		lines = append(lines, fmt.Sprintf("nft table %s %s", familyName(t.Family), t.Name))
		sets, err := describeSets(conn, t)
		if err != nil {
			return nil, err
		}
		lines = append(lines, sets...)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables' chains: %w", err)
	}
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("list rules of chain %s: %w", c.Name, err)
		}
		lines = append(lines, fmt.Sprintf("nft chain %s %s %s rules %d", familyName(c.Table.Family), c.Table.Name, c.Name, len(rules)))
	}
	return lines, nil
}

func describeSets(conn *nftables.Conn, t *nftables.Table) (lines Snapshot, err error) {
	sets, err := conn.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("list sets of nftables' table %s: %w", t.Name, err)
	}
	for _, s := range sets {
		if s.Anonymous {
			continue
		}
		line := fmt.Sprintf("nft set %s %s %s", familyName(t.Family), t.Name, s.Name)
		lines = append(lines, line)
		if s.Dynamic {
			continue // packets have put there what there is
		}
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("list elements of set %s: %w", s.Name, err)
		}
		for _, e := range elements {
			text := fmt.Sprintf("%s element %s", line, elementKey(e.Key))
			if e.IntervalEnd {
				text += " end"
			}
			lines = append(lines, text)
		}
	}
	return lines, nil
}

// elementKey writes addresses as such, whatever else has 4 or 16 bytes too.
func elementKey(key []byte) string {
	if addr, ok := netip.AddrFromSlice(key); ok {
		return addr.String()
	}
	return fmt.Sprintf("%x", key)
}
