package ipam

import (
	"os"
	"strings"
)

// BootID is the kernel's random name of this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
