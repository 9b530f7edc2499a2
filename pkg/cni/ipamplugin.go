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

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/config"
)

// AboutIPAM is printed when overlay-ipam is run by hand.
const AboutIPAM = "overlay-ipam gives addresses of ranges, of this node or of all, or of an overlay network (CNI IPAM plugin, configured like host-local)"

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

// source is where an overlay-ipam's addresses come from.
type source interface {
	// add takes addresses, and gives them back unless they can be delivered. The
	// result has what is to say of them, and routes that come with them.
	add(ctx context.Context, a ipam.Attachment, deliver func(*result) error) error
	del(ctx context.Context, a ipam.Attachment) error
	// check makes sure that those of the addresses which are the source's are
	// still held.
	check(ctx context.Context, a ipam.Attachment, given []netip.Addr) error
	// status returns an error when an add would fail.
	status(ctx context.Context) error
	gc(ctx context.Context, valid []types.GCAttachment) error
}

func newSource(c *config.IPAM) source {
	switch {
	case c.Shared != nil:
		return &sharedSource{c}
	case c.Overlay != nil:
		return newOverlaySource(c)
	}
	return &rangeSource{config: c, ledger: &inProcess{
		ledger: c.Ledger,
		live:   func(context.Context) ([]ipam.Allocation, error) { return hostLocal(c.HostLocal) },
	}}
}

// ipamCall is one call of a verb.
type ipamCall struct {
	args   *Args
	config *config.IPAM
	source source
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
			return fn(ctx, &ipamCall{args, c, newSource(c)})
		}
	}
	return Verbs{Add: verb(p.add), Del: verb(p.del), Check: verb(p.check), Status: verb(p.status), GC: verb(p.gc)}
}

func (p *IPAMPlugin) add(ctx context.Context, c *ipamCall) error {
	dns, err := resolvConf(c.config.ResolvConf)
	if err != nil {
		return err
	}
	return c.source.add(ctx, c.attachment(), func(r *result) error {
		r.DNS, r.Routes = dns, append(c.config.Routes, r.Routes...)
		versioned, err := r.GetAsVersion(c.config.CNIVersion)
		if err != nil {
			return err
		}
		return printResult(p.Stdout, versioned)
	})
}

func (p *IPAMPlugin) del(ctx context.Context, c *ipamCall) error {
	return c.source.del(ctx, c.attachment())
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
	var given []netip.Addr
	for _, ip := range previous.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			given = append(given, a.Unmap())
		}
	}
	return c.source.check(ctx, c.attachment(), given)
}

func (p *IPAMPlugin) status(ctx context.Context, c *ipamCall) error {
	return unavailable(c.source.status(ctx))
}

func (p *IPAMPlugin) gc(ctx context.Context, c *ipamCall) error {
	return c.source.gc(ctx, c.config.ValidAttachments)
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
