package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// result is a CNI result in the newest version; GetAsVersion gives the others.
type result struct{ types100.Result }

// GetAsVersion converts to the version that the configuration asks for.
func (r *result) GetAsVersion(version string) (types.Result, error) {
	r.CNIVersion = types100.ImplementedSpecVersion
	converted, err := r.Result.GetAsVersion(version)
	if err != nil {
		return nil, fmt.Errorf("convert result to version %s: %w", version, err)
	}
	return converted, nil
}

// buildResult says what ADD made.
func buildResult(p *intent.Pod, netns string, given *allocation, dns types.DNS) *result {
	r := &result{types100.Result{
		Interfaces: []*types100.Interface{
			{Name: p.HostInterface(), Mac: p.HostMAC().String(), Mtu: p.MTU},
			{Name: p.Interface, Mac: p.MAC.String(), Mtu: p.MTU, Sandbox: netns},
		},
		DNS: dns,
	}}
	if r.DNS.IsEmpty() {
		r.DNS = given.dns
	}
	for _, a := range p.Addresses {
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: types100.Int(1),
			Address:   ipNet(netip.PrefixFrom(a, a.BitLen())),
			Gateway:   intent.Gateway(lease.FamilyOf(a)).AsSlice(),
		})
	}
	for _, dst := range p.Routes {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(dst), GW: intent.Gateway(lease.FamilyOf(dst.Addr())).AsSlice()})
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// merge adds what we made to the result of the plugins before us in a chain.
func merge(previous, r *result) *result {
	if previous == nil {
		return r
	}
	offset := len(previous.Interfaces)
	merged := *previous
	merged.Interfaces = append(merged.Interfaces, r.Interfaces...)
	for _, ip := range r.IPs {
		ip.Interface = types100.Int(*ip.Interface + offset)
	}
	merged.IPs = append(merged.IPs, r.IPs...)
	merged.Routes = append(merged.Routes, r.Routes...)
	if merged.DNS.IsEmpty() {
		merged.DNS = r.DNS
	}
	return &merged
}

// previousResult reads prevResult; nil when there is none. One without a
// version of its own has that of the configuration.
func previousResult(fields map[string]any, version string) (*result, error) {
	if fields == nil {
		return nil, nil //nolint:nilnil // no result is an answer here
	}
	if own, ok := fields["cniVersion"].(string); ok {
		version = own
	} else {
		fields["cniVersion"] = version
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPrevResult, err)
	}
	parsed, err := create.Create(version, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPrevResult, err)
	}
	r, err := types100.NewResultFromResult(parsed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPrevResult, err)
	}
	return &result{*r}, nil
}

// pod reads back from a result what ADD made of an attachment: its interface
// in the container, the addresses on it, the routes over it.
func (r *result) pod(a intent.Attachment) (*intent.Pod, error) {
	at := -1
	for i, iface := range r.Interfaces {
		if iface.Name == a.Interface && iface.Sandbox != "" {
			at = i
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("%w: it has no interface %q in a container", ErrPrevResult, a.Interface)
	}
	mac, err := ether.Parse(r.Interfaces[at].Mac)
	if err != nil {
		return nil, fmt.Errorf("%w: interfaces[%d].mac: %w", ErrPrevResult, at, err)
	}
	p := &intent.Pod{Attachment: a, MAC: mac, MTU: r.Interfaces[at].Mtu}
	for i, ip := range r.IPs {
		if ip.Interface == nil || *ip.Interface != at {
			continue
		}
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("%w: ips[%d]: %v is no address", ErrPrevResult, i, ip.Address)
		}
		p.Addresses = append(p.Addresses, address.Unmap())
	}
	if len(p.Addresses) == 0 {
		return nil, fmt.Errorf("%w: interface %q has no address", ErrPrevResult, a.Interface)
	}
	for _, route := range r.Routes {
		dst, ok := prefix(&route.Dst)
		gw, _ := netip.AddrFromSlice(route.GW)
		if ok && gw.Unmap() == intent.Gateway(lease.FamilyOf(dst.Addr())) {
			p.Routes = append(p.Routes, dst)
		}
	}
	return p, nil
}
