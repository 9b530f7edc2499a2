package lab

import (
	"bytes"
	"net/netip"
	"testing"
)

// echoFrame is an Ethernet frame with an ICMP echo request.
func echoFrame() []byte {
	b := make([]byte, 14, 64)
	b[12], b[13] = 0x08, 0x00
	b = append(b, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, ProtocolICMP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	return append(b, 8, 0, 0, 0, 0, 0, 0, 1)
}

// vxlanFrame wraps a frame in a VXLAN packet over IPv6.
func vxlanFrame(inner []byte, vni byte) []byte {
	b := make([]byte, 14, 128)
	b[12], b[13] = 0x86, 0xdd
	b = append(b, 0x60, 0, 0, 0, 0, byte(16+len(inner)), ProtocolUDP, 64)
	src, dst := netip.MustParseAddr("fd00::1").As16(), netip.MustParseAddr("fd00::2").As16()
	b = append(append(b, src[:]...), dst[:]...)
	b = append(b, 0xc0, 0, 0x12, 0xb5, 0, byte(16+len(inner)), 0, 0)
	b = append(b, 0x08, 0, 0, 0, 0, 0, vni, 0)
	return append(b, inner...)
}

func TestFrameVXLAN(t *testing.T) {
	t.Parallel()
	f := Frame{Data: vxlanFrame(echoFrame(), 42)}
	outer, ok := f.IP()
	if !ok || outer.Src != netip.MustParseAddr("fd00::1") || outer.Dst != netip.MustParseAddr("fd00::2") {
		t.Fatalf("outer packet %+v, %t", outer, ok)
	}
	vni, inner, ok := f.VXLAN(4789)
	if !ok || vni != 42 || !bytes.Equal(inner.Data, echoFrame()) {
		t.Fatalf("network %d, inner frame %x, %t", vni, inner.Data, ok)
	}
	p, ok := inner.IP()
	if !ok || !p.EchoRequest() || p.Src != netip.MustParseAddr("10.0.0.1") || p.Dst != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("inner packet %+v, %t", p, ok)
	}
	if _, _, ok := f.VXLAN(8472); ok {
		t.Error("VXLAN on another port was accepted")
	}
	if _, _, ok := (Frame{Data: echoFrame()}).VXLAN(4789); ok {
		t.Error("an echo request was taken for VXLAN")
	}
}

func FuzzFrame(f *testing.F) {
	whole := vxlanFrame(echoFrame(), 1)
	for n := range whole {
		f.Add(whole[:n])
	}
	f.Add(echoFrame())
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := Frame{Data: data}
		p, ok := outer.IP()
		if ok && len(p.Payload) > len(data) {
			t.Errorf("payload of %d bytes in a frame of %d", len(p.Payload), len(data))
		}
		p.EchoRequest()
		if _, inner, ok := outer.VXLAN(4789); ok {
			inner.IP()
		}
	})
}
