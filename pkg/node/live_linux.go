package node

import (
	"context"
	"errors"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// Live lists the addresses that a network's attachments on this node have. Whose
// an interface is, its alias says; which addresses are behind it, its routes.
func Live(ctx context.Context, network string) (live []ipam.Allocation, err error) {
	conn, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	veths, err := conn.Veths(intent.Group(network))
	if err != nil {
		return nil, err
	}
	for _, v := range veths {
		objects, err := (&kernel.Target{Conn: conn, Links: []string{v.Name}}).Observe(ctx)
		if err != nil {
			return nil, err
		}
		live = append(live, allocations(objects)...)
	}
	return live, nil
}

// allocations are the addresses of the attachment that an interface's objects
// are of; none where an ADD didn't come to its end, and the zero Addr where it
// did and no route says which address it has.
func allocations(objects []reconcile.Object) []ipam.Allocation {
	var owner ipam.Attachment
	for _, o := range objects {
		if alias, ok := o.(kernel.Alias); ok {
			if a, ok := intent.ParseAlias(alias.Text); ok {
				owner = ipam.Attachment{ContainerID: a.Container, Interface: a.Interface}
			}
		}
	}
	if owner.ContainerID == "" {
		return nil
	}
	var found []ipam.Allocation
	for _, o := range objects {
		if r, ok := o.(kernel.Route); ok && r.Dst.IsSingleIP() {
			found = append(found, ipam.Allocation{Attachment: owner, Address: r.Dst.Addr()})
		}
	}
	if len(found) == 0 {
		return []ipam.Allocation{{Attachment: owner}}
	}
	return found
}
