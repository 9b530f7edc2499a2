package config_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// checkAddresses: what a runtime asks for are addresses proper.
func checkAddresses(t *testing.T, addresses []netip.Addr) {
	t.Helper()
	for _, a := range addresses {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			t.Errorf("accepted address %s", a)
		}
	}
}

func checkNode(t *testing.T, n *config.Node) {
	t.Helper()
	if err := lease.ValidateName("node", n.Name); err != nil {
		t.Error(err)
	}
	if !filepath.IsAbs(n.RunDir) || !filepath.IsAbs(n.DataDir) || n.Firewall == "" {
		t.Errorf("accepted node %+v", n)
	}
}

// FuzzParsePlugin: what is accepted can be used.
func FuzzParsePlugin(f *testing.F) {
	f.Add([]byte(`{"name": "pods"}`), "")
	f.Add([]byte(pluginWith(`"network": {"cidrs": ["10.1.0.0/16", "fd00::/48"], "vni": 1, "mtu": "auto", "blockLength": {"ipv4": 24}}`)), "IP=10.1.0.5;MAC=0e:00:00:00:00:01")
	f.Add([]byte(pluginWith(`"ipam": {"type": "overlay-ipam", "routes": [{"dst": "::/0"}]}, "runtimeConfig": {"ips": ["fd00::5/64"], "mac": "0e:00:00:00:00:01"}`)), "A=b")
	for _, m := range networkMistakes() {
		f.Add([]byte(pluginWith(`"network": `+m.input)), "")
	}
	f.Fuzz(func(t *testing.T, stdin []byte, args string) {
		c, err := config.ParsePlugin(stdin, args)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error says nothing")
			}
			return
		}
		if err := lease.ValidateName("network", c.Network); err != nil || c.IPAM == "" {
			t.Errorf("accepted network %q with IPAM %q: %v", c.Network, c.IPAM, err)
		}
		if c.Spec != nil {
			if err := c.Spec.Validate(); err != nil || c.Spec.Name != c.Network {
				t.Errorf("accepted %+v: %v", c.Spec, err)
			}
		}
		for _, r := range c.Routes {
			if err := lease.ValidateCIDR("route", r); err != nil {
				t.Error(err)
			}
		}
		checkNode(t, &c.Node)
		checkAddresses(t, c.Addresses)
	})
}

// FuzzParseDaemon: what is accepted can be used, all of it side by side.
func FuzzParseDaemon(f *testing.F) {
	f.Add([]byte(`{"networks": [` + podsNetwork + `]}`))
	f.Add([]byte(daemonWith(`"store": {"type": "local", "path": "/s"}, "health": "[::1]:80", "lease": {"ttl": "24h"}`)))
	f.Add([]byte(daemonWith(`"networks": [` + podsNetwork + `, {"name": "b", "cidrs": ["fd00::/48"], "vni": 5}]`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.ParseDaemon(data)
		if err != nil {
			return
		}
		checkNode(t, &c.Node)
		if len(c.Networks) == 0 || c.LeaseTTL < config.MinLeaseTTL || !c.Health.IsValid() || !filepath.IsAbs(c.Store.Dir) {
			t.Errorf("accepted %+v", c)
		}
		for i := range c.Networks {
			if err := c.Networks[i].Validate(); err != nil {
				t.Error(err)
			}
			for j := range i {
				if err := c.Networks[i].ConflictsWith(&c.Networks[j]); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// FuzzParseIPAM: what is accepted the ledger accepts too.
func FuzzParseIPAM(f *testing.F) {
	f.Add([]byte(ipamWith(subnet)), "")
	f.Add([]byte(ipamWith(subnet+`, "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.20", "gateway": "10.1.0.254"`)), "IP=10.1.0.12")
	f.Add([]byte(ipamWith(`"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.3.0.0/24"}], [{"subnet": "fd00::/64"}]], "routes": [{"dst": "::/0"}]`)), "")
	l, err := ipam.OpenLedger(filepath.Join(f.TempDir(), "ledger"), ipam.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, stdin []byte, args string) {
		c, err := config.ParseIPAM(stdin, args)
		if err != nil {
			return
		}
		checkAddresses(t, c.Addresses)
		if err := lease.ValidateName("name", c.Name); err != nil || !filepath.IsAbs(c.Ledger) {
			t.Errorf("accepted name %q with ledger %q: %v", c.Name, c.Ledger, err)
		}
		if _, err := l.Usage(context.Background(), c.Sets); err != nil && errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("accepted %v: %v", c.Sets, err)
		}
		for _, set := range c.Sets {
			for _, r := range set {
				if _, ok := c.SubnetOf(r.First); !ok {
					t.Errorf("range %s is of no subnet", r)
				}
			}
		}
		for _, r := range c.Routes {
			if r == nil || r.Dst.IP == nil {
				t.Errorf("accepted route %v", r)
			}
		}
	})
}
