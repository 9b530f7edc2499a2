package firewall

import (
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// LegacyTables returns the legacy iptables' tables that are in use, separated
// by white space.
func LegacyTables(f lease.Family) string {
	name := "/proc/thread-self/net/ip_tables_names"
	if f == lease.IPv6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	tables, err := os.ReadFile(name)
	if err != nil {
		return "" // the module isn't loaded, so none is
	}
	return string(tables)
}
