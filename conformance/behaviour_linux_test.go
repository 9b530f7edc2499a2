package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestStrike: a blow ends all that runs, or the plugin alone; then what it has
// started is waited for.
func TestStrike(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "one", fmt.Sprintf("touch %[1]s/begun; (sleep 1.5; touch %[1]s/child); touch %[1]s/ended", dir))
	b := benchWith(t, dir, `{"type": "one"}`)
	for _, c := range []struct {
		at   blow
		want []string
	}{
		{blow{after: -time.Second}, nil},
		{blow{after: 700 * time.Millisecond}, []string{"begun"}},
		{blow{after: 700 * time.Millisecond, alone: true}, []string{"begun", "child"}},
		{blow{after: time.Minute}, []string{"begun", "child", "ended"}},
	} {
		x, err := b.strike(t.Context(), call{command: "STATUS"}, &c.at)
		if err != nil {
			t.Fatal(err)
		}
		var made []string
		for _, name := range []string{"begun", "child", "ended"} {
			if os.Remove(filepath.Join(dir, name)) == nil {
				made = append(made, name)
			}
		}
		if c.at.after < 0 {
			made = nil // it may have come that far
		}
		if killed := x.Status == -1; !slices.Equal(made, c.want) || killed != (c.at.after < time.Minute) {
			t.Errorf("%+v: it made %v and its status is %d, want %v", c.at, made, x.Status, c.want)
		}
		if left, err := b.machine.processes(); err != nil || len(left) > 0 {
			t.Errorf("%+v: %v runs, error %v", c.at, left, err)
		}
	}
}

// remover is a plugin that attaches nothing and writes a journal.
const remover = `cat > /dev/null
[ $CNI_COMMAND = ADD ] && echo $CNI_CONTAINERID >> /var/lib/journal && echo '{"ips": []}'
true`

// TestLeft: what is new in the kernel of the node or of the container, or names
// the container, is left; what was there before, or what names all, isn't.
func TestLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "one", remover)
	b := benchWith(t, dir, `{"type": "one"}`)
	file := func(name, text string) func(*attachment) error {
		return func(a *attachment) error {
			id := a.container.ContainerID()
			return b.machine.inside(func() error {
				return os.WriteFile(strings.ReplaceAll(name, "ID", id), []byte(strings.ReplaceAll(text, "ID", id[:20])), 0o600)
			})
		}
	}
	route := func() error {
		dst := &net.IPNet{IP: net.IPv4(192, 0, 2, 0), Mask: net.CIDRMask(24, 32)}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE})
	}
	for _, c := range []struct {
		name  string
		leave func(*attachment) error
		want  string // part of the only thing that is left
	}{
		{"nothing", func(*attachment) error { return nil }, ""},
		{"route on the node", func(*attachment) error { return b.machine.node.Do(route) }, "the node has route table 254 blackhole 192.0.2.0/24"},
		{"route in the container", func(a *attachment) error { return a.container.Do(route) }, "the container has route table 254 blackhole 192.0.2.0/24"},
		{"container is gone", func(a *attachment) error { return errors.Join(a.container.Do(route), a.container.Close()) }, ""},
		{"named file", file("/run/ID.json", ""), "/run/"},
		{"file that names", file("/var/lib/state", "of ID"), "/var/lib/state names the container"},
		{"journal", file("/var/lib/journal", "of ID"), ""},
		{"link that names", func(a *attachment) error {
			return b.machine.inside(func() error { return os.Symlink("/"+a.container.ContainerID(), "/run/link") })
		}, "/run/link"},
	} {
		g, err := b.newGround(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a, err := b.attach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.leave(a); err != nil {
			t.Fatal(err)
		}
		left, err := b.left(t.Context(), g, a)
		if err != nil {
			t.Fatal(err)
		}
		if c.want == "" && len(left) > 0 || c.want != "" && (len(left) != 1 || !strings.Contains(left[0], c.want)) {
			t.Errorf("%s: left is %q, want %q", c.name, left, c.want)
		}
		again, err := b.newGround(t.Context()) // which has it now
		if err != nil {
			t.Fatal(err)
		}
		if left, err := b.left(t.Context(), again); err != nil || len(left) > 0 {
			t.Errorf("%s: on the new ground is left %q, error %v", c.name, left, err)
		}
	}
}

