package conformance_test

// The fake IPAM plugin: six addresses, a file for each that is given.

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const ipamDir = "/var/lib/fake"

// reservations maps attachments to addresses. The lock goes with the process.
func (f *fake) reservations() (map[string]string, error) {
	how := unix.LOCK_EX
	if f.wrong == "race" {
		how = unix.LOCK_SH
	}
	if err := os.MkdirAll(ipamDir, 0o755); err != nil {
		return nil, err
	}
	dir, err := unix.Open(ipamDir, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(dir, how); err != nil {
		return nil, err
	}
	all := map[string]string{}
	entries, err := os.ReadDir(ipamDir)
	for _, e := range entries {
		address, err := os.ReadFile(filepath.Join(ipamDir, e.Name()))
		if err != nil {
			return nil, err
		}
		all[e.Name()] = string(address)
	}
	return all, err
}

func free(all map[string]string) []string {
	var left []string
	for i := 2; i <= 7; i++ {
		address := fmt.Sprintf("10.1.0.%d", i)
		taken := false
		for _, other := range all {
			taken = taken || other == address
		}
		if !taken {
			left = append(left, address)
		}
	}
	return left
}

func (f *fake) addIPAM() error {
	all, err := f.reservations()
	if err != nil {
		return err
	}
	left := free(all)
	if f.wrong == "same-address" {
		left = []string{"10.1.0.2"}
	}
	if len(left) == 0 {
		return refuse(11, "no address is left")
	}
	address := left[len(left)-1]
	if rc, _ := f.conf["runtimeConfig"].(object); rc["ips"] != nil {
		wanted, _ := rc["ips"].([]any)
		if address, _ = wanted[0].(string); f.wrong == "no-ips" {
			address = left[0]
		}
	}
	if err := f.take(address); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(ipamDir, attachment()), []byte(address), 0o600); err != nil {
		return err
	}
	ip := object{"address": address + "/24", "gateway": "10.1.0.1"}
	if f.version < "1.0.0" {
		ip["version"] = "4"
	}
	r := object{"cniVersion": f.version, "ips": []any{ip}, "routes": []any{object{"dst": "10.96.0.0/12"}}}
	switch f.wrong {
	case "interfaces":
		r["interfaces"] = []any{object{"name": "eth0"}}
	case "interface-index":
		ip["interface"] = 0
	case "nothing-determined":
		delete(r, "ips")
	}
	return json.NewEncoder(f.out).Encode(r)
}

func (f *fake) delIPAM() error {
	if _, err := f.reservations(); err != nil {
		return err
	}
	if _, err := os.Stat(os.Getenv("CNI_NETNS")); err != nil && f.wrong == "del-keep" {
		return nil
	}
	if err := os.Remove(filepath.Join(ipamDir, attachment())); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (f *fake) checkIPAM() error {
	if f.wrong == "check-nothing" {
		return nil
	}
	all, err := f.reservations()
	if err != nil {
		return err
	}
	address, ok := all[attachment()]
	if !ok {
		return refuse(102, "no address is reserved")
	}
	prev, _ := f.conf["prevResult"].(object)
	for _, p := range prefixes(prev["ips"], "address") {
		if p.Addr().String() == address {
			return nil
		}
	}
	return refuse(102, "prevResult lacks %s", address)
}

func (f *fake) gcIPAM() error {
	all, err := f.reservations()
	if err != nil {
		return err
	}
	for name := range all {
		if !slices.Contains(f.listed(), name) && f.wrong != "gc-nothing" {
			if err := os.Remove(filepath.Join(ipamDir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fake) statusIPAM() error {
	all, err := f.reservations()
	if err == nil && len(free(all)) == 0 {
		return refuse(50, "no address is left")
	}
	return err
}

// prefixes are those of a key in a list of objects.
func prefixes(list any, key string) []netip.Prefix {
	var all []netip.Prefix
	objects, _ := list.([]any)
	for _, one := range objects {
		o, _ := one.(object)
		s, _ := o[key].(string)
		if p, err := netip.ParsePrefix(s); err == nil {
			all = append(all, p)
		}
	}
	return all
}
