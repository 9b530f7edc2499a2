package config_test

import (
	"errors"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/config"
)

func ipamWith(section string) string {
	return `{"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "ipam": {"type": "overlay-ipam", ` + section + `}}`
}

const subnet = `"subnet": "10.1.0.0/24"`

func TestParseIPAMMistakes(t *testing.T) {
	t.Parallel()
	checkMalformed(t, func(data []byte) error {
		_, err := config.ParseIPAM(data, "")
		return err
	})
	for _, test := range []mistake{
		{"null", `null`, "name", ""},
		{"no name", `{"ipam": {` + subnet + `}}`, "name", ""},
		{"a name that leaves its folder", `{"name": "../pods", "ipam": {` + subnet + `}}`, "name", "../pods"},
		{"no ipam", `{"name": "pods"}`, "ipam", ""},
		{"ipam that is null", `{"name": "pods", "ipam": null}`, "ipam", ""},
		{"ipam that is a list", `{"name": "pods", "ipam": []}`, "ipam", "[]"},
		{"a version that is a number", `{"cniVersion": 1, "name": "pods", "ipam": {` + subnet + `}}`, "cniVersion", "1"},
		{"prevResult that is text", `{"prevResult": "x", "name": "pods", "ipam": {` + subnet + `}}`, "prevResult", "x"},
		{"no range", ipamWith(`"routes": []`), "ipam.ranges", ""},
		{"an empty list of ranges", ipamWith(`"ranges": []`), "ipam.ranges", ""},
		{"an empty set of ranges", ipamWith(`"ranges": [[]]`), "ipam.ranges[0]", "[]"},
		{"a set that isn't a list", ipamWith(`"ranges": [{` + subnet + `}]`), "ipam.ranges", `[{"subnet": "10.1.0.0/24"}]`},
		{"a range that isn't an object", ipamWith(`"ranges": [["10.1.0.0/24"]]`), "ipam.ranges[0][0]", "10.1.0.0/24"},
		{"a range without a subnet", ipamWith(`"ranges": [[{` + subnet + `}], [{}]]`), "ipam.ranges[1][0].subnet", ""},
		{"a subnet that isn't text", ipamWith(`"ranges": [[{"subnet": 10}]]`), "ipam.ranges[0][0].subnet", "10"},
		{"a subnet that isn't a CIDR", ipamWith(`"subnet": "10.1.0.0"`), "ipam.subnet", "10.1.0.0"},
		{"a start without a subnet", ipamWith(`"rangeStart": "10.1.0.5"`), "ipam.subnet", ""},
		{"a subnet with bits beyond its length", ipamWith(`"subnet": "10.1.0.1/24"`), "ipam.subnet", "10.1.0.1/24"},
		{"a subnet of two addresses", ipamWith(`"subnet": "10.1.0.0/31"`), "ipam.subnet", "10.1.0.0/31"},
		{"a subnet of one address", ipamWith(`"subnet": "fd00::1/128"`), "ipam.subnet", "fd00::1/128"},
		{"an IPv4-mapped subnet", ipamWith(`"subnet": "::ffff:10.1.0.0/120"`), "ipam.subnet", "::ffff:10.1.0.0/120"},
		{"all of IPv6, IPv4 within", ipamWith(`"subnet": "::/0"`), "ipam.subnet", "::/0"},
		{"a gateway elsewhere", ipamWith(subnet + `, "gateway": "10.2.0.1"`), "ipam.gateway", "10.2.0.1"},
		{"a gateway of the other family", ipamWith(subnet + `, "gateway": "::ffff:10.1.0.1"`), "ipam.gateway", "::ffff:10.1.0.1"},
		{"a gateway that isn't an address", ipamWith(`"ranges": [[{` + subnet + `, "gateway": "none"}]]`), "ipam.ranges[0][0].gateway", "none"},
		{"a start elsewhere", ipamWith(subnet + `, "rangeStart": "10.1.1.0"`), "ipam.rangeStart", "10.1.1.0"},
		{"an end elsewhere", ipamWith(subnet + `, "rangeEnd": "10.0.255.255"`), "ipam.rangeEnd", "10.0.255.255"},
		{"an end before the start", ipamWith(subnet + `, "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"`), "ipam.rangeEnd", "10.1.0.8"},
		{"a start after the end that is given by the subnet", ipamWith(subnet + `, "rangeStart": "10.1.0.255"`), "ipam.rangeStart", "10.1.0.255"},
		{"a start with a zone", ipamWith(`"subnet": "fd00::/64", "rangeStart": "fd00::5%eth0"`), "ipam.rangeStart", "fd00::5%eth0"},
		{"ranges that overlap, in one set", ipamWith(`"ranges": [[{` + subnet + `}, {"subnet": "10.1.0.128/25"}]]`), "ipam.ranges[0][1].subnet", "10.1.0.128/25"},
		{"ranges that overlap, in two sets", ipamWith(`"ranges": [[{"subnet": "10.0.0.0/8"}], [{` + subnet + `}]]`), "ipam.ranges[1][0].subnet", "10.1.0.0/24"},
		{"a range that overlaps the single one", ipamWith(subnet + `, "ranges": [[{` + subnet + `}]]`), "ipam.ranges[0][0].subnet", "10.1.0.0/24"},
		{"two families in one set", ipamWith(`"ranges": [[{` + subnet + `}, {"subnet": "fd00::/64"}]]`), "ipam.ranges[0][1].subnet", "fd00::/64"},
		{"a relative directory", ipamWith(subnet + `, "dataDir": "data"`), "ipam.dataDir", "data"},
		{"a directory that is a number", ipamWith(subnet + `, "dataDir": 7`), "ipam.dataDir", "7"},
		{"resolvConf that is a list", ipamWith(subnet + `, "resolvConf": []`), "ipam.resolvConf", "[]"},
		{"a route that isn't a CIDR", ipamWith(subnet + `, "routes": [{"dst": "ten"}]`), "ipam.routes", `[{"dst": "ten"}]`},
		{"a route without a destination", ipamWith(subnet + `, "routes": [{"dst": "0.0.0.0/0"}, {"gw": "10.1.0.1"}]`), "ipam.routes[1].dst", ""},
		{"a route that is null", ipamWith(subnet + `, "routes": [null]`), "ipam.routes[0].dst", ""},
		{"shared that isn't an object", ipamWith(`"shared": []`), "ipam.shared", "[]"},
		{"shared without a range", ipamWith(`"shared": {}`), "ipam.shared.ranges", ""},
		{"a shared range without a subnet", ipamWith(`"shared": {"ranges": [[{}]]}`), "ipam.shared.ranges[0][0].subnet", ""},
		{"a gateway elsewhere, shared", ipamWith(`"shared": {"ranges": [[{` + subnet + `, "gateway": "10.2.0.1"}]]}`), "ipam.shared.ranges[0][0].gateway", "10.2.0.1"},
		{"shared beside a subnet", ipamWith(subnet + `, "shared": {` + subnet + `}`), "ipam.subnet", "10.1.0.0/24"},
		{"shared beside ranges", ipamWith(`"ranges": [[]], "shared": {` + subnet + `}`), "ipam.ranges", "[[]]"},
		{"shared beside network", ipamWith(`"network": "pods", "shared": {` + subnet + `}`), "ipam.network", "pods"},
		{"a store that isn't there yet", ipamWith(`"shared": {` + subnet + `, "store": {"type": "etcd"}}`), "ipam.shared.store.type", "etcd"},
		{"a store in a relative directory", ipamWith(`"shared": {` + subnet + `, "store": {"path": "store"}}`), "ipam.shared.store.path", "store"},
		{"a node's name that isn't one", ipamWith(`"node": "N 1", "shared": {` + subnet + `}`), "ipam.node", "N 1"},
		{"another network", ipamWith(`"network": "other"`), "ipam.network", "other"},
		{"a network that isn't a name", ipamWith(`"network": {}`), "ipam.network", "{}"},
		{"a network beside a range", ipamWith(`"network": "pods", "rangeStart": "10.1.0.5"`), "ipam.rangeStart", "10.1.0.5"},
		{"a relative run directory", ipamWith(`"network": "pods", "runDir": "run"`), "ipam.runDir", "run"},
		{"a cooldown that isn't one", ipamWith(`"network": "pods", "cooldown": "long"`), "ipam.cooldown", "long"},
		{"a requested address that isn't one", `{"name": "pods", "ipam": {` + subnet + `}, "runtimeConfig": {"ips": ["x"]}}`, "runtimeConfig.ips[0]", "x"},
		{"a requested address in args", `{"name": "pods", "ipam": {` + subnet + `}, "args": {"cni": {"ips": ["x"]}}}`, "args.cni.ips[0]", "x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.ParseIPAM([]byte(test.input), "")
			checkMistake(t, err, test.field, test.value)
			if c != nil {
				t.Errorf("got a configuration all the same: %+v", c)
			}
		})
	}
	_, err := config.ParseIPAM([]byte(ipamWith(subnet)), "IP=x")
	checkMistake(t, err, "CNI_ARGS IP", "x")
	if !errors.As(err, new(*config.ArgsError)) {
		t.Errorf("%v doesn't say that the mistake is in CNI_ARGS", err)
	}
}

