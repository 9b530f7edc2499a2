// Package lease knows who may use which addresses of an overlay network.
//
// A Network is a name, CIDRs and what the VXLAN between its nodes looks like. A
// Lease is one node's claim on a block of such a CIDR, together with the VTEP
// (VXLAN tunnel end point, RFC 7348) behind which the block is reached. A
// Registry claims, renews and releases leases in a store; a block is claimed by
// creating a key that follows from the block itself, so that two claims of one
// block can't both succeed.
package lease

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
)

// Defaults of a network, and the limits of its fields.
const (
	DefaultVNI             = 4096
	DefaultPort            = 4789 // IANA; RFC 7348, section 5
	DefaultBlockLengthIPv4 = 24
	DefaultBlockLengthIPv6 = 64
	MaxVNI                 = 1<<24 - 1
	MinWindowsVNI          = 4096 // HNS: the lowest VSID of an overlay
	MaxWindowsVNI          = 65535
	// MaxWindowsBlockLength leaves pods three addresses of the eight: Windows
	// takes the network's, the gateway's, the VTEP's, the source VIP of
	// kube-proxy and the broadcast address.
	MaxWindowsBlockLength = 29
	MinMTUIPv4            = 576  // RFC 791: every host must accept it
	MinMTUIPv6            = 1280 // RFC 8200, section 5
	MaxMTU                = 65535
	MaxNameLength         = 63
)

// Network is one overlay network. The zero values of optional fields stand for
// the defaults, which Complete fills in.
type Network struct {
	Name string `json:"name"`
	// CIDRs are where pods have their addresses. Several of a family are
	// used in the order given. Where there are pools, they follow from these.
	CIDRs []netip.Prefix `json:"cidrs"`
	// BlockLength is the prefix length of the block that a node claims of
	// the CIDRs, where there are no pools.
	BlockLength BlockLength `json:"blockLength"`
	// Pools are where nodes claim blocks as their pods need them, in the
	// order given. None: a node has one block of each family.
	Pools []Pool `json:"pools,omitempty"`
	// PodCIDRs says that the blocks are those which Kubernetes allocates to
	// its Nodes (spec.podCIDRs), instead of some that the nodes choose.
	PodCIDRs bool `json:"podCIDRs,omitempty"`
	// Windows says that nodes of Windows may join, which limits the VNI and
	// the size of blocks.
	Windows bool `json:"windows,omitempty"`
	// VNI is the VXLAN network identifier, 1 to 16777215.
	VNI uint32 `json:"vni"`
	// Port is the UDP port of VXLAN.
	Port uint16 `json:"port"`
	// MTU of the pods' interfaces and the VXLAN device; 0: the underlay's
	// less the overhead.
	MTU int `json:"mtu,omitempty"`
	// Masquerade says what leaves with the node's address.
	Masquerade Masquerade `json:"masquerade"`
	// Open says that pods of other networks that are open as well may reach
	// its pods. All others are isolated from each other.
	Open bool `json:"open,omitempty"`
}

// BlockLength is a prefix length for each family.
type BlockLength struct {
	IPv4 int `json:"ipv4,omitempty"`
	IPv6 int `json:"ipv6,omitempty"`
}

// Of returns the length for a family.
func (l BlockLength) Of(f Family) int {
	if f == IPv4 {
		return l.IPv4
	}
	return l.IPv6
}

// Masquerade is about packets from pods to addresses outside their network.
type Masquerade struct {
	// Disabled: packets leave with the pod's own address.
	Disabled bool
	// Exclude lists destinations which see the pod's own address.
	Exclude []netip.Prefix
}

// masquerade is how people write it.
type masquerade struct {
	Enabled bool           `json:"enabled"`
	Exclude []netip.Prefix `json:"exclude,omitempty"`
}

// MarshalJSON writes it as people do.
func (m Masquerade) MarshalJSON() ([]byte, error) {
	return json.Marshal(masquerade{!m.Disabled, m.Exclude})
}

// UnmarshalJSON reads it; without "enabled" it is.
func (m *Masquerade) UnmarshalJSON(data []byte) error {
	written := masquerade{Enabled: true}
	if err := json.Unmarshal(data, &written); err != nil {
		return err
	}
	*m = Masquerade{Disabled: !written.Enabled, Exclude: written.Exclude}
	return nil
}

// FieldError is a field of a configuration with a value that can't be used.
type FieldError struct {
	Field   string // a path, such as "network.cidrs[1]"
	Value   string
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: %s: %s", e.Field, strconv.Quote(e.Value), e.Problem)
}

