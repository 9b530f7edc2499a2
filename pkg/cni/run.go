package cni

import (
	"fmt"
	"io"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// About is printed when the plugin is run by hand.
const About = "overlay-vxlan attaches pods to a VXLAN overlay network (CNI plugin)"

// Run dispatches to the verbs, and prints an error as the specification says.
// It returns the exit status.
func Run(verbs skel.CNIFuncs, about string, stdout, stderr io.Writer) int {
	version := types100.ImplementedSpecVersion
	e := skel.PluginMainFuncsWithError(watchVersion(verbs, &version), Versions(), about)
	if e == nil {
		return 0
	}
	if err := PrintError(stdout, version, e); err != nil {
		fmt.Fprintln(stderr, err)
	}
	return 1
}
