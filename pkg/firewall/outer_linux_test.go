package firewall_test

// Who may send VXLAN packets: crafted ones, from machines that are peers and from
// others.

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// vxlanPort is where VXLAN packets go, and innerPort, of pods, what is within.
const vxlanPort, innerPort = 4789, 9000

// vxlanPacket is the payload of a UDP packet: a VXLAN header (RFC 7348, section 5)
// and a frame with a datagram of IPv4.
func vxlanPacket(vni uint32, to ether.Addr, src, dst netip.Addr, text string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, vni<<8)
	b = append(b, to[:]...)
	b = append(b, 0x0e, 0xff, 0xff, 0xff, 0xff, 0xff, 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(text)))
	ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	b = append(b, ip...)
	for _, field := range []uint16{innerPort, innerPort, uint16(8 + len(text)), 0} { // the checksum may be left out
		b = binary.BigEndian.AppendUint16(b, field)
	}
	return append(b, text...)
}

// send sends a datagram from a host.
func send(t testing.TB, from *lab.Host, to netip.AddrPort, payload []byte) {
	t.Helper()
	err := from.Do(func() error {
		c, err := net.Dial("udp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(payload)
		return err
	})
	if err != nil {
		t.Fatalf("send from %s to %s: %v", from.Name(), to, err)
	}
}

// mailbox is a socket in a pod.
type mailbox struct{ net.PacketConn }

func newMailbox(t testing.TB, h *lab.Host, port int) *mailbox {
	t.Helper()
	m := &mailbox{}
	err := h.Do(func() (err error) {
		m.PacketConn, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// next waits for a datagram, and returns its text.
func (m *mailbox) next(t testing.TB) string {
	t.Helper()
	b := make([]byte, 2048)
	if err := m.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, _, err := m.ReadFrom(b)
	if err != nil {
		t.Error(err)
	}
	return string(b[:n])
}

// crafted is a VXLAN packet to a node, which has a datagram for one of its pods.
func (o *overlay) crafted(n int, pod, text string) []byte {
	return vxlanPacket(4096, o.mac(n), netip.MustParseAddr("10.244.9.9"), o.pods[pod].addresses[0], text)
}

func vxlanAt(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, vxlanPort) }

// strangers are those that a node has seen.
func (o *overlay) strangers(t testing.TB, n int, r *firewall.Rules) (found []netip.Addr) {
	t.Helper()
	err := o.nodes[n].Do(func() (err error) {
		found, err = with(firewall.Nftables).Strangers(r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestOnlyPeersAreHeard(t *testing.T) {
	t.Parallel()
	for _, outer := range lease.Families() {
		t.Run(outer.String(), func(t *testing.T) {
			t.Parallel()
			o := newOverlayOver(t, outer)
			node, stranger := o.underlay(o.nodes[0].Machine), o.underlay(o.vm)
			box := newMailbox(t, o.pods["p1"].Host, innerPort)
			heard := func(who *lab.Host, text string) {
				t.Helper()
				send(t, who, vxlanAt(node), o.crafted(0, "p1", text))
				if got := box.next(t); got != text {
					t.Errorf("the pod got %q, want %q", got, text)
				}
			}
			heard(o.vm.Host, "without rules everybody is heard")
			o.protect(t, firewall.Nftables, nil)
			if found := o.strangers(t, 0, o.rules(0)); len(found) > 0 {
				t.Errorf("strangers are %s", found)
			}
			send(t, o.vm.Host, vxlanAt(node), o.crafted(0, "p1", "a stranger"))
			heard(o.nodes[1].Host, "a peer")
			if found := o.strangers(t, 0, o.rules(0)); !slices.Equal(found, []netip.Addr{stranger}) {
				t.Errorf("strangers are %s", found)
			}

			joined := func(r *firewall.Rules) { r.Peers = append(r.Peers, stranger) }
			o.protect(t, firewall.Nftables, joined)
			heard(o.vm.Host, "who has joined")
			r := o.rules(0)
			joined(r)
			if found := o.strangers(t, 0, r); len(found) > 0 {
				t.Errorf("strangers are %s", found)
			}
			o.protect(t, firewall.Nftables, nil)
			if found := o.strangers(t, 0, o.rules(0)); len(found) > 0 {
				t.Errorf("who was a stranger before he joined is one when he has left: %s", found)
			}
			send(t, o.vm.Host, vxlanAt(node), o.crafted(0, "p1", "who has left"))
			heard(o.nodes[1].Host, "a peer that stays")
			if found := o.strangers(t, 0, o.rules(0)); !slices.Equal(found, []netip.Addr{stranger}) {
				t.Errorf("strangers are %s", found)
			}
			exchange(t, o.pods["p1"].Host, o.pods["p3"].at(0))
			exchange(t, o.pods["p3"].Host, o.pods["p1"].at(1))
		})
	}
}

// Whichever of its addresses a stranger sends to, the node takes it no more than by
// the right one. Nor are pods heard that make VXLAN packets themselves.
func TestNoWayAround(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	boxes := []*mailbox{newMailbox(t, o.pods["p1"].Host, innerPort), newMailbox(t, o.pods["p3"].Host, innerPort)}
	broadcast := netip.MustParseAddr("172.30.1.255")
	ways := []struct {
		name string
		from *lab.Host
		to   netip.Addr
		node int
	}{
		{"to the VTEP's address", o.vm.Host, o.rules(0).VTEPs[0], 0},
		{"by broadcast", o.vm.Host, broadcast, 0},
		{"a pod to its node", o.pods["p2"].Host, o.nodes[0].IPv4(), 0},
		{"a pod to its node's VTEP", o.pods["p2"].Host, o.rules(0).VTEPs[0], 0},
		{"a pod to another node, by whose name it would be heard", o.pods["p2"].Host, o.nodes[1].IPv4(), 1},
	}
	pods := []string{"p1", "p3"}
	for _, way := range ways {
		send(t, way.from, vxlanAt(way.to), o.crafted(way.node, pods[way.node], way.name))
		if got := boxes[way.node].next(t); got != way.name {
			t.Errorf("%s: without rules the pod got %q", way.name, got)
		}
	}
	o.protect(t, firewall.Nftables, nil)
	for _, way := range ways {
		send(t, way.from, vxlanAt(way.to), o.crafted(way.node, pods[way.node], way.name))
		peer := o.nodes[1-way.node]
		send(t, peer.Host, vxlanAt(o.nodes[way.node].IPv4()), o.crafted(way.node, pods[way.node], "peer"))
		if got := boxes[way.node].next(t); got != "peer" {
			t.Errorf("the pod got what came %s", got)
		}
	}
}

// What isn't of the network's VNI, or isn't for the node, is nobody's business.
func TestOtherVXLANIsLeftAlone(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	o.protect(t, firewall.Nftables, nil)
	node := o.nodes[0]
	command(t, node.Host, "ip link add other up type vxlan id 7 dstport 4789 local "+node.IPv4().String()+" nolearning")
	capture, err := node.Capture("other", func(f lab.Frame) bool { return strings.Contains(string(f.Data), "another VNI") })
	if err != nil {
		t.Fatal(err)
	}
	defer capture.Close()
	other := vxlanPacket(7, o.mac(0), netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2"), "another VNI")
	send(t, o.vm.Host, vxlanAt(node.IPv4()), other)
	if _, err := capture.Wait(t.Context(), 1); err != nil {
		t.Error(err)
	}
	// Pods may speak VXLAN, with the same VNI and port, and with machines outside.
	for name, to := range map[string]*lab.Host{"p2": o.pods["p2"].Host, "p3": o.pods["p3"].Host, "the machine": o.vm.Host} {
		box, at := newMailbox(t, to, vxlanPort), o.vm.IPv4()
		if p := o.pods[name]; p != nil {
			at = p.addresses[0]
		}
		send(t, o.pods["p1"].Host, vxlanAt(at), o.crafted(0, "p1", name))
		if got := box.next(t); !strings.HasSuffix(got, name) {
			t.Errorf("%s got %q", name, got)
		}
	}
	if found := o.strangers(t, 0, o.rules(0)); len(found) > 0 {
		t.Errorf("strangers are %s", found)
	}
}

// More strangers than the node remembers are dropped all the same.
func TestManyStrangers(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	o.protect(t, firewall.Nftables, nil)
	node, box := o.nodes[0].IPv4(), newMailbox(t, o.pods["p1"].Host, innerPort)
	for i := range 100 {
		source := fmt.Sprintf("10.66.0.%d", i+1)
		command(t, o.vm.Host, "ip address add "+source+"/32 dev lo")
		err := o.vm.Do(func() error {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
			c, err := d.DialContext(t.Context(), "udp", vxlanAt(node).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(o.crafted(0, "p1", source))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	send(t, o.nodes[1].Host, vxlanAt(node), o.crafted(0, "p1", "a peer"))
	if got := box.next(t); got != "a peer" {
		t.Errorf("the pod got a packet of %s", got)
	}
	if found := o.strangers(t, 0, o.rules(0)); len(found) != 64 {
		t.Errorf("%d strangers are remembered: %s", len(found), found)
	}
}