// Invalid makes a FieldError; the value is printed as %v does.
func Invalid(field string, value any, problem string, args ...any) *FieldError {
	return &FieldError{Field: field, Value: fmt.Sprint(value), Problem: fmt.Sprintf(problem, args...)}
}

// Families returns the families that the network has CIDRs of.
func (n *Network) Families() []Family {
	var fs []Family
	for _, f := range Families() {
		if slices.ContainsFunc(n.CIDRs, func(p netip.Prefix) bool { return FamilyOf(p.Addr()) == f }) {
			fs = append(fs, f)
		}
	}
	return fs
}

// CIDRsOf returns the network's CIDRs of one family.
func (n *Network) CIDRsOf(f Family) []netip.Prefix {
	var cidrs []netip.Prefix
	for _, p := range n.CIDRs {
		if FamilyOf(p.Addr()) == f {
			cidrs = append(cidrs, p)
		}
	}
	return cidrs
}

// Contains says whether an address belongs to the network.
func (n *Network) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(n.CIDRs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Complete returns the network with its defaults filled in.
func (n Network) Complete() Network {
	if n.VNI == 0 {
		n.VNI = DefaultVNI
	}
	if n.Port == 0 {
		n.Port = DefaultPort
	}
	if n.Pooled() {
		n.completePools()
		return n
	}
	n.BlockLength.IPv4 = n.blockLength(IPv4, n.BlockLength.IPv4, DefaultBlockLengthIPv4)
	n.BlockLength.IPv6 = n.blockLength(IPv6, n.BlockLength.IPv6, DefaultBlockLengthIPv6)
	return n
}

// blockLength picks the default length, or that of the longest CIDR where the
// CIDR is smaller than a default block: then one node has all of it.
func (n *Network) blockLength(f Family, length, standard int) int {
	cidrs := n.CIDRsOf(f)
	if length != 0 || len(cidrs) == 0 {
		return length
	}
	for _, p := range cidrs {
		standard = max(standard, p.Bits())
	}
	return standard
}

// ValidateName checks the name of a network or node: a DNS subdomain in the
// way of Kubernetes' object names. So it can be used in paths, keys and the
// names of nftables tables alike.
func ValidateName(field, name string) error {
	if len(name) == 0 || len(name) > MaxNameLength {
		return Invalid(field, name, "its length must be within 1..%d", MaxNameLength)
	}
	inside := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' }
	if strings.ContainsFunc(name, func(r rune) bool { return !inside(r) }) {
		return Invalid(field, name, "must consist of lower-case letters, digits, '-' and '.'")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.Trim(label, "-") != label {
			return Invalid(field, name, "each part between dots must begin and end with a letter or digit")
		}
	}
	return nil
}

// Validate checks a completed network. The error is a *FieldError; field names
// are those of the configuration.
func (n *Network) Validate() error {
	if err := ValidateName("name", n.Name); err != nil {
		return err
	}
	if len(n.CIDRs) == 0 {
		return Invalid("cidrs", "", "at least one CIDR is needed, here or in pools")
	}
	if n.PodCIDRs && n.Pooled() {
		return Invalid("podCIDRs", true, "is not for networks with pools: their blocks come and go")
	}
	for _, f := range Families() {
		if length := n.BlockLength.Of(f); n.Pooled() && length != 0 {
			return Invalid("blockLength."+strings.ToLower(f.String()), length, "is each pool's own where there are pools")
		}
	}
	for i, p := range n.CIDRs {
		if err := n.validateCIDR(i, p); err != nil {
			return err
		}
	}
	if n.VNI < 1 || n.VNI > MaxVNI {
		return Invalid("vni", n.VNI, "must be within 1..%d", MaxVNI)
	}
	if n.Windows && (n.VNI < MinWindowsVNI || n.VNI > MaxWindowsVNI) {
		return Invalid("vni", n.VNI, "must be within %d..%d where nodes of Windows may join", MinWindowsVNI, MaxWindowsVNI)
	}
	if n.Port == 0 {
		return Invalid("port", n.Port, "must be within 1..65535")
	}
	if n.MTU != 0 && (n.MTU < n.MinMTU() || n.MTU > MaxMTU) {
		return Invalid("mtu", n.MTU, "must be within %d..%d", n.MinMTU(), MaxMTU)
	}
	for i, p := range n.Masquerade.Exclude {
		if err := ValidateCIDR(fmt.Sprintf("masquerade.exclude[%d]", i), p); err != nil {
			return err
		}
	}
	return nil
}

// ValidateCIDR checks that a prefix is one of IPv4 or IPv6 proper, and written
// as a network.
func ValidateCIDR(field string, p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Is4In6() {
		return Invalid(field, p, "is not a CIDR")
	}
	if p != p.Masked() {
		return Invalid(field, p, "has bits set beyond its length; did you mean %s?", p.Masked())
	}
	return nil
}

// unusable are prefixes with addresses that mean something else to the kernel,
// or to us: "this" network, loopback, link-local, where the pods' gateways are,
// multicast; the first of IPv6's has the unspecified address, loopback and
// IPv4's addresses within it.
func unusable() []netip.Prefix {
	from4 := func(a, b byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b}), bits)
	}
	from6 := func(a, b byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{a, b}), bits)
	}
	return []netip.Prefix{
		from4(0, 0, 8), from4(127, 0, 8), from4(169, 254, 16), from4(224, 0, 4),
		from6(0, 0, 8), from6(0xfe, 0x80, 10), from6(0xff, 0, 8),
	}
}

