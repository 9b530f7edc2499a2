package intent_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// TestHostInterface: names that the kernel takes, and no two alike.
func TestHostInterface(t *testing.T) {
	t.Parallel()
	const containers = 50_000
	valid := regexp.MustCompile(`^ovp[a-z2-7]{12}$`) // 15 bytes, IFNAMSIZ less one
	names := make(map[string]intent.Attachment, 2*containers)
	macs := make(map[ether.Addr]intent.Attachment, 4*containers)
	for i := range containers {
		for _, name := range []string{"eth0", "net1"} {
			a := intent.Attachment{Network: "pods", Container: fmt.Sprintf("%064x", i), Interface: name}
			host := a.HostInterface()
			if other, ok := names[host]; ok || !valid.MatchString(host) || host != a.HostInterface() {
				t.Fatalf("%v has interface %q, and so has %v", a, host, other)
			}
			names[host] = a
			for _, mac := range []ether.Addr{a.PodMAC(), a.HostMAC()} {
				if other, ok := macs[mac]; ok || !mac.IsValid() || mac[0] != 0x0e {
					t.Fatalf("%v has MAC %s, and so has %v", a, mac, other)
				}
				macs[mac] = a
			}
		}
	}
}

// TestNamesStay: running pods are found by these names after an upgrade.
func TestNamesStay(t *testing.T) {
	t.Parallel()
	a := intent.Attachment{Network: "pods", Container: "c0ffee", Interface: "eth0"}
	got := fmt.Sprintf("%s %s %s %d %s", a.HostInterface(), a.HostMAC(), a.PodMAC(), intent.Group("pods"), a.Alias())
	if want := "ovpd3ykiabi3xhv 0e:76:2f:af:cc:c8 0e:43:50:d6:71:6a 1151084670 overlay-cni/pods/c0ffee/eth0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestPartsAreKeptApart: where one part of an attachment's name ends and the
// next begins makes a difference.
func TestPartsAreKeptApart(t *testing.T) {
	t.Parallel()
	a := intent.Attachment{Network: "pods", Container: "a", Interface: "eth0"}
	for _, b := range []intent.Attachment{
		{Network: "podsa", Container: "", Interface: "eth0"},
		{Network: "pods", Container: "ae", Interface: "th0"},
		{Network: "pod", Container: "sa", Interface: "eth0"},
	} {
		if a.HostInterface() == b.HostInterface() || a.Alias() == b.Alias() {
			t.Errorf("%v and %v are taken for one", a, b)
		}
	}
}

func TestGroup(t *testing.T) {
	t.Parallel()
	seen := map[uint32]string{}
	for i := range 1000 {
		name := fmt.Sprintf("network-%d", i)
		group := intent.Group(name)
		if other, ok := seen[group]; ok || group == 0 || group >= 1<<31 || group != intent.Group(name) {
			t.Errorf("network %s has group %d, and so has %s", name, group, other)
		}
		seen[group] = name
	}
}

func TestGateway(t *testing.T) {
	t.Parallel()
	for f, want := range map[lease.Family]string{lease.IPv4: "169.254.1.1", lease.IPv6: "fe80::1"} {
		if got := intent.Gateway(f); got.String() != want || lease.FamilyOf(got) != f {
			t.Errorf("the gateway of %s is %s, want %s", f, got, want)
		}
	}
}

func TestParseAlias(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, alias string
		ok          bool
	}{
		{"a whole one", "overlay-cni/pods/c0ffee/eth0", true},
		{"empty", "", false},
		{"another program's", "veth of pod web-0", false},
		{"another program's with three slashes", "calico/pods/c0ffee/eth0", false},
		{"without an interface", "overlay-cni/pods/c0ffee", false},
		{"with an empty interface", "overlay-cni/pods/c0ffee/", false},
		{"with more parts", "overlay-cni/pods/c0ffee/eth0/x", false},
	} {
		a, ok := intent.ParseAlias(test.alias)
		if ok != test.ok || ok && a != (intent.Attachment{Network: "pods", Container: "c0ffee", Interface: "eth0"}) {
			t.Errorf("%s: got %v, %t", test.name, a, ok)
		}
	}
}

// TestAliasOfLongContainerIDs: the kernel takes 255 bytes. An alias either gives
// back its whole attachment, or none at all.
func TestAliasOfLongContainerIDs(t *testing.T) {
	t.Parallel()
	for length := 1; length < 400; length++ {
		a := intent.Attachment{Network: "pods", Container: strings.Repeat("c", length), Interface: "eth0"}
		alias := a.Alias()
		whole := len("overlay-cni/pods//eth0")+length <= 255
		if len(alias) > 255 || !strings.HasPrefix(alias, "overlay-cni/pods/c") {
			t.Fatalf("a container ID of %d bytes makes alias %q", length, alias)
		}
		if got, ok := intent.ParseAlias(alias); ok != whole || ok && got != a {
			t.Fatalf("a container ID of %d bytes comes back as %v, %t", length, got, ok)
		}
	}
}

func TestAliasRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := intent.Attachment{
			Network:   rapid.StringMatching(`[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?`).Draw(t, "network"),
			Container: rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9_.-]{0,250}`).Draw(t, "container"),
			Interface: rapid.StringMatching(`[a-z0-9.@-]{1,15}`).Draw(t, "interface"),
		}
		if got, ok := intent.ParseAlias(a.Alias()); ok && got != a {
			t.Fatalf("%v comes back as %v", a, got)
		}
	})
}
