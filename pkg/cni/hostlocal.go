package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// hostLocal reads what upstream's host-local has given: in a network's
// directory a file for each address, named after it, with the container's ID
// and the interface in two lines. So a ledger that doesn't exist yet begins
// with the addresses of the pods that host-local served before. Files of
// other names (lock, last_reserved_ip.0) and empty ones, which a killed
// host-local leaves, are nobody's.
func hostLocal(dir string) ([]ipam.Allocation, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over from host-local: %w", err)
	}
	var given []ipam.Allocation
	for _, f := range files {
		// On Windows host-local writes '_' for the ':' of IPv6 addresses.
		address, err := netip.ParseAddr(strings.ReplaceAll(f.Name(), "_", ":"))
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("take over from host-local: %w", err)
		}
		container, iface, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		container, iface = strings.TrimSpace(container), strings.TrimSpace(iface)
		if container == "" {
			continue
		}
		if iface == "" {
			iface = "eth0" // host-local before 0.7 wrote no interface
		}
		given = append(given, ipam.Allocation{
			Attachment: ipam.Attachment{ContainerID: container, Interface: iface}, Address: address,
		})
	}
	return given, nil
}
