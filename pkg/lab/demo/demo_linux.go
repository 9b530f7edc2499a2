// Package demo shows the main job: three nodes on two segments, pods that reach
// each other over VXLAN on IPv4 and IPv6, machines outside, a node that dies
// and comes back, and nothing left at the end. What it prints is what it saw;
// the first thing that isn't as it should be ends it with an error.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
)

// port is where all hosts answer.
const port = 7000

// demo is one run.
type demo struct {
	out     io.Writer
	started time.Time
	lab     *lab.Lab
	cluster *cluster.Cluster
	nodes   []*cluster.Node
	pods    []*cluster.Pod
}

// Run runs the demonstration with the binaries of a folder.
func Run(ctx context.Context, out io.Writer, bin string) (err error) {
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	// The store is in the lab's own folder, which goes with the lab.
	d := &demo{out: out, started: time.Now(), lab: l, cluster: cluster.New(l, l.Router().Dir(), cluster.Options{Bin: bin})}
	for _, step := range []func(context.Context) error{
		d.startNodes, d.startPods, d.reachPods, d.reachOutside, d.loseNode, d.leave,
	} {
		if err := step(ctx); ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
		} else if err != nil {
			return err
		}
	}
	d.say("done in %.1f s", time.Since(d.started).Seconds())
	return nil
}

// say prints a headline with the time since the start.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "\n[%5.2fs] %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, args...))
}

// line prints a detail.
func (d *demo) line(format string, args ...any) { fmt.Fprintf(d.out, "         "+format+"\n", args...) }

func (d *demo) startNodes(ctx context.Context) error {
	d.say("an underlay of two segments with a router between them; three nodes, an overlayd on each")
	for _, s := range d.lab.Topology().Segments {
		d.line("segment %s: %s, %s", s.Name, s.IPv4, s.IPv6)
	}
	for _, at := range []struct{ name, segment string }{{"n1", "a"}, {"n2", "a"}, {"n3", "b"}} {
		begun := time.Now()
		n, err := d.cluster.AddNode(ctx, at.name, at.segment)
		if err != nil {
			return err
		}
		d.nodes = append(d.nodes, n)
		if err := d.showNode(n, begun); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) showNode(n *cluster.Node, begun time.Time) error {
	s, err := n.State()
	if err != nil {
		return err
	}
	d.line("%s at %s leased %s and %s; device %s, VTEP %s, MTU %d; ready after %s",
		n.Name(), n.IPv4(), s.VTEP.Blocks[0], s.VTEP.Blocks[1], s.VTEP.Device, s.VTEP.MAC, s.VTEP.MTU, ms(time.Since(begun)))
	return nil
}

func (d *demo) startPods(ctx context.Context) error {
	d.say("two pods on each, attached through libcni by overlay-vxlan")
	for _, n := range d.nodes {
		if err := d.addPods(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) addPods(ctx context.Context, n *cluster.Node) error {
	for _, name := range []string{"p1", "p2"} {
		begun := time.Now()
		p, err := n.AddPod(ctx, name)
		if err != nil {
			return err
		}
		took := time.Since(begun)
		if err := p.Check(ctx); err != nil {
			return fmt.Errorf("CHECK %s: %w", p, err)
		}
		d.line("%s has %v; ADD took %s; CHECK agrees", p, p.Addresses(), ms(took))
		if _, err := p.Serve(ctx, port); err != nil {
			return err
		}
		d.pods = append(d.pods, p)
	}
	return nil
}

// loseNode powers a node off: its processes, namespaces and /run are gone.
func (d *demo) loseNode(ctx context.Context) error {
	lost := d.nodes[1]
	before, err := lost.State()
	if err != nil {
		return err
	}
	d.say("node %s loses its power", lost.Name())
	if err := lost.PowerOff(); err != nil {
		return err
	}
	d.pods = append(d.pods[:2:2], d.pods[4:]...)
	if err := d.table(ctx, "the others go on"); err != nil {
		return err
	}
	begun := time.Now()
	if err := lost.PowerOn(); err != nil {
		return err
	}
	if err := lost.StartDaemon(ctx); err != nil {
		return err
	}
	d.say("node %s is back, with the blocks and the VTEP that it had; the others had nothing to change", lost.Name())
	if err := d.showNode(lost, begun); err != nil {
		return err
	}
	after, err := lost.State()
	if err != nil {
		return err
	}
	if after.VTEP.MAC != before.VTEP.MAC || after.VTEP.Blocks[0] != before.VTEP.Blocks[0] || after.VTEP.Blocks[1] != before.VTEP.Blocks[1] {
		return fmt.Errorf("node %s came back as %v instead of %v", lost.Name(), after.VTEP, before.VTEP)
	}
	// Its runtime knows no pods any more, and says so.
	if err := lost.GC(ctx); err != nil {
		return fmt.Errorf("GC on %s: %w", lost.Name(), err)
	}
	if err := d.addPods(ctx, lost); err != nil {
		return err
	}
	return d.table(ctx, "everybody reaches everybody again")
}

// leave removes all pods and looks for what is left of them.
func (d *demo) leave(ctx context.Context) error {
	d.say("all pods are deleted; what is left of them?")
	for _, p := range d.pods {
		if err := p.Del(ctx); err != nil {
			return err
		}
	}
	for _, n := range d.nodes {
		held, err := held(ctx, n)
		if err != nil {
			return err
		}
		links, err := podLinks(n)
		if err != nil {
			return err
		}
		d.line("%s: %d addresses held, %d interfaces of pods", n.Name(), held, links)
		if held+links > 0 {
			return fmt.Errorf("%s isn't empty", n.Name())
		}
		if err := n.StopDaemon(); err != nil {
			return err
		}
	}
	return nil
}

// held counts the addresses that a node's ledger has given.
func held(ctx context.Context, n *cluster.Node) (_ int, err error) {
	l, err := ipam.OpenLedger(n.LedgerPath(), ipam.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	all, err := l.All(ctx)
	return len(all), err
}

// podLinks counts the host's ends of pods' interfaces.
func podLinks(n *cluster.Node) (int, error) {
	count := 0
	lines, err := n.Snapshot()
	for _, l := range lines {
		if containsWord(l, intent.HostPrefix) {
			count++
		}
	}
	return count, err
}
