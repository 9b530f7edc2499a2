package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// blockLease is the codec of leases: the object is called after network and
// block, both of which are among its fields.
type blockLease struct{ owner func() Owner }

const leasePrefix = "leases/"

// Labels of a BlockLease, for people. We select by fields of the spec, which
// nobody can take off.
const (
	labelNetwork = Group + "/network"
	labelNode    = Group + "/node"
)

func (blockLease) has(key string) bool { return strings.HasPrefix(key, leasePrefix) }

func (blockLease) fields(prefix string) string {
	network, _, _ := strings.Cut(strings.TrimPrefix(prefix, leasePrefix), "/")
	if prefix == "" || network == "" {
		return ""
	}
	return "spec.network=" + network
}

// leaseName returns what a lease's object is called: the network and the block,
// in which '-' stands for '/' and ':', which a name can't have. No two leases are
// called alike: behind the last dot there is one '-' for IPv4, and three or more
// for IPv6; and neither has one of its own.
func leaseName(network string, block netip.Prefix) string {
	return network + "." + strings.NewReplacer("/", "-", ":", "-").Replace(block.String())
}

// leaseKey is the key of a block in a network, as package lease makes it.
func leaseKey(network string, block netip.Prefix) string {
	return leasePrefix + network + "/" + strings.Replace(block.String(), "/", "-", 1)
}

func (blockLease) object(key string) (string, error) {
	network, text, _ := strings.Cut(strings.TrimPrefix(key, leasePrefix), "/")
	dash := strings.LastIndexByte(text, '-')
	if dash < 0 {
		return "", errors.New("it is not leases/NETWORK/BLOCK")
	}
	block, err := netip.ParsePrefix(text[:dash] + "/" + text[dash+1:])
	if err != nil {
		return "", err
	}
	if leaseKey(network, block) != key || block != block.Masked() || block.Addr().Is4In6() {
		return "", fmt.Errorf("block %s is not written as the network that it is", block)
	}
	name := leaseName(network, block)
	for _, wrong := range [][]string{validation.IsValidLabelValue(network), validation.IsDNS1123Subdomain(network), validation.IsDNS1123Subdomain(name)} {
		if wrong != nil {
			return "", fmt.Errorf("name %s: %s", name, wrong[0])
		}
	}
	return name, nil
}

// leaseFields are those that the object depends on.
type leaseFields struct {
	Network string       `json:"network"`
	Block   netip.Prefix `json:"block"`
	Node    string       `json:"node"`
}

func (b blockLease) encode(key string, value []byte, _ store.Revision) (content, error) {
	if _, err := decodeFields(value); err != nil {
		return content{}, err
	}
	var l leaseFields
	if err := json.Unmarshal(value, &l); err != nil {
		return content{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if leaseKey(l.Network, l.Block) != key {
		return content{}, fmt.Errorf("%w: the value is about block %s of network %q, which is not that of %s", ErrInvalid, l.Block, l.Network, key)
	}
	if wrong := validation.IsValidLabelValue(l.Node); wrong != nil {
		return content{}, fmt.Errorf("%w: node %q: %s", ErrInvalid, l.Node, wrong[0])
	}
	return content{spec: value, labels: map[string]string{labelNetwork: l.Network, labelNode: l.Node}, owners: b.owners(l.Node)}, nil
}

// owners are what a node's lease depends on. Whom another node's depends on is
// not ours to say, but for one who says it of none: what was taken over from a
// node must not go with it.
func (b blockLease) owners(node string) []ownerReference {
	switch own := b.owner(); own.Node {
	case node:
		return []ownerReference{{APIVersion: "v1", Kind: "Node", Name: own.Node, UID: own.UID}}
	case "":
		return []ownerReference{}
	}
	return nil
}

func (blockLease) decode(o *object) (string, []byte, error) {
	var l leaseFields
	if err := json.Unmarshal(o.Spec, &l); err != nil {
		return "", nil, err
	}
	if name := leaseName(l.Network, l.Block); name != o.Metadata.Name {
		return "", nil, fmt.Errorf("it is about block %s of network %q, whose object is %s", l.Block, l.Network, name)
	}
	return leaseKey(l.Network, l.Block), o.Spec, nil
}
