// Command overlay-vxlan is the CNI plugin: the runtime executes it for every
// pod. It attaches the pod to an overlay network, and needs nobody for that but
// the node state that the daemon wrote.
package main

import (
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/cni"
)

func main() {
	os.Exit(cni.Main(os.Stdout, os.Stderr))
}
