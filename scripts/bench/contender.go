//go:build linux

package main

// The configurations that are compared.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Contenders of the CNI sections.
const (
	emptyPlugin   = "empty plugin"
	own           = "overlay-vxlan"
	ownDaemon     = "overlay-vxlan, overlayd"
	ownPool       = "overlay-vxlan, overlayd, pool"
	ownPortmap    = "overlay-vxlan + portmap"
	ptp           = "ptp + host-local"
	ptpPortmap    = "ptp + host-local + portmap"
	bridge        = "bridge + host-local"
	bridgeMasq    = "bridge + host-local, ipMasq"
	flannelBridge = "flannel + bridge + host-local"
)

// object is a JSON object.
type object = map[string]any

// field is a network, its CIDR and where its state is, different for each
// contender.
type field struct {
	dir   string
	count int
}

// contender makes a configuration list in which every plugin of upstream keeps
// its state below the field's directory.
func (f *field) contender(name string, plugins ...object) (contender, error) {
	f.count++
	return named(name, f.network(), plugins...)
}

// named makes a configuration list for a network of a given name.
func named(name, network string, plugins ...object) (contender, error) {
	list := object{"cniVersion": "1.1.0", "name": network, "plugins": plugins}
	data, err := json.Marshal(list)
	if err != nil {
		return contender{}, fmt.Errorf("encode configuration of %s: %w", name, err)
	}
	return contender{Name: name, Conflist: data}, nil
}

func (f *field) network() string      { return fmt.Sprintf("bench%d", f.count) }
func (f *field) path(p string) string { return filepath.Join(f.dir, p) }

// next returns the /16 of the contender that is made next.
func (f *field) next() string { return fmt.Sprintf("10.%d.0.0/16", 101+f.count) }

// ours is our plugin without a daemon.
func (f *field) ours() object {
	own := f.path(fmt.Sprintf("own%d", f.count))
	return object{
		"type": ownPlugin, "daemon": false, "node": "n1",
		"network": object{"cidrs": []string{f.next()}, "vni": 5000 + f.count},
		"runDir":  own + "/run", "dataDir": own + "/data",
	}
}

func (f *field) ipam() object {
	return object{
		"type": "host-local", "dataDir": f.path("host-local"),
		"ranges": [][]object{{{"subnet": f.next()}}},
	}
}

func (f *field) ptp() object {
	ipam := f.ipam()
	ipam["routes"] = []object{{"dst": "0.0.0.0/0"}} // bridge adds it by itself
	return object{"type": "ptp", "ipMasq": false, "ipam": ipam}
}

func (f *field) bridge(masquerade bool) object {
	return object{
		"type": "bridge", "bridge": fmt.Sprintf("bench%d", f.count),
		"isDefaultGateway": true, "ipMasq": masquerade, "ipam": f.ipam(),
	}
}

func portmap() object {
	return object{"type": "portmap", "capabilities": object{"portMappings": true}}
}

// flannel is Flannel's own plugin with what its daemon would have written.
func (f *field) flannel() (object, error) {
	const env = "FLANNEL_NETWORK=10.90.0.0/16\nFLANNEL_SUBNET=10.90.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
	file := f.path("flannel-subnet.env")
	if err := os.WriteFile(file, []byte(env), 0o600); err != nil {
		return nil, fmt.Errorf("write Flannel's subnet file: %w", err)
	}
	return object{
		"type": "flannel", "subnetFile": file, "dataDir": f.path("flannel"),
		"ipam":     object{"dataDir": f.path("host-local")},
		"delegate": object{"bridge": "benchflannel", "isDefaultGateway": true},
	}, nil
}

// all returns the contenders of the section "cni".
func (f *field) all(withFlannel bool) ([]contender, error) {
	var made []contender
	var failed error
	add := func(name string, plugins ...object) {
		c, err := f.contender(name, plugins...)
		if err != nil {
			failed = err
		}
		made = append(made, c)
	}
	add(emptyPlugin, object{"type": "empty"})
	add(own, f.ours())
	add(ptp, f.ptp())
	add(bridge, f.bridge(false))
	add(ownPortmap, f.ours(), portmap())
	add(ptpPortmap, f.ptp(), portmap())
	add(bridgeMasq, f.bridge(true))
	if withFlannel && failed == nil {
		plugin, err := f.flannel()
		if err != nil {
			return nil, err
		}
		add(flannelBridge, plugin)
	}
	return made, failed
}
