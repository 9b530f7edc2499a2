package kernel

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// encodeAddress adds or removes an address. IPv6 addresses are usable at once
// (no duplicate address detection: the address is leased to us), and none
// makes a route by itself.
func (t *Target) encodeAddress(o Address, kind, flags int) (*nl.NetlinkRequest, error) {
	index, err := t.linkIndex(o.Link)
	if err != nil {
		return nil, err
	}
	a := o.Prefix.Addr()
	r := t.Conn.request(kind, flags)
	msg := nl.NewIfAddrmsg(int(family(a)))
	msg.Index, msg.Prefixlen, msg.Scope = uint32(index), uint8(o.Prefix.Bits()), unix.RT_SCOPE_UNIVERSE
	r.AddData(msg)
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()))
	r.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
	r.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE|unix.IFA_F_PERMANENT)))
	return r, nil
}

// encodeNeighbor adds or removes an entry. One that follows is of those that the
// kernel keeps for whoever knows better (NTF_EXT_LEARNED), so neither its table's
// limits nor its age count; being stale, it is used, and then asked for.
func (t *Target) encodeNeighbor(o Neighbor, kind, flags int) (*nl.NetlinkRequest, error) {
	index, err := t.linkIndex(o.Link)
	if err != nil {
		return nil, err
	}
	r := t.Conn.request(kind, flags)
	msg := &netlink.Ndmsg{Family: family(o.Address), Index: uint32(index), State: netlink.NUD_PERMANENT}
	if o.Follows {
		msg.State, msg.Flags = netlink.NUD_STALE, unix.NTF_EXT_LEARNED
	}
	r.AddData(msg)
	r.AddData(nl.NewRtAttr(netlink.NDA_DST, o.Address.AsSlice()))
	r.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, o.MAC[:]))
	return r, nil
}

// encodeFDB adds or removes an entry. Removed are all destinations of the
// Ethernet address: naming one finds it only on the device's own port and VNI.
func (t *Target) encodeFDB(o FDB, kind, flags int) (*nl.NetlinkRequest, error) {
	index, err := t.linkIndex(o.Link)
	if err != nil {
		return nil, err
	}
	r := t.Conn.request(kind, flags)
	r.AddData(&netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(index), State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF})
	r.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, o.MAC[:]))
	if kind != unix.RTM_DELNEIGH {
		r.AddData(nl.NewRtAttr(netlink.NDA_DST, o.Remote.AsSlice()))
	}
	return r, nil
}

func (t *Target) encodeRoute(o Route, kind, flags int) (*nl.NetlinkRequest, error) {
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: family(o.Dst.Addr()), Dst_len: uint8(o.Dst.Bits()), Table: unix.RT_TABLE_MAIN,
		Protocol: Protocol, Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_UNIVERSE,
	}}
	r := t.Conn.request(kind, flags)
	r.AddData(msg)
	r.AddData(nl.NewRtAttr(unix.RTA_DST, o.Dst.Addr().AsSlice()))
	if o.Metric != 0 {
		r.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(o.Metric)))
	}
	if o.Source.IsValid() {
		r.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, o.Source.AsSlice()))
	}
	if o.Link == "" {
		msg.Type = unix.RTN_BLACKHOLE
		return r, nil
	}
	index, err := t.linkIndex(o.Link)
	if err != nil {
		return nil, err
	}
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	if o.Via.IsValid() {
		msg.Flags |= unix.RTNH_F_ONLINK
		r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, o.Via.AsSlice()))
	} else if o.Dst.Addr().Is4() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	return r, nil
}
