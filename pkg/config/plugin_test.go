package config_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// pluginWith is a configuration with one field more, or another value of it.
func pluginWith(field string) string {
	return `{"cniVersion": "1.1.0", "name": "pods", "type": "overlay-vxlan", "node": "a", ` + field + `}`
}

func TestParsePluginMistakes(t *testing.T) {
	t.Parallel()
	checkMalformed(t, func(data []byte) error {
		_, err := config.ParsePlugin(data, "")
		return err
	})
	const routes = `"ipam": {"type": "overlay-ipam", "routes": `
	tests := []mistake{
		{"null", `null`, "name", ""},
		{"no name", `{"node": "a"}`, "name", ""},
		{"a name that is a number", pluginWith(`"name": 5`), "name", "5"},
		{"a name that is no network's", pluginWith(`"name": "My_Pods"`), "name", "My_Pods"},
		{"such a name beside a specification", pluginWith(`"name": "My_Pods", "network": {"cidrs": ["10.1.0.0/16"]}`), "name", "My_Pods"},
		{"a version that is a number", pluginWith(`"cniVersion": 1.1`), "cniVersion", "1.1"},
		{"DNS that isn't an object", pluginWith(`"dns": "10.0.0.10"`), "dns", "10.0.0.10"},
		{"DNS servers that aren't a list", pluginWith(`"dns": {"nameservers": "10.0.0.10"}`), "dns", `{"nameservers": "10.0.0.10"}`},
		{"prevResult that is a list", pluginWith(`"prevResult": []`), "prevResult", "[]"},
		{"attachments that aren't a list", pluginWith(`"cni.dev/valid-attachments": {}`), "cni.dev/valid-attachments", "{}"},
		{"attachments by their IDs alone", pluginWith(`"cni.dev/valid-attachments": ["a"]`), "cni.dev/valid-attachments", `["a"]`},
		{"a network that is a list", pluginWith(`"network": []`), "network", "[]"},
		{"an empty network", pluginWith(`"network": ""`), "network", ""},
		{"a network that leaves its folder", pluginWith(`"network": "../../etc"`), "network", "../../etc"},
		{"no daemon and no specification", pluginWith(`"daemon": false`), "network", ""},
		{"no daemon and a name", pluginWith(`"daemon": false, "network": "pods"`), "network", "pods"},
		{"a daemon and a specification", pluginWith(`"daemon": true, "network": {"cidrs": ["10.1.0.0/16"]}`), "network", `{"cidrs": ["10.1.0.0/16"]}`},
		{"a daemon by a word", pluginWith(`"daemon": "no"`), "daemon", "no"},
		{"a node as a path", pluginWith(`"node": "../a"`), "node", "../a"},
		{"a relative run directory", pluginWith(`"runDir": "run"`), "runDir", "run"},
		{"an unknown firewall", pluginWith(`"firewall": "none"`), "firewall", "none"},
		{"an underlay interface that is a list", pluginWith(`"underlay": {"interface": ["eth0"]}`), "underlay.interface", `["eth0"]`},
		{"IPAM by its name", pluginWith(`"ipam": "overlay-ipam"`), "ipam", "overlay-ipam"},
		{"IPAM without a type", pluginWith(`"ipam": {}`), "ipam.type", ""},
		{"IPAM with an empty type", pluginWith(`"ipam": {"type": ""}`), "ipam.type", ""},
		{"IPAM with a number as type", pluginWith(`"ipam": {"type": 5}`), "ipam.type", "5"},
		{"a route that isn't a CIDR", pluginWith(routes + `[{"dst": "10.0.0.0"}]}`), "ipam.routes[0].dst", "10.0.0.0"},
		{"a route without a destination", pluginWith(routes + `[{"dst": "10.0.0.0/8"}, {}]}`), "ipam.routes[1].dst", ""},
		{"a route that is null", pluginWith(routes + `[null]}`), "ipam.routes[0].dst", ""},
		{"a route with bits beyond its length", pluginWith(routes + `[{"dst": "10.0.0.1/8"}]}`), "ipam.routes[0].dst", "10.0.0.1/8"},
		{"an IPv4-mapped route", pluginWith(routes + `[{"dst": "::ffff:10.0.0.0/104"}]}`), "ipam.routes[0].dst", "::ffff:10.0.0.0/104"},
		{"routes that aren't a list", pluginWith(routes + `{"dst": "10.0.0.0/8"}}`), "ipam.routes", `{"dst": "10.0.0.0/8"}`},
		{"runtimeConfig that is a list", pluginWith(`"runtimeConfig": []`), "runtimeConfig", "[]"},
		{"a requested MAC that isn't one", pluginWith(`"runtimeConfig": {"mac": "0e:00"}`), "runtimeConfig.mac", "0e:00"},
		{"a requested MAC that is a number", pluginWith(`"runtimeConfig": {"mac": 14}`), "runtimeConfig.mac", "14"},
		{"a requested MAC of eight bytes", pluginWith(`"runtimeConfig": {"mac": "0e:00:00:00:00:00:00:01"}`), "runtimeConfig.mac", "0e:00:00:00:00:00:00:01"},
		{"a requested MAC that is multicast", pluginWith(`"runtimeConfig": {"mac": "01:00:5e:00:00:01"}`), "runtimeConfig.mac", "01:00:5e:00:00:01"},
		{"a requested MAC of zeros", pluginWith(`"runtimeConfig": {"mac": "00:00:00:00:00:00"}`), "runtimeConfig.mac", "00:00:00:00:00:00"},
		{"requested addresses that aren't a list", pluginWith(`"runtimeConfig": {"ips": "10.1.0.5"}`), "runtimeConfig.ips", "10.1.0.5"},
		{"a requested address that isn't one", pluginWith(`"runtimeConfig": {"ips": ["10.1.0.5", "ten"]}`), "runtimeConfig.ips[1]", "ten"},
		{"a requested address with a zone", pluginWith(`"runtimeConfig": {"ips": ["fd00::5%eth0"]}`), "runtimeConfig.ips[0]", "fd00::5%eth0"},
		{"an empty requested address", pluginWith(`"runtimeConfig": {"ips": [""]}`), "runtimeConfig.ips[0]", ""},
		{"args that are a list", pluginWith(`"args": []`), "args", "[]"},
		{"args.cni that is text", pluginWith(`"args": {"cni": "x"}`), "args.cni", "x"},
		{"args.cni.ips that aren't text", pluginWith(`"args": {"cni": {"ips": [5]}}`), "args.cni.ips", "[5]"},
		{"args.cni.ips with a mistake", pluginWith(`"args": {"cni": {"ips": ["10.1.0.256"]}}`), "args.cni.ips[0]", "10.1.0.256"},
	}
	for _, m := range networkMistakes() {
		tests = append(tests, mistake{"network: " + m.name, pluginWith(`"network": ` + m.input), "network." + m.field, m.value})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.ParsePlugin([]byte(test.input), "")
			checkMistake(t, err, test.field, test.value)
			if c != nil {
				t.Errorf("got a configuration all the same: %+v", c)
			}
		})
	}
}

