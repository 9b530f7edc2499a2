package node

import (
	"fmt"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

// warnOfStrangers tells, once of each, who sends VXLAN packets of the network and is
// none of its peers. The packets are dropped, so that the network does without them.
func (n *Network) warnOfStrangers(r *firewall.Rules) {
	found, err := n.Firewall.Strangers(r)
	if err != nil {
		n.Log.Warn("strangers aren't known", "network", n.Spec.Name, "error", err)
		return
	}
	for _, a := range found {
		if !slices.Contains(n.strangers, a) {
			n.Log.Warn(fmt.Sprintf("VXLAN packets of VNI %d come from %s, which is no node of network %s: does another cluster use the same VNI and port?",
				r.VNI, a, n.Spec.Name))
		}
	}
	n.strangers = found
}