// TestKeptIsNotSearched: the machine's own folders are none of the plugins'.
func TestKeptIsNotSearched(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"kept", "own"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, "abc"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := filesNaming(root, []string{filepath.Join(root, "kept")}, [][]byte{[]byte("abc")})
	if want := []string{filepath.Join(root, "own", "abc")}; err != nil || !slices.Equal(found, want) {
		t.Errorf("found %v, error %v, want %v", found, err, want)
	}
}

// TestSteady: a bridge has the address of the port that it happens to have.
func TestSteady(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"link cni0 bridge up mtu 1500 mac 02:00:00:00:00:01":                    "link cni0 bridge up mtu 1500",
		"link cni0 bridge up mtu 1500 mac ":                                     "link cni0 bridge up mtu 1500",
		"link veth0 veth up mtu 1500 mac 02:00:00:00:00:01 master bridge":       "link veth0 veth up mtu 1500 mac 02:00:00:00:00:01 master bridge",
		"fdb cni0 02:00:00:00:00:01 master cni0":                                "fdb of bridge cni0",
		"fdb veth0 02:00:00:00:00:01 master cni0":                               "fdb veth0 02:00:00:00:00:01 master cni0",
		"link bridge veth up mtu 1500 mac 02:00:00:00:00:01":                    "link bridge veth up mtu 1500 mac 02:00:00:00:00:01",
		"neigh bridge 10.1.0.2 mac 02:00:00:00:00:01":                           "neigh bridge 10.1.0.2 mac 02:00:00:00:00:01",
		"link cni0 bridge up mtu 1500 mac 02:00:00:00:00:01 alias \"a bridge\"": "link cni0 bridge up mtu 1500 alias \"a bridge\"",
	} {
		if got := steady(line); got != want {
			t.Errorf("%q is %q, want %q", line, got, want)
		}
	}
}

// TestLegacyRules: rules of the old iptables are read, and asking for them
// brings no table into use.
func TestLegacyRules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "one", `[ $CNI_COMMAND != ADD ] || iptables-legacy -w -A INPUT -s 192.0.2.7 -j ACCEPT`)
	b := benchWith(t, dir, `{"type": "one"}`)
	for range 2 {
		if rules, err := b.legacyRules(t.Context()); err != nil || len(rules) > 0 {
			t.Fatalf("rules of a new machine: %q, error %v", rules, err)
		}
	}
	if x := b.do(t.Context(), call{command: "ADD"}); x.Status != 0 {
		t.Fatal(x)
	}
	rules, err := b.legacyRules(t.Context())
	if err != nil || !slices.Contains(rules, "iptables-legacy-save -A INPUT -s 192.0.2.7/32 -j ACCEPT") {
		t.Errorf("rules: %q, error %v", rules, err)
	}
}

func TestSavedRules(t *testing.T) {
	t.Parallel()
	got := savedRules("save", "# Generated\n*filter\n:INPUT ACCEPT [12:3456]\n-A INPUT -j ACCEPT\nCOMMIT\n# Completed\n")
	if want := []string{"save *filter", "save :INPUT ACCEPT", "save -A INPUT -j ACCEPT"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// sized is an IPAM plugin with some addresses, that frees them at DEL or never.
func sized(addresses int, frees bool) string {
	del := "true"
	if frees {
		del = `rm -f /var/lib/a-$CNI_CONTAINERID`
	}
	return fmt.Sprintf(`cat > /dev/null
[ $CNI_COMMAND = DEL ] && %s
[ $CNI_COMMAND = ADD ] || exit 0
[ $(ls /var/lib | grep -c a-) -lt %d ] || { echo '{"code": 11, "msg": "full"}'; exit 1; }
touch /var/lib/a-$CNI_CONTAINERID
echo '{"ips": []}'`, del, addresses)
}

// TestRoom: a small range is counted, unless it doesn't free its addresses at
// once.
func TestRoom(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		addresses int
		frees     bool
		room      int
		nothing   bool
	}{
		{0, true, 0, true},
		{1, true, 1, false},
		{largest, true, largest, false},
		{largest + 1, true, 0, false},
		{3, false, 0, false},
	} {
		t.Run(fmt.Sprint(c.addresses, c.frees), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script(t, dir, "one", sized(c.addresses, c.frees))
			b := benchWith(t, dir, `{"type": "one", "ipam": {"type": "one"}}`)
			room, err := b.room(t.Context())
			if room != c.room || isNothing(err) != c.nothing || err != nil && !c.nothing {
				t.Fatalf("room for %d, error %v, want %d", room, err, c.room)
			}
			if err := b.hasRoom(t.Context(), room, "then"); err != nil {
				t.Error(err)
			}
			if room == 0 {
				return
			}
			if err := b.hasRoom(t.Context(), room+1, "then"); err == nil && room < largest {
				t.Error("less room than there was is none to complain of")
			}
		})
	}
}

