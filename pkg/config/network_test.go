package config_test

import (
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// networkMistakes are of a specification, wherever it stands.
func networkMistakes() []mistake {
	const cidrs = `"cidrs": ["10.244.0.0/16", "fd00:10:244::/48"]`
	return []mistake{
		{"no CIDRs", `{}`, "cidrs", ""},
		{"null CIDRs", `{"cidrs": null}`, "cidrs", ""},
		{"an empty list of CIDRs", `{"cidrs": []}`, "cidrs", ""},
		{"CIDRs that aren't a list", `{"cidrs": "10.244.0.0/16"}`, "cidrs", "10.244.0.0/16"},
		{"CIDRs that aren't text", `{"cidrs": [10]}`, "cidrs", "[10]"},
		{"a CIDR that is null", `{"cidrs": [null]}`, "cidrs[0]", ""},
		{"an address", `{"cidrs": ["10.244.0.0"]}`, "cidrs[0]", "10.244.0.0"},
		{"a CIDR out of range", `{"cidrs": ["10.244.0.0/16", "10.256.0.0/16"]}`, "cidrs[1]", "10.256.0.0/16"},
		{"a length out of range", `{"cidrs": ["10.244.0.0/33"]}`, "cidrs[0]", "10.244.0.0/33"},
		{"leading zeros", `{"cidrs": ["010.244.0.0/16"]}`, "cidrs[0]", "010.244.0.0/16"},
		{"bits beyond the length", `{"cidrs": ["10.244.1.0/16"]}`, "cidrs[0]", "10.244.1.0/16"},
		{"an IPv4-mapped CIDR", `{"cidrs": ["::ffff:10.244.0.0/112"]}`, "cidrs[0]", "::ffff:10.244.0.0/112"},
		{"a zone", `{"cidrs": ["fd00::%eth0/64"]}`, "cidrs[0]", "fd00::%eth0/64"},
		{"CIDRs that overlap", `{"cidrs": ["10.0.0.0/8", "10.244.0.0/16"]}`, "cidrs[1]", "10.244.0.0/16"},
		{"link-local", `{"cidrs": ["fe80::/64"]}`, "cidrs[0]", "fe80::/64"},
		{"a block length that isn't an object", `{` + cidrs + `, "blockLength": 24}`, "blockLength", "24"},
		{"a block length that is text", `{` + cidrs + `, "blockLength": {"ipv4": "24"}}`, "blockLength.ipv4", "24"},
		{"a block length with a fraction", `{` + cidrs + `, "blockLength": {"ipv4": 24.5}}`, "blockLength.ipv4", "24.5"},
		{"a block length of zero", `{` + cidrs + `, "blockLength": {"ipv4": 0}}`, "blockLength.ipv4", "0"},
		{"blocks larger than the CIDR", `{` + cidrs + `, "blockLength": {"ipv4": 15}}`, "blockLength.ipv4", "15"},
		{"blocks larger than the CIDR, IPv6", `{` + cidrs + `, "blockLength": {"ipv6": 47}}`, "blockLength.ipv6", "47"},
		{"blocks too small", `{` + cidrs + `, "blockLength": {"ipv4": 31}}`, "blockLength.ipv4", "31"},
		{"blocks too small, IPv6", `{` + cidrs + `, "blockLength": {"ipv6": 127}}`, "blockLength.ipv6", "127"},
		{"VNI 0", `{` + cidrs + `, "vni": 0}`, "vni", "0"},
		{"a VNI of 25 bits", `{` + cidrs + `, "vni": 16777216}`, "vni", "16777216"},
		{"a VNI below zero", `{` + cidrs + `, "vni": -1}`, "vni", "-1"},
		{"a VNI in words", `{` + cidrs + `, "vni": "abc"}`, "vni", "abc"},
		{"a VNI as text", `{` + cidrs + `, "vni": "4096"}`, "vni", "4096"},
		{"a VNI beyond all integers", `{` + cidrs + `, "vni": 99999999999999999999}`, "vni", "99999999999999999999"},
		{"a VNI with an exponent", `{` + cidrs + `, "vni": 4e3}`, "vni", "4e3"},
		{"a VNI that is true", `{` + cidrs + `, "vni": true}`, "vni", "true"},
		{"port 0", `{` + cidrs + `, "port": 0}`, "port", "0"},
		{"a port of 17 bits", `{` + cidrs + `, "port": 65536}`, "port", "65536"},
		{"a port in words", `{` + cidrs + `, "port": "vxlan"}`, "port", "vxlan"},
		{"an MTU in words", `{` + cidrs + `, "mtu": "large"}`, "mtu", "large"},
		{"an MTU as text", `{` + cidrs + `, "mtu": "1400"}`, "mtu", "1400"},
		{"an MTU of zero", `{` + cidrs + `, "mtu": 0}`, "mtu", "0"},
		{"an MTU too small for IPv6", `{` + cidrs + `, "mtu": 1000}`, "mtu", "1000"},
		{"an MTU too large", `{` + cidrs + `, "mtu": 65536}`, "mtu", "65536"},
		{"masquerade that isn't an object", `{` + cidrs + `, "masquerade": false}`, "masquerade", "false"},
		{"masquerade enabled by a word", `{` + cidrs + `, "masquerade": {"enabled": "yes"}}`, "masquerade.enabled", "yes"},
		{"an exclusion that isn't a CIDR", `{` + cidrs + `, "masquerade": {"exclude": ["lan"]}}`, "masquerade.exclude[0]", "lan"},
		{"an exclusion with bits beyond its length", `{` + cidrs + `, "masquerade": {"exclude": ["10.0.0.0/8", "192.168.1.0/16"]}}`, "masquerade.exclude[1]", "192.168.1.0/16"},
		{"an IPv4-mapped exclusion", `{` + cidrs + `, "masquerade": {"exclude": ["::ffff:10.0.0.0/104"]}}`, "masquerade.exclude[0]", "::ffff:10.0.0.0/104"},
		{"open by a word", `{` + cidrs + `, "open": "yes"}`, "open", "yes"},
		{"the last of two fields counts", `{` + cidrs + `, "vni": 5000, "vni": 0}`, "vni", "0"},
	}
}

func TestParseNetworkMistakes(t *testing.T) {
	t.Parallel()
	checkMalformed(t, func(data []byte) error {
		_, _, err := config.ParseNetwork("pods", data)
		return err
	})
	for _, test := range networkMistakes() {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n, _, err := config.ParseNetwork("pods", []byte(test.input))
			checkMistake(t, err, test.field, test.value)
			if n.Name != "" {
				t.Errorf("got a network all the same: %+v", n)
			}
		})
	}
	_, _, err := config.ParseNetwork("Pods", []byte(`{"cidrs": ["10.244.0.0/16"]}`))
	checkMistake(t, err, "name", "Pods")
	_, _, err = config.ParseNetwork("", []byte(`null`))
	checkMistake(t, err, "name", "")
}

