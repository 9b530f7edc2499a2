package cluster

import (
	"fmt"
	"syscall"
)

// SignalDaemon sends a signal to overlayd.
func SignalDaemon(n *Node, s syscall.Signal) error {
	if err := n.daemon.Process.Signal(s); err != nil {
		return fmt.Errorf("send %s to overlayd of %s: %w", s, n.Name(), err)
	}
	return nil
}
