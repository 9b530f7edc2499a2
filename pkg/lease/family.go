package lease

import "net/netip"

// Family is an IP family. Code that treats both takes it as a parameter.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, in the order in which they are shown to users.
func Families() [2]Family { return [2]Family{IPv4, IPv6} }

// FamilyOf returns the family of an address; IPv4-mapped ones count as IPv6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Bits is the length of an address: 32 or 128.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}

// Overhead is what VXLAN adds to a packet when the outer packet is of this
// family: the inner Ethernet header (14), VXLAN (8), UDP (8) and the outer IP
// header (20 or 40). RFC 7348, section 5.
func (f Family) Overhead() int {
	if f == IPv4 {
		return 50
	}
	return 70
}

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}
