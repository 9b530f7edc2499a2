package kernel

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// observeSysctls reads the settings. One that the kernel doesn't have is left
// out.
func (t *Target) observeSysctls() (objects []reconcile.Object, err error) {
	if len(t.Sysctls) == 0 {
		return nil, nil
	}
	err = t.Conn.do(func() error {
		for _, name := range t.Sysctls {
			value, err := os.ReadFile("/proc/sys/" + name)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read sysctl: %w", err)
			}
			objects = append(objects, Sysctl{Name: name, Value: strings.TrimSpace(string(value))})
		}
		return nil
	})
	return objects, err
}

func (c *Conn) setSysctl(s Sysctl) error {
	return c.do(func() error {
		// No O_CREATE: on procfs that would hide a missing setting behind
		// a permission error.
		f, err := os.OpenFile("/proc/sys/"+s.Name, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("set %s: %w", s, err)
		}
		_, err = f.WriteString(s.Value)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("set %s: %w", s, err)
		}
		return nil
	})
}
