package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Target observes and changes a part of a namespace's state: the links that
// wanted objects are about, with what is ours on them.
type Target struct {
	Conn *Conn
	// Peer is the namespace for the other ends of Veths.
	Peer *Conn
	// Links and Sysctls are what is looked at.
	Links   []string
	Sysctls []string
	// Blackholes are where blackhole routes of ours are looked for.
	Blackholes []netip.Prefix
	// Exclusive: a route that is to be added isn't taken from another link.
	Exclusive bool

	index map[string]int // of links, as last seen
	taken []Route        // that Apply couldn't add because they exist
}

// NewTarget returns a target that looks at what the wanted objects are about.
func NewTarget(conn *Conn, want []reconcile.Object) *Target {
	t := &Target{Conn: conn}
	link := func(name string) {
		if name != "" && !slices.Contains(t.Links, name) {
			t.Links = append(t.Links, name)
		}
	}
	for _, w := range want {
		switch o := w.(type) {
		case VXLAN:
			link(o.Name)
		case Veth:
			link(o.Name)
		case Interface:
			link(o.Name)
		case Up:
			link(o.Link)
		case Alias:
			link(o.Link)
		case Address:
			link(o.Link)
		case Neighbor:
			link(o.Link)
		case FDB:
			link(o.Link)
		case Route:
			link(o.Link)
			if o.Link == "" {
				t.Blackholes = append(t.Blackholes, o.Dst)
			}
		case Sysctl:
			if !slices.Contains(t.Sysctls, o.Name) {
				t.Sysctls = append(t.Sysctls, o.Name)
			}
		}
	}
	return t
}

// Observe implements reconcile.Target.
func (t *Target) Observe(ctx context.Context) ([]reconcile.Object, error) {
	t.index = make(map[string]int)
	var have []reconcile.Object
	for _, name := range t.Links {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		objects, err := t.observeLink(name)
		if err != nil {
			return nil, err
		}
		have = append(have, objects...)
	}
	if len(t.Blackholes) > 0 {
		objects, err := t.observeBlackholes()
		if err != nil {
			return nil, err
		}
		have = append(have, objects...)
	}
	sysctls, err := t.observeSysctls()
	return append(have, sysctls...), err
}

// observeLink returns a link and what is ours on it; nothing when it doesn't
// exist, for then there can be nothing on it either.
func (t *Target) observeLink(name string) ([]reconcile.Object, error) {
	objects, index, err := t.Conn.link(name)
	if errors.Is(err, errNoLink) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("observe link %s: %w", name, err)
	}
	t.index[name] = index
	on := place{name: name, index: index}
	parts := []func(place) ([]reconcile.Object, error){t.Conn.addresses, t.Conn.neighbors, t.Conn.routes}
	if _, ok := objects[0].(VXLAN); ok {
		parts = append(parts, t.Conn.fdb)
	}
	for _, observe := range parts {
		more, err := observe(on)
		if errors.Is(err, unix.ENODEV) {
			delete(t.index, name)
			return nil, nil // it went while we looked
		}
		if err != nil {
			return nil, fmt.Errorf("observe link %s: %w", name, err)
		}
		objects = append(objects, more...)
	}
	return objects, nil
}

func (t *Target) observeBlackholes() ([]reconcile.Object, error) {
	all, err := t.Conn.routes(place{})
	if err != nil {
		return nil, fmt.Errorf("observe blackhole routes: %w", err)
	}
	return slices.DeleteFunc(all, func(o reconcile.Object) bool {
		return !slices.ContainsFunc(t.Blackholes, func(p netip.Prefix) bool {
			dst := o.(Route).Dst
			return p.Bits() <= dst.Bits() && p.Contains(dst.Addr())
		})
	}), nil
}
