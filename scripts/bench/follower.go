//go:build linux

package main

// What the kernel of a node announces: the routes, neighbours and forwarding
// entries by which its peers are reached.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// trace is an entry that a kernel has of a peer: what is looked up, and what is
// found. A route leads from a block to a gateway, a neighbour entry from there to
// an Ethernet address, a forwarding entry from that to the underlay.
type trace struct{ kind, key, value string }

// traces are what a peer leaves in the kernel.
func traces(block netip.Prefix, mac ether.Addr, underlay netip.Addr) []trace {
	gateway := block.Addr().String()
	return []trace{
		{"fdb", mac.String(), underlay.String()},
		{"neighbor", gateway, mac.String()},
		{"route", block.String(), gateway},
	}
}

func (s simulated) traces() []trace {
	v := s.vtep()
	return traces(s.block(), v.MAC, v.Underlay[0])
}

// follower knows what a kernel has announced since it was made.
type follower struct {
	done chan struct{}

	mu      sync.Mutex
	values  map[trace]string // by kind and key
	failed  error
	changed chan struct{} // closed at the next change
}

// announcements is the size of the buffer for what isn't read yet.
const announcements = 64 << 20

// follow listens to a node's kernel.
func follow(n *lab.Node) (*follower, error) {
	f := &follower{done: make(chan struct{}), values: map[trace]string{}, changed: make(chan struct{})}
	ns, err := netns.GetFromPath(n.Path())
	if err != nil {
		return nil, fmt.Errorf("follow kernel of %s: %w", n.Name(), err)
	}
	defer func() { _ = ns.Close() }() // the sockets stay
	routes, neighbors := make(chan netlink.RouteUpdate), make(chan netlink.NeighUpdate)
	err = netlink.RouteSubscribeWithOptions(routes, f.done, netlink.RouteSubscribeOptions{
		Namespace: &ns, ErrorCallback: f.fail, ReceiveBufferSize: announcements, ReceiveBufferForceSize: true,
	})
	if err == nil {
		err = netlink.NeighSubscribeWithOptions(neighbors, f.done, netlink.NeighSubscribeOptions{
			Namespace: &ns, ErrorCallback: f.fail, ReceiveBufferSize: announcements, ReceiveBufferForceSize: true,
		})
	}
	if err != nil {
		close(f.done)
		return nil, fmt.Errorf("follow kernel of %s: %w", n.Name(), err)
	}
	go f.routes(routes)
	go f.neighbors(neighbors)
	return f, nil
}

// close ends listening.
func (f *follower) close() { close(f.done) }

func (f *follower) routes(updates <-chan netlink.RouteUpdate) {
	for u := range updates {
		if u.Dst == nil || u.Gw == nil {
			continue
		}
		f.note(u.Type == unix.RTM_NEWROUTE, trace{"route", u.Dst.String(), u.Gw.String()})
	}
}

func (f *follower) neighbors(updates <-chan netlink.NeighUpdate) {
	for u := range updates {
		t := trace{"neighbor", u.IP.String(), u.HardwareAddr.String()}
		if u.Family == unix.AF_BRIDGE {
			t = trace{"fdb", u.HardwareAddr.String(), destination(u.IP)}
		}
		f.note(u.Type == unix.RTM_NEWNEIGH, t)
	}
}

// destination is the address of a forwarding entry, whose family follows from its size.
func destination(ip net.IP) string {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap().String()
}

// note takes over one announcement.
func (f *follower) note(there bool, t trace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := trace{kind: t.kind, key: t.key}
	if there {
		f.values[key] = t.value
	} else {
		delete(f.values, key)
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *follower) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.done: // by closing the sockets
	default:
		f.failed = errors.Join(f.failed, err)
	}
}

// followPatience is how long a daemon may take to follow.
const followPatience = time.Minute

// within is await with patience.
func (f *follower) within(ctx context.Context, there bool, wanted []trace) error {
	ctx, cancel := context.WithTimeout(ctx, followPatience)
	defer cancel()
	return f.await(ctx, there, wanted)
}

// await waits until all of some traces are there, or none.
func (f *follower) await(ctx context.Context, there bool, pending []trace) error {
	for {
		f.mu.Lock()
		for len(pending) > 0 && f.has(pending[0]) == there {
			pending = pending[1:]
		}
		changed, failed := f.changed, f.failed
		f.mu.Unlock()
		if len(pending) == 0 || failed != nil {
			return failed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the kernel, still for %d entries, the first %v: %w", len(pending), pending[0], ctx.Err())
		}
	}
}

func (f *follower) has(t trace) bool { return f.values[trace{kind: t.kind, key: t.key}] == t.value }
