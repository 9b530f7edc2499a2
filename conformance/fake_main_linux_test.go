package conformance_test

// The fake interface plugin: a veth pair, with what the delegated plugin says.

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// delegate executes the IPAM plugin and returns what it printed. Its refusal
// is passed on as it is.
func (f *fake) delegate(command string, conf []byte) ([]byte, error) {
	section, _ := f.conf["ipam"].(object)
	name, _ := section["type"].(string)
	folders := filepath.SplitList(os.Getenv("CNI_PATH"))
	if f.wrong == "delegate-path" {
		slices.Reverse(folders)
	}
	if f.wrong == "delegate-section" || f.wrong == "delegate-del" && command == "DEL" {
		conf, _ = json.Marshal(object{"cniVersion": f.version, "name": f.conf["name"], "ipam": section, "prevResult": f.conf["prevResult"]})
	}
	for _, dir := range folders {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err != nil {
			continue
		}
		var stdout bytes.Buffer
		cmd := exec.Command(file)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &stdout, os.Stderr
		if f.wrong == "delegate-stderr" {
			cmd.Stderr = io.Discard
		}
		cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool {
			return strings.HasPrefix(e, "CNI_COMMAND=") || f.wrong == "delegate-env" && strings.HasPrefix(e, "CONFORMANCE=")
		})
		cmd.Env = append(cmd.Env, "CNI_COMMAND="+command)
		if err := cmd.Run(); err != nil {
			return nil, &refusal{code: 50, text: "the IPAM plugin failed", raw: f.passedOn(stdout.String())}
		}
		return stdout.Bytes(), nil
	}
	return nil, refuse(100, "no IPAM plugin %s", name)
}

// passedOn is what becomes of the delegated plugin's error.
func (f *fake) passedOn(printed string) string {
	switch f.wrong {
	case "status-plain", "code-50":
		return ""
	}
	return printed
}

// inNetns runs something in the container.
func inNetns(fn func() error) error {
	runtime.LockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	there, err := unix.Open(os.Getenv("CNI_NETNS"), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	defer func() { _ = unix.Setns(own, unix.CLONE_NEWNET) }()
	return fn()
}

// hostEnd and hostMAC follow from the attachment.
func hostEnd() string { return fmt.Sprintf("f%x", sha256.Sum256([]byte(attachment())))[:12] }
func podMAC() net.HardwareAddr {
	sum := sha256.Sum256([]byte(attachment()))
	return net.HardwareAddr{2, 0, sum[0], sum[1], sum[2], sum[3]}
}

// runFile says that an attachment was added, and STATUS called.
func runFile(name string) string { return filepath.Join("/run", "fake-"+name) }

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func (f *fake) addMain() error {
	ifname := os.Getenv("CNI_IFNAME")
	switch {
	case f.wrong == "ifname" && (len(ifname) > 15 || strings.Contains(ifname, "/")):
		return json.NewEncoder(f.out).Encode(object{"cniVersion": f.version})
	case len(ifname) > 15 || strings.Contains(ifname, "/"):
		return refuse(4, "CNI_IFNAME is %q", ifname)
	case f.wrong == "needs-status" && !exists(runFile("status")):
		return refuse(11, "not ready")
	}
	if err := f.vacant(ifname); err != nil {
		return err
	}
	if err := f.beginAdd(); err != nil {
		return err
	}
	raw, err := f.delegate("ADD", f.raw)
	if err != nil {
		if f.wrong != "no-cleanup" {
			_, _ = f.delegate("DEL", f.raw)
		}
		return err
	}
	var given object
	if err := json.Unmarshal(raw, &given); err != nil {
		return err
	}
	mac := podMAC()
	if rc, _ := f.conf["runtimeConfig"].(object); rc["mac"] != nil && f.wrong != "no-mac" {
		mac, _ = net.ParseMAC(fmt.Sprint(rc["mac"]))
	}
	if f.wrong != "no-interface" {
		if err := f.plug(ifname, mac, given); err != nil {
			return err
		}
	}
	if err := f.endAdd(); err != nil {
		return err
	}
	if err := os.WriteFile(runFile(attachment()), nil, 0o600); err != nil {
		return err
	}
	return f.printResult(ifname, mac, given)
}

// vacant refuses an interface that is there.
func (f *fake) vacant(ifname string) error {
	return inNetns(func() error {
		if _, err := netlink.LinkByName("eth0"); err == nil && ifname != "eth0" && f.wrong == "one" {
			return refuse(100, "the container has an interface")
		}
		l, err := netlink.LinkByName(ifname)
		if err == nil && f.wrong == "replace" {
			return netlink.LinkDel(l)
		}
		if err == nil {
			return refuse(100, "%s exists", ifname)
		}
		return nil
	})
}

// plug makes the interface with what the IPAM plugin has given.
func (f *fake) plug(ifname string, mac net.HardwareAddr, given object) error {
	return inNode(func(node int) error {
		return inNetns(func() error {
			veth := &netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: ifname, HardwareAddr: mac, MTU: 1500},
				PeerName:  hostEnd(), PeerNamespace: netlink.NsFd(node),
			}
			if err := netlink.LinkAdd(veth); err != nil {
				return err
			}
			l, err := netlink.LinkByName(ifname)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			for _, p := range prefixes(given["ips"], "address") {
				if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
					return err
				}
			}
			for _, p := range prefixes(given["routes"], "dst") {
				route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Scope: netlink.SCOPE_LINK, Priority: l.Attrs().Index}
				if err := netlink.RouteAdd(route); err != nil {
					return err
				}
			}
			if f.wrong == "unlisted" {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "extra0"}, PeerName: "extra1"})
			}
			return nil
		})
	}, f.leak(given))
}

