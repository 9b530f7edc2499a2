package space

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Machine is one that claims addresses.
type Machine struct {
	// Node is its name.
	Node string `json:"node"`
	// Instance tells it from others of that name, and outlives its boots.
	Instance string `json:"instance"`
	// Boot names the boot that it is in.
	Boot string `json:"boot"`
}

// is says whether two are the same machine; see the package's documentation.
func (m Machine) is(other Machine) bool {
	agree := 0
	for _, same := range []bool{m.Node == other.Node, m.Instance == other.Instance, m.Boot == other.Boot} {
		if same {
			agree++
		}
	}
	return agree >= 2
}

// Claim is an address with who has it.
type Claim struct {
	Machine
	ipam.Attachment
	Address netip.Addr
	// Since is when the machine's ledger took the address.
	Since time.Time

	revision store.Revision
}

// String names the claim for errors.
func (c *Claim) String() string {
	return fmt.Sprintf("%s by %s on node %s", c.Address, c.Attachment, c.Node)
}

// matches says whether a claim is what the ledger of its machine says.
func (c *Claim) matches(held ipam.Allocation) bool {
	return c.Address == held.Address && c.Since.Equal(held.Since)
}

// claimText is a claim as it is stored. Its address is the key's.
type claimText struct {
	Machine
	Container string    `json:"container"`
	Interface string    `json:"interface"`
	Since     time.Time `json:"since"`
}

const keyPrefix = "addresses/"

func prefix(space string) string { return keyPrefix + space + "/" }

func key(space string, a netip.Addr) string { return prefix(space) + a.String() }

func (c *Claim) encode() ([]byte, error) {
	text, err := json.Marshal(claimText{
		Machine: c.Machine, Container: c.ContainerID, Interface: c.Interface, Since: c.Since.UTC(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode claim of %s: %w", c.Address, err)
	}
	return text, nil
}

// decode reads an entry of the space.
func decode(space string, e store.Entry) (Claim, error) {
	var text claimText
	err := json.Unmarshal(e.Value, &text)
	a, addressErr := netip.ParseAddr(strings.TrimPrefix(e.Key, prefix(space)))
	if err == nil {
		err = addressErr
	}
	if err == nil && key(space, a) != e.Key {
		err = fmt.Errorf("the key of %s is %s", a, key(space, a))
	}
	if err != nil {
		return Claim{}, fmt.Errorf("%w: claim %s: %w", store.ErrCorrupt, e.Key, err)
	}
	return Claim{
		Machine: text.Machine, Attachment: ipam.Attachment{ContainerID: text.Container, Interface: text.Interface},
		Address: a, Since: text.Since, revision: e.Revision,
	}, nil
}

// Claims lists what is claimed of a space, in the order of addresses.
func Claims(ctx context.Context, s store.Store, space string) ([]Claim, error) {
	entries, _, err := s.List(ctx, prefix(space))
	if err != nil {
		return nil, unavailable(fmt.Errorf("list addresses of %s: %w", space, err))
	}
	claims := make([]Claim, 0, len(entries))
	for _, e := range entries {
		c, err := decode(space, e)
		if err != nil {
			return nil, err
		}
		claims = append(claims, c)
	}
	slices.SortFunc(claims, func(a, b Claim) int { return a.Address.Compare(b.Address) })
	return claims, nil
}

// ErrAmbiguous says that claims of one node's name are of several machines.
var ErrAmbiguous = errors.New("several machines have the node's name")

// ReleaseNode frees all that a node has claimed of a space, and returns it. It is
// for the operator who knows that the node won't come back: that it is silent,
// for however long, proves nothing, as its containers may run and use their
// addresses all the same. So nothing else ever frees a dead node's addresses.
//
// Where machines of several instances have claims under the name, instance says
// which one is meant; "" is refused then, with ErrAmbiguous.
func ReleaseNode(ctx context.Context, s store.Store, space, node, instance string) ([]Claim, error) {
	claims, err := Claims(ctx, s, space)
	if err != nil {
		return nil, err
	}
	claims = slices.DeleteFunc(claims, func(c Claim) bool {
		return c.Node != node || instance != "" && c.Instance != instance
	})
	for i := range claims {
		if other := claims[i].Instance; other != claims[0].Instance {
			return nil, fmt.Errorf("%w: node %s has instances %s and %s", ErrAmbiguous, node, claims[0].Instance, other)
		}
	}
	var freed []Claim
	for i := range claims {
		gone, err := remove(ctx, s, space, &claims[i])
		if err != nil {
			return freed, err
		}
		if gone {
			freed = append(freed, claims[i])
		}
	}
	return freed, nil
}

// remove deletes a claim if it is still the one that was seen, and says whether
// it was.
func remove(ctx context.Context, s store.Store, space string, c *Claim) (bool, error) {
	err := s.Delete(ctx, key(space, c.Address), c.revision)
	switch {
	case errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict):
		return false, nil
	case err != nil:
		return false, unavailable(fmt.Errorf("free %s in %s: %w", c.Address, space, err))
	}
	return true, nil
}

// ErrUnavailable says that the store couldn't be used just now.
var ErrUnavailable = errors.New("store is unavailable")

// unavailable marks what the store failed with, unless it can't be put down to
// the moment.
func unavailable(err error) error {
	if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrInvalidKey) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