// TestReboot: the kernel and /run are new, /var/lib is as it was.
func TestReboot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script(t, dir, "one", `touch /run/made /var/lib/made; ip link add made0 type bridge`)
	script(t, dir, "two", `ls /run /var/lib; ip -o link`)
	b := benchWith(t, dir, `{"type": "one"}, {"type": "two"}`)
	b.do(t.Context(), call{command: "STATUS"})
	if err := b.reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	x := b.do(t.Context(), call{plugin: 1, command: "STATUS"})
	if strings.Count(x.Stdout, "made\n") != 1 || strings.Contains(x.Stdout, "made0") || !strings.Contains(x.Stdout, "eth0") {
		t.Errorf("after a reboot there is %s", x)
	}
}

// TestAttachedRight: an ADD of many that succeeded is held to what it says, and
// one that failed to an error.
func TestAttachedRight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := benchWith(t, labPlugin(t, dir), `{"type": "one"}`)
	for _, c := range []struct {
		name    string
		stdouts []string
		want    string
	}{
		{"different addresses", []string{`{"ips": [{"address": "10.0.0.2/24"}]}`, `{"ips": [{"address": "10.0.0.3/24"}]}`}, ""},
		{"same address", []string{`{"ips": [{"address": "10.0.0.2/24"}]}`, `{"ips": [{"address": "10.0.0.2/32"}]}`}, "10.0.0.2 to two containers"},
		{"an error", []string{`{"ips": []}`, `{"code": 11, "msg": "later"}`}, ""},
		{"no error", []string{`{"ips": []}`, `later`}, "no JSON object"},
		{"no interface", []string{`{"interfaces": [{"name": "eth0", "sandbox": "/x"}]}`}, "has no eth0"},
		{"its interface", []string{`{"interfaces": [{"name": "good0", "sandbox": "/x"}], "ips": [{"address": "10.0.0.2/24"}]}`}, ""},
		{"another address", []string{`{"interfaces": [{"name": "good0", "sandbox": "/x"}], "ips": [{"address": "10.0.0.3/24"}]}`}, "hasn't 10.0.0.3/24"},
		{"all failed", []string{`{"code": 11, "msg": "later"}`}, "no ADD succeeded"},
	} {
		var all []*guest
		for _, stdout := range c.stdouts {
			a, err := b.prepare()
			if err != nil {
				t.Fatal(err)
			}
			x := &Exchange{Stdout: stdout, Status: 1}
			if strings.Contains(stdout, "good0") {
				a.ifname = "good0"
				if err := a.container.Do(good0); err != nil {
					t.Fatal(err)
				}
			}
			if strings.Contains(stdout, "i") && !strings.Contains(stdout, "code") {
				x.Status, a.results = 0, append(a.results, []byte(stdout))
			}
			all = append(all, &guest{at: a, x: x})
		}
		err := attachedRight(all)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// labPlugin makes a plugin that does nothing.
func labPlugin(t *testing.T, dir string) string {
	t.Helper()
	script(t, dir, "one", "true")
	return dir
}

// good0 makes an interface with an address.
func good0() error {
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "good0"}}
	if err := netlink.LinkAdd(l); err != nil {
		return err
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 0, 2), Mask: net.CIDRMask(24, 32)}}
	return errors.Join(netlink.AddrAdd(l, address), netlink.LinkSetUp(l))
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for want, all := range map[time.Duration][]time.Duration{1: {1}, 2: {3, 1, 2}, 4: {4, 1, 9, 2}} {
		if got := median(all); got != want {
			t.Errorf("median of %v is %d, want %d", all, got, want)
		}
	}
}