// leak returns what a plugin that forgets about it leaves on the node.
func (f *fake) leak(given object) *netlink.Route {
	all := prefixes(given["ips"], "address")
	if f.wrong != "leak" || len(all) == 0 {
		return nil
	}
	return &netlink.Route{Dst: ipNet(netip.PrefixFrom(all[0].Addr(), 32)), Type: unix.RTN_BLACKHOLE}
}

// inNode runs something that needs the node's namespace.
func inNode(fn func(node int) error, leak *netlink.Route) error {
	node, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err := fn(node); err != nil || leak == nil {
		return err
	}
	return netlink.RouteAdd(leak)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// printResult prints prevResult, if any, with what was made.
func (f *fake) printResult(ifname string, mac net.HardwareAddr, given object) error {
	r, _ := f.conf["prevResult"].(object)
	if r == nil || f.wrong == "prev-swallow" {
		r = object{}
	}
	interfaces, _ := r["interfaces"].([]any)
	pod := object{"name": ifname, "mac": mac.String(), "sandbox": os.Getenv("CNI_NETNS")}
	if f.version >= "1.1.0" {
		pod["mtu"] = 1500
	}
	host := len(interfaces)
	r["interfaces"] = append(interfaces, object{"name": hostEnd()}, pod)
	ips, _ := given["ips"].([]any)
	for _, one := range ips {
		one.(object)["interface"] = host + 1
	}
	before, _ := r["ips"].([]any)
	r["ips"] = append(before, ips...)
	routes, _ := given["routes"].([]any)
	earlier, _ := r["routes"].([]any)
	r["routes"] = append(earlier, routes...)
	r["cniVersion"], r["dns"] = f.version, f.conf["dns"]
	f.spoil(r, pod)
	if f.wrong == "chatty" {
		fmt.Fprintln(f.out, "added")
	}
	return json.NewEncoder(f.out).Encode(r)
}

// spoil makes a result wrong.
func (f *fake) spoil(r, pod object) {
	first := func(part string) object { return r[part].([]any)[0].(object) }
	switch f.wrong {
	case "dns":
		r["dns"] = object{"nameservers": []string{"192.0.2.1"}}
	case "bad-dns":
		r["dns"] = object{"nameservers": "192.0.2.1"}
	case "bad-interfaces":
		pod["mac"] = 5
	case "bad-ips":
		first("ips")["address"] = "10.1.0.2"
	case "bad-index":
		first("ips")["interface"] = 9
	case "bad-routes":
		first("routes")["dst"] = "default"
	case "fixed-version":
		r["cniVersion"] = "1.0.0"
	case "sandbox":
		pod["sandbox"] = "/somewhere"
	case "mac-differs":
		pod["mac"] = "02:00:00:00:00:01"
	case "mtu-differs":
		pod["mtu"] = 1400
	case "no-host":
		r["interfaces"] = []any{pod}
		first("ips")["interface"] = 0
	case "address-differs":
		first("ips")["address"] = "10.1.0.99/24"
	case "route-differs":
		first("routes")["dst"] = "192.0.2.0/24"
	case "no-ip-version":
		delete(first("ips"), "version")
	}
}

func (f *fake) delMain() error {
	_, netnsErr := os.Stat(os.Getenv("CNI_NETNS"))
	switch {
	case f.wrong == "del-nothing":
		return nil
	case f.wrong == "del-prev" && f.conf["prevResult"] == nil:
		return refuse(7, "prevResult is missing")
	case f.wrong == "del-netns" && netnsErr != nil:
		return netnsErr
	case f.wrong == "del-strict" && !exists(runFile(attachment())):
		return refuse(3, "the container isn't known")
	case f.wrong == "del-after-status" && exists(runFile("status-failed")):
		return refuse(50, "not available")
	}
	if nothing, err := f.beginDel(); nothing || err != nil {
		return err
	}
	if f.wrong != "del-no-delegate" && (f.wrong != "del-no-delegate-gone" || netnsErr == nil) {
		if _, err := f.delegate("DEL", f.raw); err != nil && f.wrong != "del-swallow" {
			return err
		}
	}
	l, err := netlink.LinkByName(hostEnd())
	if err != nil {
		if f.wrong == "del-link" {
			return err
		}
	} else if err := netlink.LinkDel(l); err != nil {
		return err
	}
	_ = os.Remove(runFile(attachment()))
	return nil
}

func (f *fake) checkMain() error {
	prev, _ := f.conf["prevResult"].(object)
	switch f.wrong {
	case "check-nothing":
		return nil
	case "check-fails":
		return refuse(102, "something differs")
	case "check-routes":
		if len(prefixes(prev["routes"], "dst")) > 1 {
			return refuse(102, "there are more routes than were made")
		}
	}
	if _, err := f.delegate("CHECK", f.raw); err != nil && f.wrong != "check-swallow" {
		return err
	}
	return inNetns(func() error { return f.compare(prev) })
}

// compare compares the container with prevResult.
func (f *fake) compare(prev object) error {
	l, err := netlink.LinkByName(os.Getenv("CNI_IFNAME"))
	if err != nil {
		return refuse(102, "the interface is gone")
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return refuse(102, "the interface is down")
	}
	want := podMAC().String()
	interfaces, _ := prev["interfaces"].([]any)
	for _, one := range interfaces {
		o := one.(object)
		if o["name"] != os.Getenv("CNI_IFNAME") {
			continue
		}
		if f.wrong != "check-mac" {
			want = fmt.Sprint(o["mac"])
		}
		if mtu, ok := o["mtu"].(float64); ok && int(mtu) != l.Attrs().MTU {
			return refuse(102, "the MTU is %d", l.Attrs().MTU)
		}
	}
	if l.Attrs().HardwareAddr.String() != want {
		return refuse(102, "the hardware address is %s", l.Attrs().HardwareAddr)
	}
	addresses, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, p := range prefixes(prev["ips"], "address") {
		if !slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IPNet.String() == p.String() }) {
			return refuse(102, "%s is missing", p)
		}
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, p := range prefixes(prev["routes"], "dst") {
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst.String() == p.String() }) {
			return refuse(102, "the route to %s is missing", p)
		}
	}
	return nil
}

func (f *fake) gcMain() error {
	conf := f.raw
	switch {
	case f.wrong == "gc-nothing":
		return nil
	case f.wrong == "gc-empty" && len(f.listed()) == 0, f.wrong == "gc-valid" && len(f.listed()) > 0:
		return refuse(7, "that is no list")
	case f.wrong == "gc-all":
		f.conf["cni.dev/valid-attachments"] = []any{}
		conf, _ = json.Marshal(f.conf)
	case f.wrong == "gc-chatty":
		fmt.Fprintln(f.out, "collected")
	}
	f.forgetStale()
	if _, err := f.delegate("GC", conf); err != nil && f.wrong != "gc-swallow" {
		return err
	}
	return nil
}

func (f *fake) statusMain() error {
	switch f.wrong {
	case "status-nothing":
		return nil
	case "status-fails":
		return refuse(50, "not available")
	}
	if err := os.WriteFile(runFile("status"), nil, 0o600); err != nil {
		return err
	}
	_, err := f.delegate("STATUS", f.raw)
	if err != nil {
		_ = os.WriteFile(runFile("status-failed"), nil, 0o600)
	}
	return err
}
