package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

const podsNetwork = `{"name": "pods", "cidrs": ["10.244.0.0/16"]}`

// daemonWith is a configuration with one field more, or another value of it.
func daemonWith(field string) string {
	return `{"node": "a", "networks": [` + podsNetwork + `], ` + field + `}`
}

func TestParseDaemonMistakes(t *testing.T) {
	t.Parallel()
	checkMalformed(t, func(data []byte) error {
		_, err := config.ParseDaemon(data)
		return err
	})
	tests := []mistake{
		{"an empty list of networks", daemonWith(`"networks": []`), "networks", "[]"},
		{"networks that aren't a list", daemonWith(`"networks": {"pods": {}}`), "networks", `{"pods": {}}`},
		{"a network that isn't an object", daemonWith(`"networks": [` + podsNetwork + `, 5]`), "networks[1]", "5"},
		{"a network by its name alone", daemonWith(`"networks": ["pods"]`), "networks[0]", "pods"},
		{"a network that is null", daemonWith(`"networks": [null]`), "networks[0].name", ""},
		{"a network without a name", daemonWith(`"networks": [{"cidrs": ["10.1.0.0/16"]}]`), "networks[0].name", ""},
		{"a network's name that is a number", daemonWith(`"networks": [{"name": 5, "cidrs": ["10.1.0.0/16"]}]`), "networks[0].name", "5"},
		{"two networks of one name", daemonWith(`"networks": [` + podsNetwork + `, {"name": "pods", "cidrs": ["10.9.0.0/16"], "vni": 5}]`), "networks[1].name", "pods"},
		{"two networks that overlap", daemonWith(`"networks": [` + podsNetwork + `, {"name": "b", "cidrs": ["fd00::/48", "10.244.7.0/24"], "vni": 5}]`), "networks[1].cidrs[1]", "10.244.7.0/24"},
		{"two networks with one VNI", daemonWith(`"networks": [` + podsNetwork + `, {"name": "b", "cidrs": ["10.9.0.0/16"], "port": 8472}]`), "networks[1].vni", "4096"},
		{"a node that is a number", daemonWith(`"node": 7`), "node", "7"},
		{"an empty node", daemonWith(`"node": ""`), "node", ""},
		{"a node with an underscore", daemonWith(`"node": "my_node"`), "node", "my_node"},
		{"a node as a path", daemonWith(`"node": "a/b"`), "node", "a/b"},
		{"a relative run directory", daemonWith(`"runDir": "run"`), "runDir", "run"},
		{"a run directory that is a list", daemonWith(`"runDir": []`), "runDir", "[]"},
		{"a store without a type", daemonWith(`"store": {"type": ""}`), "store.type", ""},
		{"an etcd without endpoints", daemonWith(`"store": {"type": "etcd"}`), "store.endpoints", ""},
		{"an etcd with no endpoint", daemonWith(`"store": {"type": "etcd", "endpoints": []}`), "store.endpoints", ""},
		{"an etcd's endpoint without a scheme", daemonWith(`"store": {"type": "etcd", "endpoints": ["10.0.0.1:2379"]}`), "store.endpoints", "10.0.0.1:2379"},
		{"an etcd's endpoint with a path", daemonWith(`"store": {"type": "etcd", "endpoints": ["http://e:2379/v3"]}`), "store.endpoints", "http://e:2379/v3"},
		{"an etcd's prefix", daemonWith(etcdStore(`"prefix": "overlay"`)), "store.prefix", "overlay"},
		{"an etcd's relative CA", daemonWith(etcdStore(`"caFile": "ca.pem"`)), "store.caFile", "ca.pem"},
		{"an etcd's certificate without key", daemonWith(etcdStore(`"certFile": "/c"`)), "store.certFile", "/c"},
		{"a relative kubeconfig", daemonWith(`"store": {"type": "kubernetes", "kubeconfig": "config"}`), "store.kubeconfig", "config"},
		{"a context without kubeconfig", daemonWith(`"store": {"type": "kubernetes", "context": "lab"}`), "store.context", "lab"},
		{"a store that nobody knows", daemonWith(`"store": {"type": "consul"}`), "store.type", "consul"},
		{"an etcd's password without user", daemonWith(etcdStore(`"passwordFile": "/p"`)), "store.passwordFile", "/p"},
		{"a relative data directory", daemonWith(`"dataDir": "./data"`), "dataDir", "./data"},
		{"two relative directories: the first is named", daemonWith(`"dataDir": "b", "runDir": "a"`), "runDir", "a"},
		{"an underlay that isn't an object", daemonWith(`"underlay": "eth0"`), "underlay", "eth0"},
		{"an underlay interface that is a number", daemonWith(`"underlay": {"interface": 0}`), "underlay.interface", "0"},
		{"an unknown firewall", daemonWith(`"firewall": "ipfw"`), "firewall", "ipfw"},
		{"a firewall that is false", daemonWith(`"firewall": false`), "firewall", "false"},
		{"a store that isn't an object", daemonWith(`"store": "local"`), "store", "local"},
		{"an unknown store", daemonWith(`"store": {"type": "redis"}`), "store.type", "redis"},
		{"a store's type that is a number", daemonWith(`"store": {"type": 1}`), "store.type", "1"},
		{"a relative store", daemonWith(`"store": {"path": "store"}`), "store.path", "store"},
		{"a store's path that is a number", daemonWith(`"store": {"path": 1}`), "store.path", "1"},
		{"health without a port", daemonWith(`"health": "127.0.0.1"`), "health", "127.0.0.1"},
		{"health as a port", daemonWith(`"health": 9480`), "health", "9480"},
		{"health at a name", daemonWith(`"health": "localhost:9480"`), "health", "localhost:9480"},
		{"health at an empty address", daemonWith(`"health": ""`), "health", ""},
		{"a lease that isn't an object", daemonWith(`"lease": "24h"`), "lease", "24h"},
		{"a lease in seconds", daemonWith(`"lease": {"ttl": 3600}`), "lease.ttl", "3600"},
		{"a lease without a unit", daemonWith(`"lease": {"ttl": "3600"}`), "lease.ttl", "3600"},
		{"a lease too short to be renewed", daemonWith(`"lease": {"ttl": "9s"}`), "lease.ttl", "9s"},
		{"a lease below zero", daemonWith(`"lease": {"ttl": "-24h"}`), "lease.ttl", "-24h"},
		{"a lease beyond all durations", daemonWith(`"lease": {"ttl": "9999999999h"}`), "lease.ttl", "9999999999h"},
	}
	for _, m := range networkMistakes() {
		network := strings.Replace(m.input, "{", `{"name": "b", `, 1)
		network = strings.Replace(network, `"b", }`, `"b"}`, 1)
		tests = append(tests, mistake{"network: " + m.name, `{"node": "a", "networks": [` + network + `]}`, "networks[0]." + m.field, m.value})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := config.ParseDaemon([]byte(test.input))
			checkMistake(t, err, test.field, test.value)
		})
	}
}

