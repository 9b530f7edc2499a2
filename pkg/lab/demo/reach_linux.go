package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster"
)

// atOnce is how many exchanges run at the same time.
const atOnce = 8

// exchangeTimeout bounds one exchange.
const exchangeTimeout = 3 * time.Second

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// containsWord says whether a word of a line begins so.
func containsWord(line, prefix string) bool {
	for word := range strings.FieldsSeq(line) {
		if strings.HasPrefix(word, prefix) {
			return true
		}
	}
	return false
}

// reachPods tries all pairs, and proves on the wire that VXLAN carried them.
func (d *demo) reachPods(ctx context.Context) error {
	wire, err := d.nodes[0].Capture("eth0", func(f lab.Frame) bool {
		vni, _, ok := f.VXLAN(4789)
		return ok && vni == 4096
	})
	if err != nil {
		return err
	}
	err = d.table(ctx, "every pod to every other")
	if seen := wire.Count(); err == nil && seen == 0 {
		err = errors.New("no VXLAN packet was seen on the underlay")
	}
	d.line("%d VXLAN packets with VNI 4096 seen on %s's underlay meanwhile", wire.Count(), d.nodes[0].Name())
	return errors.Join(err, wire.Close())
}

// table tries all pairs of pods and prints the time of a TCP round trip for
// each. A cell stands for six exchanges: ping, TCP that must arrive with the
// pod's own address, and a UDP datagram that fills the MTU and mustn't be
// fragmented; on both families.
func (d *demo) table(ctx context.Context, title string) error {
	d.say("%s: ping, TCP with the source address preserved, UDP of full MTU unfragmented; IPv4 and IPv6", title)
	cells := make([][]time.Duration, len(d.pods))
	var exchanges atomic.Int64
	var tasks errgroup.Group
	tasks.SetLimit(atOnce)
	for i, from := range d.pods {
		cells[i] = make([]time.Duration, len(d.pods))
		for j, to := range d.pods {
			if i == j {
				continue
			}
			tasks.Go(func() (err error) {
				cells[i][j], err = reach(ctx, from, to, &exchanges)
				return err
			})
		}
	}
	if err := tasks.Wait(); err != nil {
		return err
	}
	d.print(cells)
	d.line("%d exchanges, all answered; times of a TCP round trip, the slower of both families", exchanges.Load())
	return nil
}

func (d *demo) print(cells [][]time.Duration) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-7s", "from")
	for _, p := range d.pods {
		fmt.Fprintf(&b, "%9s", p)
	}
	d.line("%s", b.String())
	for i, from := range d.pods {
		b.Reset()
		fmt.Fprintf(&b, "%-7s", from)
		for j := range d.pods {
			cell := "."
			if i != j {
				cell = ms(cells[i][j])
			}
			fmt.Fprintf(&b, "%9s", cell)
		}
		d.line("%s", b.String())
	}
}

// reach makes the exchanges of one cell.
func reach(ctx context.Context, from, to *cluster.Pod, exchanges *atomic.Int64) (slowest time.Duration, err error) {
	own := from.Addresses()
	for i, dst := range to.Addresses() {
		took, err := exchange(ctx, from, own[i], dst)
		if err != nil {
			return 0, fmt.Errorf("%s to %s: %w", from, to, err)
		}
		exchanges.Add(3)
		slowest = max(slowest, took)
	}
	return slowest, nil
}

func exchange(ctx context.Context, from *cluster.Pod, own, dst netip.Addr) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	if _, err := from.Ping(ctx, dst); err != nil {
		return 0, err
	}
	size := lab.UDPPayload(from.Result.Interfaces[1].Mtu, dst)
	if _, err := from.UDP(ctx, netip.AddrPortFrom(dst, port), size, true); err != nil {
		return 0, err
	}
	x, err := from.TCP(ctx, netip.AddrPortFrom(dst, port))
	if err != nil {
		return 0, err
	}
	if x.Source.Addr() != own {
		return 0, fmt.Errorf("%s saw %s instead of the pod's own %s", dst, x.Source.Addr(), own)
	}
	return x.RTT, nil
}

// reachOutside tries machines that are no nodes, and the pods' own nodes.
func (d *demo) reachOutside(ctx context.Context) error {
	d.say("pods to machines that are no nodes (masqueraded), and to their own nodes")
	for _, at := range []struct{ name, segment string }{{"v1", "a"}, {"v2", "b"}} {
		vm, err := d.lab.AddVM(at.name, at.segment)
		if err != nil {
			return err
		}
		if _, err := vm.Serve(ctx, port); err != nil {
			return err
		}
		for _, p := range d.pods {
			if err := d.masqueraded(ctx, p, vm); err != nil {
				return err
			}
		}
		d.line("every pod reached %s in segment %s at %s and %s, which saw the pod's node", at.name, at.segment, vm.IPv4(), vm.IPv6())
	}
	var once sync.Map
	for _, p := range d.pods {
		n := p.Node()
		if _, done := once.LoadOrStore(n, true); !done {
			if _, err := n.Serve(ctx, port); err != nil {
				return err
			}
		}
		for i, dst := range []netip.Addr{n.IPv4(), n.IPv6()} {
			if _, err := exchange(ctx, p, p.Addresses()[i], dst); err != nil {
				return fmt.Errorf("%s to its node: %w", p, err)
			}
		}
	}
	d.line("every pod reached its own node, which saw the pod's own address")
	return nil
}

func (d *demo) masqueraded(ctx context.Context, p *cluster.Pod, vm *lab.Machine) error {
	n := p.Node()
	for _, to := range []struct{ dst, node netip.Addr }{{vm.IPv4(), n.IPv4()}, {vm.IPv6(), n.IPv6()}} {
		bounded, cancel := context.WithTimeout(ctx, exchangeTimeout)
		x, err := p.TCP(bounded, netip.AddrPortFrom(to.dst, port))
		cancel()
		if err != nil {
			return err
		}
		if x.Source.Addr() != to.node {
			return fmt.Errorf("%s saw %s, not node %s's %s", vm.Name(), x.Source.Addr(), n.Name(), to.node)
		}
	}
	return nil
}
