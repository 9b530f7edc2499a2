package cni

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/skel"
)

// watchVersion notes the cniVersion of the configuration that a verb is called
// with, for the error object, which repeats it.
func watchVersion(verbs skel.CNIFuncs, version *string) skel.CNIFuncs {
	note := func(verb func(*skel.CmdArgs) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error {
			var c struct {
				CNIVersion string `json:"cniVersion"`
			}
			if json.Unmarshal(args.StdinData, &c) == nil && c.CNIVersion != "" {
				*version = c.CNIVersion
			}
			return verb(args)
		}
	}
	return skel.CNIFuncs{
		Add: note(verbs.Add), Del: note(verbs.Del), Check: note(verbs.Check),
		Status: note(verbs.Status), GC: note(verbs.GC),
	}
}