// TestParseNetworkSays: what is said of block lengths, pools and selectors is
// about what stands in the JSON, and tells what may stand there.
func TestParseNetworkSays(t *testing.T) {
	t.Parallel()
	const cidrs, pool = `"cidrs": ["10.244.0.0/16"]`, `"cidr": "10.9.0.0/20"`
	for _, test := range []struct{ name, input, want string }{
		{"a number for both families", `{` + cidrs + `, "blockLength": 24}`, `blockLength: "24": is not an object such as {"ipv4": 24, "ipv6": 64}`},
		{"zero for both families", `{` + cidrs + `, "blockLength": 0}`, `blockLength: "0": is not an object such as {"ipv4": 24, "ipv6": 64}`},
		{"zero", `{` + cidrs + `, "blockLength": {"ipv4": 0}}`, `blockLength.ipv4: "0": must be a number within 1..30`},
		{"beside pools", `{"pools": [{` + pool + `}], "blockLength": {"ipv4": 26}}`, `blockLength.ipv4: "26": is each pool's own where there are pools`},
		{"beside pools, IPv6", `{"pools": [{` + pool + `}], "blockLength": {"ipv6": 122}}`, `blockLength.ipv6: "122": is each pool's own where there are pools`},
		{"a pool's is zero", `{"pools": [{` + pool + `, "blockLength": 0}]}`, `pools[0].blockLength: "0": must be a number within 20..30`},
		{"a pool's is zero, IPv6", `{"pools": [{"cidr": "fd00::/64", "blockLength": 0}]}`, `pools[0].blockLength: "0": must be a number within 64..126`},
		{"a pool's is of the other family", `{"pools": [{` + pool + `, "blockLength": 122}]}`, `pools[0].blockLength: "122": must be a number within 20..30`},
		{"a pool's is shorter than the CIDR", `{"pools": [{` + pool + `, "blockLength": 19}]}`, `pools[0].blockLength: "19": must be a number within 20..30`},
		{"a pool too small", `{"pools": [{"cidr": "10.9.0.0/31", "blockLength": 26}]}`, `pools[0].cidr: "10.9.0.0/31": is too small: no block of /30 fits in`},
		{"no pool", `{"cidrs": [], "pools": [ ]}`, `pools: "[]": has no pool, and there are no cidrs`},
		{"null pools", `{"pools": null}`, `cidrs: "": at least one CIDR is needed, here or in pools`},
		{"pools that aren't a list", `{"pools": {}}`, `pools: "{}": is not a list of pools`},
		{"neither", `{}`, `cidrs: "": at least one CIDR is needed, here or in pools`},
		{"both", `{` + cidrs + `, "pools": [{` + pool + `}]}`, `pools: "10.9.0.0/20": can't stand beside cidrs: each pool has its own`},
		{"a selector with a number", `{"pools": [{` + pool + `, "nodeSelector": {"zone": 1}}]}`, `pools[0].nodeSelector.zone: "1": is not a string`},
		{"a selector with true", `{"pools": [{` + pool + `, "nodeSelector": {"a": "b", "c/d": true}}]}`, `pools[0].nodeSelector.c/d: "true": is not a string`},
		{"a selector with null", `{"pools": [{` + pool + `, "nodeSelector": {"zone": null}}]}`, `pools[0].nodeSelector.zone: "null": is not a string`},
		{"a selector that is a list", `{"pools": [{` + pool + `, "nodeSelector": ["zone"]}]}`, `pools[0].nodeSelector: "[\"zone\"]": is not an object of strings`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := config.ParseNetwork("pods", []byte(test.input)); err == nil || err.Error() != test.want {
				t.Errorf("%s: got %v, want %s", test.input, err, test.want)
			}
		})
	}
}