func TestParseIPAM(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		section string
		sets    []string // the ranges of each set
		gateway string   // of the first
	}{
		{"a subnet alone", subnet, []string{"10.1.0.1-10.1.0.254"}, "10.1.0.1"},
		{"the smallest subnet", `"subnet": "10.1.0.4/30"`, []string{"10.1.0.5-10.1.0.6"}, "10.1.0.5"},
		{"IPv6 has no broadcast address", `"subnet": "fd00::/126"`, []string{"fd00::1-fd00::3"}, "fd00::1"},
		{
			"bounds and a gateway", subnet + `, "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.20", "gateway": "10.1.0.254"`,
			[]string{"10.1.0.10-10.1.0.20"}, "10.1.0.254",
		},
		{
			"two sets, one of two ranges", `"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.3.0.0/24"}], [{"subnet": "fd00::/64"}]]`,
			[]string{"10.1.0.1-10.1.0.254 10.3.0.1-10.3.0.254", "fd00::1-fd00::ffff:ffff:ffff:ffff"}, "10.1.0.1",
		},
		{
			"two ranges of one subnet", `"ranges": [[{` + subnet + `, "rangeEnd": "10.1.0.9"}, {` + subnet + `, "rangeStart": "10.1.0.10"}]]`,
			[]string{"10.1.0.1-10.1.0.9 10.1.0.10-10.1.0.254"}, "10.1.0.1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.ParseIPAM([]byte(ipamWith(test.section)), "")
			if err != nil {
				t.Fatal(err)
			}
			checkEqual(t, "the number of sets", len(c.Sets), len(test.sets))
			for i, set := range c.Sets {
				got := ""
				for _, r := range set {
					got += " " + r.String()
				}
				checkEqual(t, "a set", got[1:], test.sets[i])
			}
			s, ok := c.SubnetOf(c.Sets[0][0].First)
			if !ok || s.Gateway.String() != test.gateway {
				t.Errorf("the subnet of the first range is %+v, want one with gateway %s", s, test.gateway)
			}
			checkWarnings(t, c.Warnings)
		})
	}
}

