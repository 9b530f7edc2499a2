//go:build !linux && !windows

package ipam

import "errors"

// BootID isn't known on this system.
func BootID() (string, error) {
	return "", errors.New("this system doesn't name its boots; set Options.BootID")
}