func TestParsePluginArgs(t *testing.T) {
	t.Parallel()
	const mac = "0e:00:00:00:00:01"
	for _, test := range []struct {
		name, args   string
		addresses    []string
		mac          string
		field, value string // of the mistake
	}{
		{"none", "", nil, "none", "", ""},
		{"the keys of Kubernetes", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0", nil, "none", "", ""},
		{"address and MAC", "IP=10.1.0.5;MAC=" + mac, []string{"10.1.0.5"}, mac, "", ""},
		{"addresses of both families, with lengths", "IP=10.1.0.5/24,fd00::5/64", []string{"10.1.0.5", "fd00::5"}, "none", "", ""},
		{"an IPv4-mapped address", "IP=::ffff:10.1.0.5", []string{"10.1.0.5"}, "none", "", ""},
		{"an equals sign in a value", "A=b=c;IP=10.1.0.5", []string{"10.1.0.5"}, "none", "", ""},
		{"keys in lower case are others'", "ip=ten;mac=x", nil, "none", "", ""},
		{"no equals sign", "IP=10.1.0.5;MAC", nil, "", "CNI_ARGS", "IP=10.1.0.5;MAC"},
		{"a semicolon at the end", "IP=10.1.0.5;", nil, "", "CNI_ARGS", "IP=10.1.0.5;"},
		{"an address that isn't one", "IP=10.1.0", nil, "", "CNI_ARGS IP", "10.1.0"},
		{"an empty address", "IP=", nil, "", "CNI_ARGS IP", ""},
		{"the second address is empty", "IP=10.1.0.5,", nil, "", "CNI_ARGS IP", ""},
		{"a zone", "IP=fe80::1%eth0", nil, "", "CNI_ARGS IP", "fe80::1%eth0"},
		{"a MAC that isn't one", "MAC=0e", nil, "", "CNI_ARGS MAC", "0e"},
		{"a multicast MAC", "MAC=ff:ff:ff:ff:ff:ff", nil, "", "CNI_ARGS MAC", "ff:ff:ff:ff:ff:ff"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.ParsePlugin([]byte(pluginWith(`"daemon": true`)), test.args)
			if test.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkSlice(t, "addresses", c.Addresses, addrs(test.addresses...)...)
				checkEqual(t, "MAC", c.MAC.String(), test.mac)
				return
			}
			checkMistake(t, err, test.field, test.value)
			if !errors.As(err, new(*config.ArgsError)) {
				t.Errorf("%v doesn't say that the mistake is in CNI_ARGS", err)
			}
		})
	}
}

