// Package cni is the verbs of the Container Network Interface, from the
// configuration that a runtime passes to the result or error that it gets:
// ADD, DEL, CHECK, STATUS, GC and VERSION of specification 1.1.0.
package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// About is printed when the plugin is run by hand.
const About = "overlay-vxlan attaches pods to a VXLAN overlay network (CNI plugin)"

// Dataplane is what the verbs need of the operating system.
type Dataplane interface {
	// Prepare makes sure that an attachment can be made: nothing is in its
	// place but what a killed ADD left, which is removed.
	Prepare(ctx context.Context, a intent.Attachment, netns string) (Attacher, error)
	// Detach removes an attachment, whatever there is of it.
	Detach(ctx context.Context, a intent.Attachment) error
	// Check returns a difference as a *reconcile.DriftError.
	Check(ctx context.Context, p *intent.Pod, netns string) error
	// Collect removes all attachments of a network that aren't kept.
	Collect(ctx context.Context, network string, keep []intent.Attachment) error
	// Live lists the addresses that a network's attachments have, to restore
	// a ledger that was lost.
	Live(ctx context.Context, network string) ([]ipam.Allocation, error)
	// Status says whether the node's part of the network is as it should be;
	// a difference is a *reconcile.DriftError.
	Status(ctx context.Context, s *nodestate.State) error
}

// Attacher makes one attachment.
type Attacher interface {
	// Attach makes all of it; when it fails nothing is left.
	Attach(ctx context.Context, p *intent.Pod) error
	Close() error
}

// Sync brings up a network's node where there is no daemon.
type Sync func(ctx context.Context, c *config.Node, spec *lease.Network, log *slog.Logger) (*nodestate.State, error)

// Plugin is overlay-vxlan.
type Plugin struct {
	Dataplane Dataplane
	Sync      Sync
	Stdout    io.Writer
	Stderr    io.Writer // of delegated plugins
	Log       *slog.Logger
}

// Verbs returns what the plugin does.
func (p *Plugin) Verbs() Verbs {
	verb := func(fn func(*call) error) func(context.Context, *Args) error {
		return func(ctx context.Context, args *Args) error {
			c, err := p.parse(ctx, args)
			if err != nil {
				return err
			}
			return fn(c)
		}
	}
	alone := func(fn func(*call) error) func(*call) error {
		return func(c *call) error {
			return node.Exclusively(c.ctx, c.config.Node.RunDir, c.attachment(), func() error { return fn(c) })
		}
	}
	return Verbs{Add: verb(alone(p.add)), Del: verb(alone(p.del)), Check: verb(p.check), Status: verb(p.status), GC: verb(p.gc)}
}

// call is one call of a verb.
type call struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the call
	args   *Args
	config *config.Plugin
	ipam   ipamPlugin
}

// attachment that the call is about.
func (c *call) attachment() intent.Attachment {
	return intent.Attachment{Network: c.config.Network, Container: c.args.Container, Interface: c.args.Interface}
}

func (p *Plugin) parse(ctx context.Context, args *Args) (*call, error) {
	conf, err := config.ParsePlugin(args.Stdin, args.Extra)
	if err != nil {
		return nil, err
	}
	for _, w := range conf.Warnings {
		p.Log.Warn(w, "network", conf.Name)
	}
	c := &call{ctx: ctx, args: args, config: conf}
	if conf.IPAM == config.IPAMType {
		c.ipam = &inProcess{
			ledger: conf.Node.LedgerPath(conf.Network), cooldown: conf.Cooldown,
			live: func(ctx context.Context) ([]ipam.Allocation, error) {
				return p.Dataplane.Live(ctx, conf.Network)
			},
		}
	} else {
		c.ipam = &delegate{plugin: conf.IPAM, stdin: args.Stdin, stderr: p.Stderr}
	}
	return c, nil
}

// state returns what the node has in the network: what the daemon wrote, or,
// where there is none, after a sync of our own.
func (p *Plugin) state(c *call) (*nodestate.State, error) {
	if c.config.Spec != nil {
		return p.Sync(c.ctx, &c.config.Node, c.config.Spec, p.Log)
	}
	s, err := nodestate.Read(c.config.Node.RunDir, c.config.Network)
	if err != nil {
		return nil, fmt.Errorf("%w; is overlayd running, and has it network %s?", err, c.config.Network)
	}
	return s, nil
}

// usable returns the state if addresses may be given out.
func (p *Plugin) usable(c *call) (*nodestate.State, error) {
	s, err := p.state(c)
	if err == nil {
		err = usable(s)
	}
	return s, err
}

// printResult writes a result.
func printResult(w io.Writer, result any) error {
	data, err := json.MarshalIndent(result, "", "    ")
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
