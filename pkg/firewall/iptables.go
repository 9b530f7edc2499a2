package firewall

import (
	"fmt"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Chain is an iptables chain of ours, with all its rules, and the built-in
// chains that jump to it.
type Chain struct {
	Family  lease.Family
	Table   string
	Name    string
	Parents string // separated by spaces
	// Last: the parents end with the jump, not begin: it is to lift the policy,
	// and no drop of anybody's.
	Last  bool
	Rules string // as "iptables -S" prints them, one per line, without "-A name "; none: no chain
}

// Key implements reconcile.Object.
func (c Chain) Key() any {
	return struct {
		f           lease.Family
		table, name string
	}{c.Family, c.Table, c.Name}
}

// Matches implements reconcile.Object.
func (c Chain) Matches(have reconcile.Object) bool { return c == have }

// Rank implements reconcile.Object.
func (c Chain) Rank() int { return 0 }

// String is in the words of iptables(8).
func (c Chain) String() string {
	tool := "iptables"
	if c.Family == lease.IPv6 {
		tool = "ip6tables"
	}
	return fmt.Sprintf("%s -t %s chain %s of %s: %s", tool, c.Table, c.Name, c.Parents,
		strings.ReplaceAll(c.Rules, "\n", "; "))
}

// maxChainName is the longest name that iptables takes for a chain.
const maxChainName = 28

// forwardChain accepts the network's packets on their way through the node.
// Docker and others set the policy of FORWARD to DROP, which no rule elsewhere
// than in iptables can lift.
func (r *Rules) forwardChain(f lease.Family) Chain {
	cidrs := of(f, r.CIDRs)
	rules := make([]string, 0, 2*len(cidrs))
	for _, p := range cidrs {
		rules = append(rules, fmt.Sprintf("-s %s -j ACCEPT", p), fmt.Sprintf("-d %s -j ACCEPT", p))
	}
	c := r.chain(f, "filter", "OVERLAY-FWD-", "FORWARD", rules)
	c.Last = true
	return c
}

// iptables returns the chains that do all of Rules without nftables, the empty
// ones among them, for those are to be removed. Packets
// between pods stay tracked: iptables has nothing to remember translated flows
// with, nor peers, so that VXLAN packets are taken from everybody.
func (r *Rules) iptables(f lease.Family) []Chain {
	if len(of(f, r.CIDRs)) == 0 {
		return nil
	}
	raw := make([]string, 0, 2)
	for _, end := range []string{"dst", "src"} { // what comes for the node, what it sends itself
		raw = append(raw, fmt.Sprintf("-p udp -m udp --dport %d -m addrtype --%s-type LOCAL -j CT --notrack", r.Port, end))
	}
	raw = append(raw, r.transitRules(f)...)
	return []Chain{
		r.chain(f, "raw", "OVERLAY-RAW-", "PREROUTING OUTPUT", raw),
		r.chain(f, "filter", "OVERLAY-ISO-", "FORWARD", r.isolationRules(f)),
		r.forwardChain(f),
		r.chain(f, "nat", "OVERLAY-MSQ-", "POSTROUTING", r.masqueradeRules(f)),
	}
}

// isolationRules are none where there is no other network. They come before those
// of others in FORWARD, which may accept what these drop.
func (r *Rules) isolationRules(f lease.Family) []string {
	if !r.isolated(f) {
		return nil
	}
	pods, others := of(f, r.CIDRs), of(f, r.Others)
	rules := make([]string, 0, len(pods)+len(pods)*len(others))
	for _, p := range pods {
		rules = append(rules, fmt.Sprintf("-d %s -j RETURN", p))
	}
	for _, p := range pods {
		for _, o := range others {
			rules = append(rules, fmt.Sprintf("-s %s -d %s -j DROP", p, o))
		}
	}
	return rules
}

// transitRules are none where all from outside the network is answered on the way
// that it came. What comes from a pod, or is for one here, has its answers come by
// here, and so has what the node sends itself.
func (r *Rules) transitRules(f lease.Family) []string {
	through := r.transit(f)
	for _, e := range of(f, r.External) {
		for _, pods := range of(f, r.CIDRs) {
			through = append(through, direction{e, pods})
		}
	}
	if len(through) == 0 {
		return nil
	}
	pods, blocks := of(f, r.CIDRs), of(f, r.Blocks)
	rules := make([]string, 0, len(pods)+len(blocks)+len(through))
	for _, p := range pods {
		rules = append(rules, fmt.Sprintf("-s %s -j RETURN", p))
	}
	for _, block := range blocks {
		rules = append(rules, fmt.Sprintf("-d %s -j RETURN", block))
	}
	for _, d := range through {
		from := fmt.Sprintf("-s %s ", d.from)
		if d.from.Bits() == 0 {
			from = "" // iptables doesn't print it
		}
		rules = append(rules, fmt.Sprintf("%s-d %s -m addrtype ! --src-type LOCAL -j CT --notrack", from, d.to))
	}
	return rules
}

// masqueradeRules are none where nothing is masqueraded.
func (r *Rules) masqueradeRules(f lease.Family) []string {
	if !r.Masquerade {
		return nil
	}
	kept, cidrs := r.kept(f), of(f, r.CIDRs)
	rules := make([]string, 0, len(kept)+len(cidrs))
	for _, p := range kept {
		to := fmt.Sprintf("-d %s ", p)
		if p.Bits() == 0 {
			to = "" // iptables doesn't print it
		}
		rules = append(rules, to+"-j RETURN")
	}
	for _, p := range cidrs {
		rules = append(rules, fmt.Sprintf("-s %s -j MASQUERADE --random-fully", p))
	}
	return rules
}

func (r *Rules) chain(f lease.Family, table, prefix, parents string, rules []string) Chain {
	return Chain{
		Family: f, Table: table, Name: shortened(prefix, r.Network, maxChainName),
		Parents: parents, Rules: strings.Join(rules, "\n"),
	}
}

// forwarded says whether the rules have anything to forward for a family.
func (r *Rules) forwarded(f lease.Family) bool { return len(of(f, r.CIDRs)) > 0 }