func TestParseIPAMEverything(t *testing.T) {
	t.Parallel()
	c, err := config.ParseIPAM([]byte(`{
		"cniVersion": "1.1.0", "name": "pods", "bridge": "cni0", "runtimeConfig": {"ips": ["10.1.0.5/24"]},
		"prevResult": {"ips": []}, "cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}],
		"ipam": {"type": "overlay-ipam", "dataDir": "/d", "resolvConf": "/etc/resolv.conf", "typo": 1,
			"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}], "ranges": [[{"subnet": "10.1.0.0/24", "rangestart": "10.1.0.9"}]]}}`), "IP=10.1.0.6;A=b")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "version", c.CNIVersion, "1.1.0")
	checkEqual(t, "ledger", c.Ledger, "/d/pods/ledger")
	checkEqual(t, "resolvConf", c.ResolvConf, "/etc/resolv.conf")
	checkEqual(t, "the number of routes", len(c.Routes), 1)
	checkEqual(t, "the number of attachments", len(c.ValidAttachments), 1)
	checkSlice(t, "addresses", c.Addresses, addrs("10.1.0.5", "10.1.0.6")...)
	checkWarnings(t, c.Warnings, "ipam.typo", "ipam.ranges[0][0].rangestart")
	if _, ok := c.SubnetOf(addrs("10.2.0.1")[0]); ok {
		t.Error("an address is of no subnet, and yet one was found")
	}
	plain, err := config.ParseIPAM([]byte(ipamWith(subnet)), "")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "the default ledger", plain.Ledger, "/var/lib/overlay-cni/ipam/pods.ledger")
}

