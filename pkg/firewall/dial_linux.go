package firewall

import (
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// patience bounds how long the kernel may take for what is asked on one
// connection: while a process waits, others wait for it.
const patience = 5 * time.Second

// dial opens a connection to nftables in the process's network namespace.
func dial(options ...nftables.ConnOption) (*nftables.Conn, error) {
	bounded := nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetDeadline(time.Now().Add(patience)) })
	return nftables.New(append(options, bounded)...)
}
