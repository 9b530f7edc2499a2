package cni

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/pkg/node"
)

// About is printed when the plugin is run by hand.
const About = "overlay-vxlan attaches pods to a VXLAN overlay network (CNI plugin)"

// Main runs overlay-vxlan on Linux and returns its exit status.
func Main(stdout, stderr io.Writer) int {
	p := &Plugin{
		Dataplane: Linux{},
		Sync:      node.Ensure,
		Stdout:    stdout,
		Stderr:    stderr,
		Log:       slog.New(slog.NewTextHandler(stderr, nil)),
	}
	return Run(p.Funcs(), About, stdout, stderr)
}

// Run dispatches to the verbs, and prints an error as the specification says.
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