func TestParseNetwork(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		input string
		want  lease.Network
	}{
		{
			"two lines of configuration", `{"cidrs": ["10.244.0.0/16"]}`,
			lease.Network{VNI: 4096, Port: 4789, CIDRs: prefixes("10.244.0.0/16"), BlockLength: lease.BlockLength{IPv4: 24}},
		},
		{
			"null is the default", `{"cidrs": ["fd00::/48"], "vni": null, "port": null, "mtu": null, "blockLength": null, "masquerade": null}`,
			lease.Network{VNI: 4096, Port: 4789, CIDRs: prefixes("fd00::/48"), BlockLength: lease.BlockLength{IPv6: 64}},
		},
		{
			"auto is the default", `{"cidrs": ["10.244.0.0/16"], "mtu": "auto"}`,
			lease.Network{VNI: 4096, Port: 4789, CIDRs: prefixes("10.244.0.0/16"), BlockLength: lease.BlockLength{IPv4: 24}},
		},
		{
			"everything",
			`{"cidrs": ["10.0.0.0/8", "fd00:10::/32"], "blockLength": {"ipv4": 26, "ipv6": 122}, "vni": 16777215, "port": 8472, "open": true,
			  "mtu": 8950, "masquerade": {"enabled": false, "exclude": ["192.168.0.0/16", "2001:db8::/32"]}}`,
			lease.Network{
				VNI: 16777215, Port: 8472, MTU: 8950, Open: true, CIDRs: prefixes("10.0.0.0/8", "fd00:10::/32"),
				BlockLength: lease.BlockLength{IPv4: 26, IPv6: 122},
				Masquerade:  lease.Masquerade{Disabled: true, Exclude: prefixes("192.168.0.0/16", "2001:db8::/32")},
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.want.Name = "pods"
			n, warnings, err := config.ParseNetwork("pods", []byte(test.input))
			if err != nil || !n.Equal(&test.want) {
				t.Errorf("got %+v, %v, want %+v", n, err, test.want)
			}
			checkWarnings(t, warnings)
		})
	}
}

func TestParseNetworkUnknownFields(t *testing.T) {
	t.Parallel()
	n, warnings, err := config.ParseNetwork("pods", []byte(`{
		"cidrs": ["10.244.0.0/16"], "VNI": 7, "direct": "never",
		"blockLength": {"v4": 26}, "masquerade": {"excludes": []}}`))
	if err != nil || n.VNI != lease.DefaultVNI {
		t.Errorf("got %+v, %v", n, err)
	}
	checkWarnings(t, warnings, "VNI", "direct", "blockLength.v4", "masquerade.excludes")
}
