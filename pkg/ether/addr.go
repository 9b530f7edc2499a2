// Package ether holds Ethernet addresses as comparable values, as package
// net/netip does for IP addresses.
package ether

import (
	"encoding/hex"
	"fmt"
	"net"
)

// Addr is a 48-bit Ethernet (MAC) address. The zero value stands for "none".
type Addr [6]byte

// Parse reads an address in the forms that net.ParseMAC knows.
func Parse(s string) (Addr, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return Addr{}, fmt.Errorf("parse MAC address %q: %w", s, err)
	}
	a, ok := From(hw)
	if !ok {
		return Addr{}, fmt.Errorf("parse MAC address %q: it has %d bytes, want 6", s, len(hw))
	}
	return a, nil
}

// From converts a hardware address; ok is false when it isn't 6 bytes long.
func From(hw net.HardwareAddr) (a Addr, ok bool) {
	if len(hw) != len(a) {
		return Addr{}, false
	}
	return Addr(hw), true
}

// Local makes a locally administered unicast address of five bytes: the first
// byte is 0x0e, by which ours can be told from the kernel's random ones.
func Local(rest [5]byte) Addr {
	return Addr{0x0e, rest[0], rest[1], rest[2], rest[3], rest[4]}
}

// IsValid says whether the address is set and unicast, so that an interface
// may have it.
func (a Addr) IsValid() bool { return a != Addr{} && a[0]&1 == 0 }

// HardwareAddr converts for packages that want a slice.
func (a Addr) HardwareAddr() net.HardwareAddr { return a[:] }

// String returns the address as "0e:2a:..."; the zero value as "none".
func (a Addr) String() string {
	if a == (Addr{}) {
		return "none"
	}
	var b [17]byte
	for i, octet := range a {
		hex.Encode(b[3*i:], []byte{octet})
		if i > 0 {
			b[3*i-1] = ':'
		}
	}
	return string(b[:])
}

// MarshalText implements encoding.TextMarshaler; the zero value is empty.
func (a Addr) MarshalText() ([]byte, error) {
	if a == (Addr{}) {
		return nil, nil
	}
	return []byte(a.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Addr) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = Addr{}
		return nil
	}
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}
