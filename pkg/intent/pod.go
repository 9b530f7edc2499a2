package intent

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// Attachment is a pod's interface in a network: what a runtime names by the
// network, CNI_CONTAINERID and CNI_IFNAME.
type Attachment struct {
	Network   string
	Container string
	Interface string
}

// Pod is what should exist for one attachment.
type Pod struct {
	Attachment
	// Addresses of the pod, any number of each family.
	Addresses []netip.Addr
	MTU       int
	MAC       ether.Addr // of the pod's end
	// Readdressed: MAC isn't what ADD gave the pod's end, but what somebody
	// behind us in the chain did. The pod's kernel then forgot its gateways'
	// Ethernet addresses, and asks for them.
	Readdressed bool
	// Routes are the destinations that the pod reaches over this interface.
	Routes []netip.Prefix
}

// Gateway returns the gateway that all pods have in a family: a link-local
// address, answered by the host's end of the pair for this pod alone. So no
// address is spent on it.
func Gateway(f lease.Family) netip.Addr {
	if f == lease.IPv4 {
		return netip.AddrFrom4([4]byte{169, 254, 1, 1})
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1})
}

// digest of an attachment, from which its names and addresses follow. So DEL
// and GC need no memory of what ADD made.
func (a Attachment) digest() [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.Join([]string{a.Network, a.Container, a.Interface}, "\x00")))
}

// HostPrefix begins the names of the host's ends.
const HostPrefix = "ovp"

// HostInterface is the name of the host's end: 60 bits of the digest.
func (a Attachment) HostInterface() string {
	sum := a.digest()
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8])
	return HostPrefix + strings.ToLower(text[:12])
}

// PodMAC is the pod's address unless the runtime asks for another.
func (a Attachment) PodMAC() ether.Addr {
	sum := a.digest()
	return ether.Local([5]byte(sum[8:13]))
}

// HostMAC is the address of the host's end.
func (a Attachment) HostMAC() ether.Addr {
	sum := a.digest()
	return ether.Local([5]byte(sum[16:21]))
}

// Group is the link group of a network's host ends. It is set in the request
// that creates them, so that GC knows even those of an ADD killed right then.
func Group(network string) uint32 {
	sum := sha256.Sum256([]byte(network))
	return binary.BigEndian.Uint32(sum[:])&(1<<31-1) | 1<<30 // never 0, the default group
}

// AliasPrefix begins the alias of the host's ends; network, container and
// interface follow.
const AliasPrefix = "overlay-cni"

// aliasLimit is the longest alias that the kernel takes (IFALIASZ less one).
const aliasLimit = 255

// Alias is kept with the host's end when all else is in place. It tells people
// whose the interface is, and rebuilds a lost ledger. One that would be too
// long is cut before the interface, so that nobody takes the rest for a whole.
func (a Attachment) Alias() string {
	parts := []string{AliasPrefix, a.Network, a.Container, a.Interface}
	if alias := strings.Join(parts, "/"); len(alias) <= aliasLimit {
		return alias
	}
	alias := strings.Join(parts[:3], "/")
	return alias[:min(len(alias), aliasLimit)]
}

// ParseAlias reads an alias; ok is false when it isn't a whole one of ours.
func ParseAlias(alias string) (a Attachment, ok bool) {
	parts := strings.Split(alias, "/")
	if len(parts) != 4 || parts[0] != AliasPrefix {
		return Attachment{}, false
	}
	a = Attachment{Network: parts[1], Container: parts[2], Interface: parts[3]}
	return a, a.Alias() == alias && a.Interface != ""
}