func TestParseDaemonDefaults(t *testing.T) {
	t.Parallel()
	c, err := config.ParseDaemon([]byte(`{"networks": [` + podsNetwork + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Name == "" || c.Node.Name != strings.ToLower(c.Node.Name) {
		t.Errorf("the node's name is %q, want the host's", c.Node.Name)
	}
	checkEqual(t, "runDir", c.Node.RunDir, "/run/overlay-cni")
	checkEqual(t, "dataDir", c.Node.DataDir, "/var/lib/overlay-cni")
	checkEqual(t, "store", c.Store.Dir, "/var/lib/overlay-cni/store")
	checkEqual(t, "ledger", c.Node.LedgerPath("pods"), "/var/lib/overlay-cni/ipam/pods.ledger")
	checkEqual(t, "health", c.Health.String(), config.DefaultHealth)
	checkEqual(t, "lease.ttl", c.LeaseTTL, 24*time.Hour)
	checkEqual(t, "firewall", c.Node.Firewall, firewall.Auto)
	checkEqual(t, "underlay", c.Node.Underlay, "")
	checkEqual(t, "networks", len(c.Networks), 1)
	checkWarnings(t, c.Warnings)
}

func TestParseDaemonEverything(t *testing.T) {
	t.Parallel()
	c, err := config.ParseDaemon([]byte(`{
		"node": "node-1.example.org", "runDir": "/r", "dataDir": "/d", "underlay": {"interface": "eth1", "address": "x"},
		"firewall": "iptables", "store": {"type": "local", "path": "/s", "sync": true}, "health": "[::1]:80",
		"lease": {"ttl": "10s", "fence": "1h"}, "metrics": {},
		"networks": [
			` + podsNetwork + `,
			{"name": "storage", "cidrs": ["10.9.0.0/16", "fd00:9::/48"], "vni": 5000, "mtus": 1},
			{"name": "third", "cidrs": ["10.10.0.0/16"], "vni": 5001, "blockLength": {"ipv5": 1}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "node", c.Node.Name, "node-1.example.org")
	checkEqual(t, "runDir", c.Node.RunDir, "/r")
	checkEqual(t, "dataDir", c.Node.DataDir, "/d")
	checkEqual(t, "underlay", c.Node.Underlay, "eth1")
	checkEqual(t, "firewall", c.Node.Firewall, firewall.Iptables)
	checkEqual(t, "store", c.Store.Dir, "/s")
	checkEqual(t, "health", c.Health.String(), "[::1]:80")
	checkEqual(t, "lease.ttl", c.LeaseTTL, config.MinLeaseTTL)
	checkEqual(t, "networks", len(c.Networks), 3)
	checkEqual(t, "networks[1].name", c.Networks[1].Name, "storage")
	checkEqual(t, "networks[1].vni", c.Networks[1].VNI, 5000)
	checkWarnings(t, c.Warnings, "underlay.address", "store.sync", "lease.fence", "metrics", "networks[1].mtus", "networks[2].blockLength.ipv5")
}

func TestParseDaemonStoreFollowsDataDir(t *testing.T) {
	t.Parallel()
	c, err := config.ParseDaemon([]byte(daemonWith(`"dataDir": "/data", "store": {"type": null}`)))
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, "store", c.Store.Dir, "/data/store")
}

// etcdStore is a store of type etcd with more fields.
func etcdStore(more string) string {
	return `"store": {"type": "etcd", "endpoints": ["https://e1:2379"], ` + more + `}`
}

func TestParseDaemonEtcd(t *testing.T) {
	t.Parallel()
	c, err := config.ParseDaemon([]byte(daemonWith(`"store": {"type": "etcd", "endpoints": ["https://e1:2379", "https://e2:2379/"],
		"prefix": "/a/", "caFile": "/ca", "certFile": "/cert", "keyFile": "/key", "username": "u", "passwordFile": "/pw", "path": "/s"}`)))
	if err != nil {
		t.Fatal(err)
	}
	e := c.Store.Etcd
	checkEqual(t, "endpoints", strings.Join(e.Endpoints, " "), "https://e1:2379 https://e2:2379/")
	checkEqual(t, "prefix", e.Prefix, "/a/")
	checkEqual(t, "files", e.CAFile+e.CertFile+e.KeyFile+e.PasswordFile, "/ca/cert/key/pw")
	checkEqual(t, "username", e.Username, "u")
	checkEqual(t, "for people", c.Store.String(), "etcd https://e1:2379, https://e2:2379/")
	checkWarnings(t, c.Warnings, "store.path")
}

func TestParseKubernetes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		config.Kubernetes
		people string
	}{
		`{"type": "kubernetes"}`: {config.Kubernetes{}, "Kubernetes"},
		`{"type": "kubernetes", "kubeconfig": "/etc/k", "context": "there"}`: {config.Kubernetes{Kubeconfig: "/etc/k", Context: "there"}, "Kubernetes by /etc/k"},
	} {
		c, err := config.ParseDaemon([]byte(daemonWith(`"store": ` + text)))
		if err != nil {
			t.Fatal(err)
		}
		checkEqual(t, text, *c.Store.Kubernetes, want.Kubernetes)
		checkEqual(t, "for people", c.Store.String(), want.people)
	}
}