// MinMTU is the least MTU with which all families of the network work.
func (n *Network) MinMTU() int {
	if len(n.CIDRsOf(IPv6)) > 0 {
		return MinMTUIPv6
	}
	return MinMTUIPv4
}

func (n *Network) validateCIDR(i int, p netip.Prefix) error {
	field := n.CIDRField(i)
	if err := ValidateCIDR(field, p); err != nil {
		return err
	}
	for _, u := range unusable() {
		if p.Overlaps(u) {
			return Invalid(field, p, "pods can't have the addresses of %s", u)
		}
	}
	for j, other := range n.CIDRs[:i] {
		if p.Overlaps(other) {
			return Invalid(field, p, "overlaps %s, %s", n.CIDRField(j), other)
		}
	}
	f := FamilyOf(p.Addr())
	if p.Bits() > f.Bits()-2 {
		return Invalid(field, p, "is too small: no block of /%d fits in", f.Bits()-2)
	}
	length := n.pools()[i].BlockLength
	if length < p.Bits() || length > f.Bits()-2 {
		return Invalid(n.lengthField(i), length, "must be within %d..%d for %s %s", p.Bits(), f.Bits()-2, field, p)
	}
	if n.Windows && f == IPv4 && length > MaxWindowsBlockLength {
		return Invalid(n.lengthField(i), length, "must be at most %d where nodes of Windows may join: they take five addresses of each block",
			MaxWindowsBlockLength)
	}
	return nil
}

// ConflictsWith says why two networks can't be used side by side on one node,
// as a *FieldError about n, or nil.
func (n *Network) ConflictsWith(other *Network) error {
	for i, p := range n.CIDRs {
		for j, q := range other.CIDRs {
			if p.Overlaps(q) {
				return Invalid(n.CIDRField(i), p,
					"network %s overlaps %s %s of network %s", n.Name, other.CIDRField(j), q, other.Name)
			}
		}
	}
	if n.VNI == other.VNI { // whatever the ports: devices are named after the VNI
		return Invalid("vni", n.VNI, "network %s has the VNI of network %s", n.Name, other.Name)
	}
	return nil
}

// Reaches says whether pods of two networks may reach each other.
func (n *Network) Reaches(other *Network) bool { return n.Open && other.Open }

// Equal says whether two networks are specified alike.
func (n *Network) Equal(other *Network) bool {
	return n.Name == other.Name && n.BlockLength == other.BlockLength &&
		n.VNI == other.VNI && n.Port == other.Port && n.MTU == other.MTU &&
		n.Windows == other.Windows && n.PodCIDRs == other.PodCIDRs && n.Open == other.Open && n.Masquerade.Disabled == other.Masquerade.Disabled &&
		slices.EqualFunc(n.Pools, other.Pools, func(a, b Pool) bool { return a.equal(&b) }) &&
		slices.Equal(n.CIDRs, other.CIDRs) && slices.Equal(n.Masquerade.Exclude, other.Masquerade.Exclude)
}

// MAC returns the Ethernet address of a node's VTEP. It follows from the
// network and the node, so that a reboot of the node changes nothing for the
// others.
func (n *Network) MAC(node string) ether.Addr {
	sum := sha256.Sum256([]byte(n.Name + "\x00" + node))
	return ether.Local([5]byte(sum[:5]))
}
