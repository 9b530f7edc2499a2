package kernel

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrRouteExists says that what is to be routed to a link is routed to another.
var ErrRouteExists = errors.New("is already routed")

// addExclusively adds a route that nobody has: of two who want it at once, the
// kernel lets one have it. What exists is looked at when the batch is done.
func (t *Target) addExclusively(b *batch, o Route) error {
	r, err := t.encodeRoute(o, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if err != nil {
		return fmt.Errorf("add %s: %w", o, err)
	}
	b.add(r, func(err error) error {
		if errors.Is(err, unix.EEXIST) {
			t.taken = append(t.taken, o)
			return nil
		}
		return fmt.Errorf("add %s: %w", o, err)
	})
	return nil
}

// settleTaken makes the routes that exist what they should be where they are on
// the link already, and says of the others where they are.
func (t *Target) settleTaken(b *batch) error {
	taken := t.taken
	t.taken = nil
	var errs []error
	for _, o := range taken {
		r, err := t.encodeRoute(o, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
		if err == nil {
			err = t.Conn.routedTo(o)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("add %s: %w", o, err))
			continue
		}
		b.add(r, func(err error) error { return fmt.Errorf("add %s: %w", o, err) })
	}
	return errors.Join(append(errs, b.flush())...)
}

// routedTo returns an error unless the route of the same destination and metric,
// whosever it is, is on the route's link.
func (c *Conn) routedTo(o Route) error {
	req := c.request(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family(o.Dst.Addr()), Table: unix.RT_TABLE_MAIN}})
	index := 0 // of several links, or none
	err := c.dump(req, unix.RTM_NEWROUTE, func() { index = 0 }, func(m []byte) error {
		r, at, err := readRoute(m)
		if err == nil && r.Key() == o.Key() && m[4] == unix.RT_TABLE_MAIN {
			index = at
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("find who has it: %w", err)
	}
	what, where := o.Dst.String(), "no single interface"
	if o.Dst.IsSingleIP() {
		what = "address " + o.Dst.Addr().String()
	}
	if index != 0 {
		name, err := c.linkName(index)
		if err != nil || name == o.Link {
			return err
		}
		where = "interface " + name
	}
	return fmt.Errorf("%s %w to %s", what, ErrRouteExists, where)
}

// linkName returns the name of the link with an index.
func (c *Conn) linkName(index int) (name string, err error) {
	req := c.request(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	err = c.query(req, unix.RTM_NEWLINK, func(m []byte) error {
		return attributes(m, unix.SizeofIfInfomsg, func(kind uint16, value []byte) {
			if kind == unix.IFLA_IFNAME {
				name = unix.ByteSliceToString(value)
			}
		})
	})
	if err != nil {
		return "", fmt.Errorf("find link %d: %w", index, err)
	}
	return name, nil
}
