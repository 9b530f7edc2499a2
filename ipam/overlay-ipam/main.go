// Command overlay-ipam is the IPAM plugin: any CNI main plugin (bridge, ptp,
// macvlan) delegates to it. overlay-vxlan has the same within.
package main

import (
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/cni"
)

func main() {
	os.Exit(cni.MainIPAM(os.Stdout, os.Stderr))
}
