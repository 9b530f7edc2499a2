package ipam

import (
	"strconv"

	"golang.org/x/sys/windows/registry"
)

// BootID is the system's count of its boots.
func BootID() (string, error) {
	const path = `SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters`
	key, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE)
	if err != nil {
		return "", err
	}
	defer func() { _ = key.Close() }()
	count, _, err := key.GetIntegerValue("BootId")
	return strconv.FormatUint(count, 10), err
}
