package config_test

import (
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/config"
)

func TestParsePeer(t *testing.T) {
	t.Parallel()
	const text = `{"name": "vm", "network": "pods", "vtep": {"underlay": ["192.0.2.50", "2001:db8::50"], "mac": "0e:00:00:00:00:32", "port": 1},
		"cidrs": ["10.50.0.0/24"], "color": "blue"}`
	p, warnings, err := config.ParsePeer("", []byte(text))
	if err != nil || len(warnings) != 2 {
		t.Fatalf("%v, warnings %q", err, warnings)
	}
	if p.Name != "vm" || p.Network != "pods" || len(p.VTEP.Underlay) != 2 || p.VTEP.MAC.String() != "0e:00:00:00:00:32" || p.CIDRs[0].String() != "10.50.0.0/24" {
		t.Errorf("got %+v", p)
	}
}

func TestParsePeerMistakes(t *testing.T) {
	t.Parallel()
	checkMalformed(t, func(data []byte) error {
		_, _, err := config.ParsePeer("vm", data)
		return err
	})
	for _, test := range []mistake{
		{"nothing", `{}`, "network", ""},
		{"a network that is a number", `{"network": 5}`, "network", "5"},
		{"no VTEP", `{"network": "pods"}`, "vtep.underlay", ""},
		{"a VTEP that is a text", `{"network": "pods", "vtep": "192.0.2.1"}`, "vtep", "192.0.2.1"},
		{"no MAC", `{"network": "pods", "vtep": {"underlay": ["192.0.2.1"]}}`, "vtep.mac", ""},
		{"half a MAC", `{"network": "pods", "vtep": {"underlay": ["192.0.2.1"], "mac": "0e:00"}}`, "vtep.mac", "0e:00"},
		{"a multicast MAC", `{"network": "pods", "vtep": {"underlay": ["192.0.2.1"], "mac": "01:00:00:00:00:01"}}`, "vtep.mac", "01:00:00:00:00:01"},
		{"an address with a length", `{"network": "pods", "vtep": {"underlay": ["192.0.2.1/24"], "mac": "0e:00:00:00:00:01"}}`, "vtep.underlay[0]", "192.0.2.1/24"},
		{"no CIDR", `{"network": "pods", "vtep": {"underlay": ["192.0.2.1"], "mac": "0e:00:00:00:00:01"}}`, "cidrs", ""},
		{"a CIDR without a length", `{"network": "pods", "vtep": {"underlay": ["192.0.2.1"], "mac": "0e:00:00:00:00:01"}, "cidrs": ["10.50.0.1"]}`, "cidrs[0]", "10.50.0.1"},
		{"a CIDR with bits beyond", `{"network": "pods", "vtep": {"underlay": ["192.0.2.1"], "mac": "0e:00:00:00:00:01"}, "cidrs": ["10.50.0.1/24"]}`, "cidrs[0]", "10.50.0.1/24"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := config.ParsePeer("vm", []byte(test.input))
			checkMistake(t, err, test.field, test.value)
		})
	}
}
