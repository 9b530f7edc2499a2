package ctl

import (
	"context"
	"errors"
	"fmt"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/kernel"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// interfaces lists what lives, if this is the node's network namespace: in another
// one nothing would, and every address seem free.
func interfaces(ctx context.Context, runDir, network string) ([]ipam.Allocation, error) {
	s, err := nodestate.Read(runDir, network)
	if err == nil {
		err = here(s.VTEP.Device)
	}
	if err != nil && !errors.Is(err, nodestate.ErrNotReady) {
		return nil, err
	}
	return node.Live(ctx, network)
}

// errElsewhere says that the node's interfaces aren't to be seen.
var errElsewhere = errors.New("this isn't the node's network namespace, or overlayd has yet to mend it")

func here(device string) (err error) {
	conn, err := kernel.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	found, err := conn.Link(device)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%w: it has no interface %s; try nsenter --net=/proc/1/ns/net", errElsewhere, device)
	}
	return err
}
