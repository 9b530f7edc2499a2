package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// ErrLinkExists says that a link of the wanted name exists and isn't ours to
// change.
var ErrLinkExists = errors.New("link exists and is of another kind")

// Conflicts that the kernel finds when a VXLAN device is created.
var (
	// ErrVNIInUse: another VXLAN device has the VNI on the same port.
	ErrVNIInUse = errors.New("VNI is used by another VXLAN device on the same UDP port")
	// ErrPortInUse: another socket has the UDP port.
	ErrPortInUse = errors.New("UDP port is used by another socket")
)

// applyVXLAN creates the device, or changes it in place. Only what can't be
// changed makes it be created anew, and then all that was on it is gone: the
// next look finds that.
func (t *Target) applyVXLAN(b *batch, o VXLAN, have reconcile.Object) error {
	h, isVXLAN := have.(VXLAN)
	switch {
	case have != nil && !isVXLAN:
		return fmt.Errorf("create %s: %w: %s", o, ErrLinkExists, have)
	case isVXLAN && h.VNI == o.VNI && h.Port == o.Port && h.Local == o.Local:
		r, err := t.setLink(o.Name, 0, mtu(o.MTU), address(o.MAC))
		if err != nil {
			return err
		}
		b.add(r, func(err error) error { return fmt.Errorf("change %s: %w", o, err) })
		return nil
	case isVXLAN:
		b.add(t.deleteLink(o.Name), func(err error) error { return fmt.Errorf("remove %s: %w", h, err) })
		if err := b.flush(); err != nil {
			return err
		}
	}
	// It is created up: that is when the kernel opens the port, and a device
	// that can't have it isn't created at all.
	r := t.newLink(o.Name, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.IFF_UP, mtu(o.MTU), address(o.MAC))
	r.AddData(vxlanInfo(o))
	b.add(r, func(err error) error { return fmt.Errorf("create %s: %w", o, vxlanError(err)) })
	delete(t.index, o.Name)
	return b.flush()
}

func vxlanError(err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %w", ErrVNIInUse, err)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: %w", ErrPortInUse, err)
	}
	return err
}

// vxlanInfo encodes IFLA_LINKINFO (linux/if_link.h) of a device that learns
// nothing and has no default destination.
func vxlanInfo(o VXLAN) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(o.VNI))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, o.Port))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, nl.Uint8Attr(0))
	local := nl.IFLA_VXLAN_LOCAL
	if o.Local.Is6() {
		local = nl.IFLA_VXLAN_LOCAL6
	}
	data.AddRtAttr(local, o.Local.AsSlice())
	return info
}

// applyVeth creates a pair, or changes the end that is here.
func (t *Target) applyVeth(b *batch, o Veth, have reconcile.Object) error {
	h, isVeth := have.(Veth)
	if have != nil && (!isVeth || h.Group != o.Group) {
		return fmt.Errorf("create %s: %w: %s", o, ErrLinkExists, have)
	}
	if isVeth {
		r, err := t.setLink(o.Name, 0, mtu(o.MTU), address(o.MAC))
		if err != nil {
			return err
		}
		b.add(r, func(err error) error { return fmt.Errorf("change %s: %w", o, err) })
		return nil
	}
	r := t.newLink(o.Name, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, mtu(o.MTU), address(o.MAC),
		nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(o.Group)))
	r.AddData(t.vethInfo(o))
	b.add(r, func(err error) error { return fmt.Errorf("create %s: %w", o, err) })
	return b.flush()
}

// vethInfo encodes IFLA_LINKINFO with the other end, which the kernel creates
// in its namespace, under its name and with its address, in the same request.
func (t *Target) vethInfo(o Veth) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(o.Peer))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(o.MTU)))
	peer.AddRtAttr(unix.IFLA_ADDRESS, o.PeerMAC[:])
	if t.Peer != nil && t.Peer.Fd() >= 0 {
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(t.Peer.Fd())))
	}
	return info
}

// applyInterface changes a link that somebody else made.
func (t *Target) applyInterface(b *batch, o Interface, have reconcile.Object) error {
	if have == nil {
		return fmt.Errorf("change %s: %w", o, errNoLink)
	}
	attrs := []*nl.RtAttr{mtu(o.MTU)}
	if o.MAC != (ether.Addr{}) {
		attrs = append(attrs, address(o.MAC))
	}
	r, err := t.setLink(o.Name, 0, attrs...)
	if err != nil {
		return err
	}
	b.add(r, func(err error) error { return fmt.Errorf("change %s: %w", o, err) })
	return nil
}

func mtu(n int) *nl.RtAttr { return nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(n))) }

func address(a ether.Addr) *nl.RtAttr { return nl.NewRtAttr(unix.IFLA_ADDRESS, a[:]) }

func (t *Target) newLink(name string, flags int, up uint32, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	r := t.Conn.request(unix.RTM_NEWLINK, flags)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = up, up
	r.AddData(msg)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	for _, a := range attrs {
		r.AddData(a)
	}
	return r
}

// setLink changes a link that exists, by its index: by its name the kernel
// would take the request for one that renames it.
func (t *Target) setLink(name string, up uint32, attrs ...*nl.RtAttr) (*nl.NetlinkRequest, error) {
	index, err := t.linkIndex(name)
	if err != nil {
		return nil, err
	}
	r := t.Conn.request(unix.RTM_NEWLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), up, up
	r.AddData(msg)
	for _, a := range attrs {
		r.AddData(a)
	}
	return r, nil
}

func (t *Target) deleteLink(name string) *nl.NetlinkRequest {
	delete(t.index, name)
	r := t.Conn.request(unix.RTM_DELLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return r
}
