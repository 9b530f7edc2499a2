package lab

// Reading captured frames, as far as proofs about what is on a wire need it.
// Pure.

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Protocol numbers of a [Packet].
const (
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
)

// A Frame is an Ethernet frame seen on an interface.
type Frame struct {
	// Time of the capture.
	Time time.Time
	// Outgoing is whether the host was sending the frame.
	Outgoing bool
	// Data of the frame from its Ethernet header on. The kernel hands over
	// segments that a device would still cut as one large frame.
	Data []byte
}

// A Packet is the IP packet of a frame.
type Packet struct {
	Src, Dst netip.Addr
	// Protocol of the payload. Extension headers of IPv6 are not skipped.
	Protocol uint8
	Payload  []byte
}

// IP returns the frame's IP packet.
func (f Frame) IP() (Packet, bool) {
	if len(f.Data) < 14 {
		return Packet{}, false
	}
	switch b := f.Data[14:]; binary.BigEndian.Uint16(f.Data[12:]) {
	case 0x0800:
		return parseIPv4(b)
	case 0x86dd:
		return parseIPv6(b)
	}
	return Packet{}, false
}

func parseIPv4(b []byte) (Packet, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return Packet{}, false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header || len(b) < total {
		return Packet{}, false
	}
	return Packet{
		Src:      netip.AddrFrom4([4]byte(b[12:16])),
		Dst:      netip.AddrFrom4([4]byte(b[16:20])),
		Protocol: b[9],
		Payload:  b[header:total],
	}, true
}

func parseIPv6(b []byte) (Packet, bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return Packet{}, false
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if len(b) < total {
		return Packet{}, false
	}
	return Packet{
		Src:      netip.AddrFrom16([16]byte(b[8:24])),
		Dst:      netip.AddrFrom16([16]byte(b[24:40])),
		Protocol: b[6],
		Payload:  b[40:total],
	}, true
}

// UDP returns the ports and the data of a packet that is a UDP datagram.
func (p Packet) UDP() (src, dst uint16, data []byte, ok bool) {
	if p.Protocol != ProtocolUDP || len(p.Payload) < 8 {
		return 0, 0, nil, false
	}
	return binary.BigEndian.Uint16(p.Payload), binary.BigEndian.Uint16(p.Payload[2:]), p.Payload[8:], true
}

// EchoRequest reports whether the packet is an ICMP echo request.
func (p Packet) EchoRequest() bool {
	return len(p.Payload) > 0 &&
		(p.Protocol == ProtocolICMP && p.Payload[0] == 8 || p.Protocol == ProtocolICMPv6 && p.Payload[0] == 128)
}

// VXLAN returns the network and the inner frame of a frame that is a VXLAN
// packet to the given UDP port.
func (f Frame) VXLAN(port uint16) (vni uint32, inner Frame, ok bool) {
	packet, ok := f.IP()
	if !ok {
		return 0, Frame{}, false
	}
	_, dst, data, ok := packet.UDP()
	const validVNI = 0x08
	if !ok || dst != port || len(data) < 8 || data[0]&validVNI == 0 {
		return 0, Frame{}, false
	}
	return binary.BigEndian.Uint32(data[4:]) >> 8, Frame{Time: f.Time, Outgoing: f.Outgoing, Data: data[8:]}, true
}
