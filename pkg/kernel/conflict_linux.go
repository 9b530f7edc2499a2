package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// Explain adds to a failed creation of a VXLAN device who has its VNI or port.
// The netlink requests go to the process's own namespace.
func Explain(err error, v VXLAN) error {
	switch {
	case errors.Is(err, ErrVNIInUse):
		return fmt.Errorf("VNI %d: %w%s", v.VNI, err, usedBy(deviceWith(v, true)))
	case errors.Is(err, ErrPortInUse):
		who := deviceWith(v, false)
		if who == "" {
			who = socketOwner(v.Port)
		}
		return fmt.Errorf("UDP port %d: %w%s", v.Port, err, usedBy(who))
	}
	return err
}

func usedBy(who string) string {
	if who == "" {
		return ""
	}
	return ": it is used by " + who
}

// deviceWith finds another VXLAN device with the port, and the VNI.
func deviceWith(v VXLAN, sameVNI bool) string {
	links, err := netlink.LinkList()
	if err != nil {
		return ""
	}
	for _, l := range links {
		x, ok := l.(*netlink.Vxlan)
		if ok && x.Name != v.Name && x.Port == int(v.Port) && (!sameVNI || x.VxlanId == int(v.VNI)) {
			return "device " + x.Name
		}
	}
	return ""
}

// socketOwner finds the process that has a UDP port, by the inode that
// /proc/net/udp gives and the process's open files.
func socketOwner(port uint16) string {
	for _, table := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > 9 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return processWith("socket:[" + f[9] + "]")
			}
		}
	}
	return ""
}

func processWith(file string) string {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == file {
			pid := strings.Split(fd, "/")[2]
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if err != nil {
				return "process " + pid
			}
			return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}
