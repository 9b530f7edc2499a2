package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// steady returns what a dump finds, whole. The kernel hands out neighbours,
// forwarding entries and routes by their number in a table, and doesn't say so
// when one that came or went between two parts of its answer has shifted the
// rest: some are then missing, or there twice. So an answer in several parts
// counts only if no change that it could be about was announced meanwhile. After
// the first of these all are listened to from their beginning.
func (c *Conn) steady(group int, about func(change []byte) bool, dump func() ([]reconcile.Object, error)) (objects []reconcile.Object, err error) {
	if !c.large {
		if objects, err = dump(); err != nil || c.parts < 2 {
			return objects, err
		}
		c.large = true
	}
	events, err := c.subscribe(group)
	if err != nil {
		return nil, err
	}
	defer func() { _ = events.close() }() // nothing to lose: it was for listening
	for range dumpAttempts {
		if objects, err = dump(); err != nil {
			return nil, err
		}
		if changed, err := events.announced(about); !changed || err != nil {
			return objects, err
		}
	}
	return nil, errInterrupted
}

// subscribe opens a socket for the kernel's announcements of a group.
func (c *Conn) subscribe(group int) (events *socket, err error) {
	err = c.do(func() (err error) {
		if events, err = openSocket(); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(events.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return errors.Join(fmt.Errorf("subscribe to changes: %w", err), events.close())
		}
		return nil
	})
	return events, err
}

// announced takes in what was announced so far, one change a message, and says
// whether any of it is what about looks for. What was lost may have been.
func (s *socket) announced(about func(change []byte) bool) (found bool, err error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buffer, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return found, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			found = true
		case err != nil:
			return true, fmt.Errorf("receive changes: %w", err)
		default:
			found = found || about(s.buffer[min(n, unix.SizeofNlMsghdr):n])
		}
	}
}

// ofNeighbor says whether a change is about a link's neighbours, or, of the
// bridges' family, its forwarding entries.
func ofNeighbor(on place, forwarding bool) func([]byte) bool {
	return func(m []byte) bool {
		return len(m) >= unix.SizeofNdMsg && (m[0] == unix.AF_BRIDGE) == forwarding &&
			binary.NativeEndian.Uint32(m[4:]) == uint32(on.index)
	}
}

// ofRoute says whether a change is about a route of ours.
func ofRoute(m []byte) bool { return len(m) >= unix.SizeofRtMsg && m[5] == Protocol }
