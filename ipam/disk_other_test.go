//go:build !linux

package ipam

import "errors"

// onSmallDisk needs mount namespaces.
func onSmallDisk(string) error { return errors.ErrUnsupported }
