// Package nodestate is where the plugin and the daemon meet: a small file per
// network which says what the node has, replaced atomically by whoever
// reconciles the node. With it the plugin needs nobody.
package nodestate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/vtep"
)

// Version is the format that this package writes, and the only one it reads.
const Version = 1

// ErrNotReady says that the node has no state for the network (yet).
var ErrNotReady = errors.New("node is not ready")

// State is what a node has in a network.
type State struct {
	Version int           `json:"version"`
	Network lease.Network `json:"network"`
	Node    string        `json:"node"`
	// Underlay and Firewall are as configured.
	Underlay string           `json:"underlay,omitempty"`
	Firewall firewall.Backend `json:"firewall,omitempty"`
	// VTEP is what STATUS compares the device with.
	VTEP vtep.Spec `json:"vtep"`
	// External are the CIDRs behind external peers, which the packet filter
	// knows.
	External []netip.Prefix `json:"external,omitempty"`
	// Others are the CIDRs of networks that this one is isolated from.
	Others []netip.Prefix `json:"others,omitempty"`
	// Expires is when the lease ends unless it is renewed; zero: never.
	// Deadline is the same by the time since the machine was started, which
	// nobody sets.
	Expires  time.Time     `json:"expires,omitzero"`
	Deadline time.Duration `json:"deadline,omitempty"`
	// Problem says why the node got no further block, if it needs one.
	Problem string `json:"problem,omitempty"`
	// Revision of the store that the node's peers were programmed from.
	Revision store.Revision `json:"revision"`
}

// Blocks are the node's own.
func (s *State) Blocks() []netip.Prefix { return s.VTEP.Blocks }

// Expired says whether the node may no longer give addresses out, by either
// clock.
func (s *State) Expired(now time.Time, uptime time.Duration) bool {
	return !s.Expires.IsZero() && (!now.Before(s.Expires) || uptime >= s.Deadline)
}

// Path returns the file of a network.
func Path(dir, network string) string { return filepath.Join(dir, network+".json") }

// Read returns the state of a network; the error wraps ErrNotReady when there
// is none, or one of another version, which the daemon will replace.
func Read(dir, network string) (*State, error) {
	path := Path(dir, network)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no state of network %s in %s", ErrNotReady, network, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read node state: %w", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%w: node state %s is corrupt: %w", ErrNotReady, path, err)
	}
	if s.Version != Version {
		return nil, fmt.Errorf("%w: node state %s has version %d, want %d", ErrNotReady, path, s.Version, Version)
	}
	if s.Network.Name != network || len(s.VTEP.Blocks) == 0 {
		return nil, fmt.Errorf("%w: node state %s is about network %q with %d blocks", ErrNotReady, path, s.Network.Name, len(s.VTEP.Blocks))
	}
	return &s, nil
}

// List returns all states of a directory.
func List(dir string) ([]*State, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list node states: %w", err)
	}
	var states []*State
	for _, file := range files {
		s, err := Read(dir, strings.TrimSuffix(filepath.Base(file), ".json"))
		if errors.Is(err, ErrNotReady) {
			continue // none that we could have written
		}
		if err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	return states, nil
}

// Write replaces the state of a network. A reader sees the old or the new one,
// whole.
func Write(dir string, s *State) error {
	s.Version = Version
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode node state: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write node state: %w", err)
	}
	temp, err := os.CreateTemp(dir, ".state-*")
	if err != nil {
		return fmt.Errorf("write node state: %w", err)
	}
	_, err = temp.Write(append(data, '\n'))
	if err = errors.Join(err, temp.Chmod(0o644), temp.Close()); err == nil {
		err = os.Rename(temp.Name(), Path(dir, s.Network.Name))
	}
	if err != nil {
		return fmt.Errorf("write node state: %w", errors.Join(err, os.Remove(temp.Name())))
	}
	return nil
}

// Remove deletes the state of a network, so that STATUS says the node isn't
// ready. It is no error when there is none.
func Remove(dir, network string) error {
	if err := os.Remove(Path(dir, network)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove node state: %w", err)
	}
	return nil
}
