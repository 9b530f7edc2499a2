package cni

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/config"
)

// AboutIPAM is printed when overlay-ipam is run by hand.
const AboutIPAM = "overlay-ipam gives addresses of ranges (CNI IPAM plugin, configured like host-local)"

// MainIPAM runs overlay-ipam and returns its exit status.
func MainIPAM(stdout, stderr io.Writer) int {
	p := &IPAMPlugin{Stdout: stdout, Log: slog.New(slog.NewTextHandler(stderr, nil))}
	return NewProcess(stdout, stderr).Run(AboutIPAM, p.Verbs())
}

// IPAMPlugin is overlay-ipam: an IPAM plugin for any main plugin.
type IPAMPlugin struct {
	Stdout io.Writer
	Log    *slog.Logger
}

// ipamCall is one call of a verb.
type ipamCall struct {
	args   *Args
	config *config.IPAM
	ledger *inProcess
}

func (c *ipamCall) attachment() ipam.Attachment {
	return ipam.Attachment{ContainerID: c.args.Container, Interface: c.args.Interface}
}

// Verbs returns what the plugin does.
func (p *IPAMPlugin) Verbs() Verbs {
	verb := func(fn func(context.Context, *ipamCall) error) func(context.Context, *Args) error {
		return func(ctx context.Context, args *Args) error {
			c, err := config.ParseIPAM(args.Stdin, args.Extra)
			if err != nil {
				return err
			}
			for _, w := range c.Warnings {
				p.Log.Warn(w, "network", c.Name)
			}
			return fn(ctx, &ipamCall{args, c, &inProcess{
				ledger: c.Ledger,
				live:   func(context.Context) ([]ipam.Allocation, error) { return hostLocal(c.HostLocal) },
			}})
		}
	}
	return Verbs{Add: verb(p.add), Del: verb(p.del), Check: verb(p.check), Status: verb(p.status), GC: verb(p.gc)}
}

func (p *IPAMPlugin) add(ctx context.Context, c *ipamCall) error {
	r := &result{types100.Result{Routes: c.config.Routes}}
	dns, err := resolvConf(c.config.ResolvConf)
	if err != nil {
		return err
	}
	r.DNS = dns
	return c.ledger.with(ctx, func(ctx context.Context, l *ipam.Ledger) error {
		addresses, err := l.Allocate(ctx, ipam.Request{
			Attachment: c.attachment(), Sets: c.config.Sets, Addresses: c.config.Addresses,
		})
		if err != nil {
			return err
		}
		for _, a := range addresses {
			subnet, _ := c.config.SubnetOf(a)
			r.IPs = append(r.IPs, &types100.IPConfig{
				Address: ipNet(netip.PrefixFrom(a, subnet.Prefix.Bits())), Gateway: subnet.Gateway.AsSlice(),
			})
		}
		versioned, err := r.GetAsVersion(c.config.CNIVersion)
		if err == nil {
			err = printResult(p.Stdout, versioned)
		}
		if err != nil {
			_, undo := l.Release(ctx, c.attachment())
			return errors.Join(err, undo)
		}
		return nil
	})
}

func (p *IPAMPlugin) del(ctx context.Context, c *ipamCall) error {
	return c.ledger.release(ctx, c.attachment())
}

// check makes sure that what the result says was given is still held.
func (p *IPAMPlugin) check(ctx context.Context, c *ipamCall) error {
	previous, err := previousResult(c.config.PrevResult, c.config.CNIVersion)
	if err != nil {
		return err
	}
	if previous == nil {
		return fmt.Errorf("%w: CHECK needs it", ErrPrevResult)
	}
	var ours []netip.Addr
	for _, ip := range previous.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if _, in := c.config.SubnetOf(a.Unmap()); ok && in {
			ours = append(ours, a.Unmap())
		}
	}
	if len(ours) < len(c.config.Sets) {
		return fmt.Errorf("%w: it has %d addresses of our ranges, want %d", ErrPrevResult, len(ours), len(c.config.Sets))
	}
	return c.ledger.held(ctx, c.attachment(), ours)
}

func (p *IPAMPlugin) status(ctx context.Context, c *ipamCall) error {
	return unavailable(c.ledger.free(ctx, c.config.Sets))
}

func (p *IPAMPlugin) gc(ctx context.Context, c *ipamCall) error {
	return (&inProcess{ledger: c.config.Ledger}).retain(ctx, c.config.ValidAttachments)
}

// resolvConf reads a file in the format of resolv.conf(5); none for no name.
func resolvConf(name string) (dns types.DNS, err error) {
	if name == "" {
		return dns, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return dns, fmt.Errorf("ipam.resolvConf: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, fields[1])
		case "domain":
			dns.Domain = fields[1]
		case "search":
			dns.Search = append(dns.Search, fields[1:]...)
		case "options":
			dns.Options = append(dns.Options, fields[1:]...)
		}
	}
	if err := lines.Err(); err != nil {
		return dns, fmt.Errorf("ipam.resolvConf: read %s: %w", name, err)
	}
	return dns, nil
}
