package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Apply implements reconcile.Target. Links are made one by one, because what
// is on them needs their index; the rest goes in batches. What would be on a
// link that can't be had, or isn't ours, is left out.
func (t *Target) Apply(ctx context.Context, changes []reconcile.Change) error {
	if t.index == nil {
		t.index = make(map[string]int)
	}
	b := &batch{conn: t.Conn}
	without := foreignLinks(changes)
	var errs []error
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		isLink, name := c.Subject().Rank() == rankLink, linkOf(c.Subject())
		if without[name] && !isLink {
			continue
		}
		if err := t.apply(b, c); err != nil {
			errs = append(errs, err)
			without[name] = without[name] || isLink
		}
	}
	errs = append(errs, b.flush(), t.settleTaken(b))
	return errors.Join(errs...)
}

// apply makes one change, or adds it to the batch.
func (t *Target) apply(b *batch, c reconcile.Change) error {
	if c.Want == nil {
		return t.remove(b, c.Have)
	}
	switch o := c.Want.(type) {
	case VXLAN:
		return t.applyVXLAN(b, o, c.Have)
	case Veth:
		return t.applyVeth(b, o, c.Have)
	case Interface:
		return t.applyInterface(b, o, c.Have)
	case Sysctl:
		return errors.Join(b.flush(), t.Conn.setSysctl(o))
	case Route:
		if t.Exclusive && c.Have == nil {
			return t.addExclusively(b, o)
		}
	}
	r, err := t.write(c.Want)
	if err != nil {
		return fmt.Errorf("add %s: %w", c.Want, err)
	}
	b.add(r, func(err error) error { return fmt.Errorf("add %s: %w", c.Want, err) })
	return nil
}

// write encodes the request that makes an object on a link what it should be.
func (t *Target) write(o reconcile.Object) (*nl.NetlinkRequest, error) {
	switch o := o.(type) {
	case Up:
		return t.setLink(o.Link, unix.IFF_UP)
	case Alias:
		return t.setLink(o.Link, 0, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(o.Text)))
	case Address:
		return t.encodeAddress(o, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	case Neighbor:
		return t.encodeNeighbor(o, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	case FDB:
		return t.encodeFDB(o, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	case Route:
		return t.encodeRoute(o, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	}
	return nil, fmt.Errorf("unknown kind %T", o)
}

// remove adds the removal of an object to the batch. What is gone already was
// removed by somebody else, or with its link.
func (t *Target) remove(b *batch, o reconcile.Object) error {
	var r *nl.NetlinkRequest
	var err error
	switch o := o.(type) {
	case VXLAN:
		r = t.deleteLink(o.Name)
	case Veth:
		r = t.deleteLink(o.Name)
	case Address:
		r, err = t.encodeAddress(o, unix.RTM_DELADDR, 0)
	case Neighbor:
		r, err = t.encodeNeighbor(o, unix.RTM_DELNEIGH, 0)
	case FDB:
		r, err = t.encodeFDB(o, unix.RTM_DELNEIGH, 0)
	case Route:
		r, err = t.encodeRoute(o, unix.RTM_DELROUTE, 0)
	case Interface:
		return fmt.Errorf("remove %s: %w", o, ErrLinkExists)
	default:
		return nil // sysctls, aliases and being up end with what has them
	}
	if errors.Is(err, errNoLink) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", o, err)
	}
	b.add(r, func(err error) error {
		if isGone(err) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", o, err)
	})
	return nil
}

// foreignLinks returns the names of links that are somebody else's, among those
// that are to be removed with what is on them.
func foreignLinks(changes []reconcile.Change) map[string]bool {
	foreign := make(map[string]bool)
	for _, c := range changes {
		if o, ok := c.Have.(Interface); ok && c.Want == nil {
			foreign[o.Name] = true
		}
	}
	return foreign
}

// linkOf returns the name of the link that an object is, or is on.
func linkOf(o reconcile.Object) string {
	switch o := o.(type) {
	case VXLAN:
		return o.Name
	case Veth:
		return o.Name
	case Interface:
		return o.Name
	case Up:
		return o.Link
	case Alias:
		return o.Link
	case Address:
		return o.Link
	case Neighbor:
		return o.Link
	case FDB:
		return o.Link
	case Route:
		return o.Link
	case Sysctl:
		return o.link()
	}
	return ""
}

func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// linkIndex returns the index of a link, asking the kernel if it's new.
func (t *Target) linkIndex(name string) (int, error) {
	if i, ok := t.index[name]; ok {
		return i, nil
	}
	l, err := t.Conn.linkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	t.index[name] = l.Attrs().Index
	return l.Attrs().Index, nil
}
