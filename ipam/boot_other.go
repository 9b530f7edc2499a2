//go:build !linux && !windows

package ipam

import "errors"

// bootID isn't known on this system.
func bootID() (string, error) {
	return "", errors.New("this system doesn't name its boots; set Options.BootID")
}
