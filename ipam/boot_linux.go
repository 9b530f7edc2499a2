package ipam

import (
	"os"
	"strings"
)

// bootID is the kernel's random name of this boot.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