func TestParseIPAMShared(t *testing.T) {
	t.Parallel()
	c, err := config.ParseIPAM([]byte(ipamWith(`"node": "n1", "dataDir": "/d", "routes": [{"dst": "0.0.0.0/0"}], "typo": 1,
		"shared": {"ranges": [[{"subnet": "192.0.2.0/24", "rangeEnd": "192.0.2.9"}], [{"subnet": "fd00::/64"}]],
			"store": {"type": "local", "path": "/s", "other": 1}, "more": 1}`)), "IP=192.0.2.5")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "node", c.Shared.Node.Name, "n1")
	checkEqual(t, "store", c.Shared.StoreDir, "/s")
	checkEqual(t, "ledger", c.Ledger, "/d/shared/pods.ledger")
	checkEqual(t, "the number of sets", len(c.Sets), 2)
	checkEqual(t, "the first set", c.Sets[0][0].String(), "192.0.2.1-192.0.2.9")
	checkEqual(t, "the number of routes", len(c.Routes), 1)
	checkSlice(t, "addresses", c.Addresses, addrs("192.0.2.5")...)
	checkWarnings(t, c.Warnings, "ipam.shared.store.other", "ipam.shared.more", "ipam.typo")
	plain, err := config.ParseIPAM([]byte(ipamWith(`"shared": {`+subnet+`}`)), "")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "the default store", plain.Shared.StoreDir, "/var/lib/overlay-cni/store")
	checkEqual(t, "the default ledger", plain.Ledger, "/var/lib/overlay-cni/shared/pods.ledger")
	if plain.Shared.Node.Name == "" {
		t.Error("the node has no name")
	}
}

func TestParseIPAMNetwork(t *testing.T) {
	t.Parallel()
	c, err := config.ParseIPAM([]byte(ipamWith(`"network": "pods", "runDir": "/r", "dataDir": "/d", "cooldown": "1m"`)), "")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "run directory", c.Overlay.RunDir, "/r")
	checkEqual(t, "ledger", c.Ledger, "/d/ipam/pods.ledger")
	checkEqual(t, "cooldown", c.Cooldown, time.Minute)
	checkWarnings(t, c.Warnings)
	plain, err := config.ParseIPAM([]byte(ipamWith(`"network": "pods"`)), "")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "the default run directory", plain.Overlay.RunDir, "/run/overlay-cni")
	checkEqual(t, "the default ledger", plain.Ledger, "/var/lib/overlay-cni/ipam/pods.ledger")
	checkEqual(t, "the default cooldown", plain.Cooldown, 30*time.Second)
}
