package lease

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Lengths of a pool's blocks, unless said otherwise: 64 addresses.
const (
	DefaultPoolBlockLengthIPv4 = 26
	DefaultPoolBlockLengthIPv6 = 122
)

// Pool is a CIDR cut into blocks, of which a node leases as many as its pods
// need.
type Pool struct {
	CIDR netip.Prefix `json:"cidr"`
	// BlockLength is the prefix length of the blocks.
	BlockLength int `json:"blockLength"`
	// NodeSelector has the labels that a node needs to claim a block of the
	// pool; none: every node may. It is heeded when a block is claimed, and
	// takes none away.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
}

// selects says whether a node with the labels may claim blocks of the pool.
func (p *Pool) selects(labels map[string]string) bool {
	for key, value := range p.NodeSelector {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// equal says whether two pools are specified alike.
func (p *Pool) equal(other *Pool) bool {
	return p.CIDR == other.CIDR && p.BlockLength == other.BlockLength && maps.Equal(p.NodeSelector, other.NodeSelector)
}

// Pooled says whether nodes lease as many blocks as they need, instead of one
// of each family.
func (n *Network) Pooled() bool { return len(n.Pools) > 0 }

// pools are where blocks come from: the network's own, or one made of each
// CIDR.
func (n *Network) pools() []Pool {
	if n.Pooled() {
		return n.Pools
	}
	pools := make([]Pool, len(n.CIDRs))
	for i, p := range n.CIDRs {
		pools[i] = Pool{CIDR: p, BlockLength: n.BlockLength.Of(FamilyOf(p.Addr()))}
	}
	return pools
}

// familiesFor are those of which a node with the labels may claim blocks.
func (n *Network) familiesFor(labels map[string]string) []Family {
	return slices.DeleteFunc(n.Families(), func(f Family) bool {
		return !slices.ContainsFunc(n.pools(), func(p Pool) bool { return FamilyOf(p.CIDR.Addr()) == f && p.selects(labels) })
	})
}

// completePools fills in the pools' defaults, and the CIDRs that follow from
// them.
func (n *Network) completePools() {
	pools := slices.Clone(n.Pools)
	n.CIDRs = make([]netip.Prefix, len(pools))
	for i := range pools {
		p := &pools[i]
		if p.BlockLength == 0 {
			p.BlockLength = DefaultPoolBlockLengthIPv4
			if FamilyOf(p.CIDR.Addr()) == IPv6 {
				p.BlockLength = DefaultPoolBlockLengthIPv6
			}
			p.BlockLength = max(p.BlockLength, p.CIDR.Bits())
		}
		n.CIDRs[i] = p.CIDR
	}
	n.Pools = pools
}

// CIDRField is what the configuration calls the i-th CIDR.
func (n *Network) CIDRField(i int) string {
	if n.Pooled() {
		return fmt.Sprintf("pools[%d].cidr", i)
	}
	return fmt.Sprintf("cidrs[%d]", i)
}

// lengthField is what it calls the length of the blocks of the i-th CIDR.
func (n *Network) lengthField(i int) string {
	if n.Pooled() {
		return fmt.Sprintf("pools[%d].blockLength", i)
	}
	return "blockLength." + strings.ToLower(FamilyOf(n.CIDRs[i].Addr()).String())
}

// extended is the network with the pools that another specification of it has
// besides. The difference says why there can't be one of both.
func (n *Network) extended(by *Network) (both Network, difference string) {
	both = *n
	if n.Pooled() != by.Pooled() {
		return both, "pools in one specification, cidrs in the other"
	}
	for i := range by.Pools {
		p := &by.Pools[i]
		at := slices.IndexFunc(both.Pools, func(own Pool) bool { return own.CIDR.Overlaps(p.CIDR) })
		switch {
		case at < 0:
			both.Pools = append(slices.Clone(both.Pools), *p)
		case both.Pools[at].CIDR != p.CIDR:
			return both, fmt.Sprintf("pool %s beside %s", p.CIDR, both.Pools[at].CIDR)
		case both.Pools[at].BlockLength != p.BlockLength:
			return both, fmt.Sprintf("blockLength %d and %d of pool %s", p.BlockLength, both.Pools[at].BlockLength, p.CIDR)
		}
	}
	if both.Pooled() {
		both.completePools()
	}
	return both, ""
}

// covers says whether a network has all the pools of another specification.
func (n *Network) covers(other *Network) bool {
	both, difference := n.extended(other)
	return difference == "" && both.Equal(n)
}

// Within says whether joined is this network, but for pools that others added.
func (n *Network) Within(joined *Network) bool {
	both, difference := n.extended(joined)
	return difference == "" && both.Equal(joined)
}