func TestParsePluginWithDaemon(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, input, network string }{
		{"two lines of configuration", `{"name": "pods", "type": "overlay-vxlan"}`, "pods"},
		{"saying so", `{"name": "pods", "network": "pods", "daemon": true, "node": "a"}`, "pods"},
		{"null is the default", `{"name": "pods", "network": null, "daemon": null, "node": null, "ipam": null, "dns": null, "args": null, "runtimeConfig": null, "prevResult": null}`, "pods"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.ParsePlugin([]byte(test.input), "")
			if err != nil {
				t.Fatal(err)
			}
			checkEqual(t, "network", c.Network, test.network)
			checkEqual(t, "ipam", c.IPAM, config.IPAMType)
			checkEqual(t, "runDir", c.Node.RunDir, config.DefaultRunDir)
			checkEqual(t, "firewall", c.Node.Firewall, firewall.Auto)
			if c.Spec != nil || c.Routes != nil || c.Addresses != nil || c.PrevResult != nil || c.Node.Name == "" {
				t.Errorf("got %+v", c)
			}
			checkWarnings(t, c.Warnings)
		})
	}
}

func TestParsePluginEverything(t *testing.T) {
	t.Parallel()
	c, err := config.ParsePlugin([]byte(`{
		"cniVersion": "1.1.0", "name": "pods", "type": "overlay-vxlan", "capabilities": {"ips": true, "mac": true},
		"disableCheck": true, "cni.dev/something": 1, "future": {}, "daemon": false,
		"network": {"cidrs": ["10.1.0.0/16", "fd00::/48"], "name": "other", "vni": 7},
		"node": "node-1", "runDir": "/r", "dataDir": "/d", "underlay": {"interface": "eth1"}, "firewall": "nftables",
		"labels": {"zone": "a"},
		"dns": {"nameservers": ["10.0.0.10"], "search": ["example.org"]},
		"ipam": {"type": "overlay-ipam", "routes": [{"dst": "10.0.0.0/8", "gw": "10.1.0.1"}, {"dst": "::/0"}], "cooldown": "5s", "pool": "x"},
		"runtimeConfig": {"mac": "0E-00-00-00-00-01", "ips": ["10.1.0.5/16", "::ffff:10.1.0.7"], "portMappings": []},
		"args": {"cni": {"ips": ["fd00::5"], "labels": []}, "other": 1},
		"prevResult": {"cniVersion": "1.1.0"},
		"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}`), "IP=10.1.0.6")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "name", c.Name, "pods")
	checkEqual(t, "network", c.Network, "pods")
	want := lease.Network{Name: "pods", CIDRs: prefixes("10.1.0.0/16", "fd00::/48"), VNI: 7}.Complete()
	if c.Spec == nil || !c.Spec.Equal(&want) {
		t.Errorf("the specification is %+v, want %+v", c.Spec, want)
	}
	wantNode := config.Node{
		Name: "node-1", RunDir: "/r", DataDir: "/d", Underlay: "eth1", Firewall: firewall.Nftables, Labels: map[string]string{"zone": "a"},
	}
	if !reflect.DeepEqual(c.Node, wantNode) {
		t.Errorf("the node is %+v, want %+v", c.Node, wantNode)
	}
	checkEqual(t, "cooldown", c.Cooldown, 5*time.Second)
	checkEqual(t, "MAC", c.MAC.String(), "0e:00:00:00:00:01")
	checkSlice(t, "addresses", c.Addresses, addrs("10.1.0.5", "10.1.0.7", "fd00::5", "10.1.0.6")...)
	checkSlice(t, "routes", c.Routes, prefixes("10.0.0.0/8", "::/0")...)
	checkSlice(t, "nameservers", c.DNS.Nameservers, "10.0.0.10")
	checkEqual(t, "attachments", len(c.ValidAttachments), 1)
	checkEqual(t, "prevResult", len(c.PrevResult), 1)
	checkWarnings(t, c.Warnings, "future", "network.name", "ipam.pool")
}

func TestParsePluginDelegatedIPAM(t *testing.T) {
	t.Parallel()
	c, err := config.ParsePlugin([]byte(pluginWith(`"ipam": {"type": "host-local", "routes": "its own business", "subnet": 5}`)), "")
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "ipam", c.IPAM, "host-local")
	checkWarnings(t, c.Warnings)
}

func TestParsePluginNoRoutes(t *testing.T) {
	t.Parallel()
	c, err := config.ParsePlugin([]byte(pluginWith(`"ipam": {"type": "overlay-ipam", "routes": []}`)), "")
	if err != nil || c.Routes == nil || len(c.Routes) != 0 {
		t.Errorf("got routes %v, %v; an empty list isn't the default", c.Routes, err)
	}
}
