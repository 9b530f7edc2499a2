package lab

// Nodes and the pods on them, as a container runtime would hand them to CNI.

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// A Node is a machine that pods run on.
type Node struct {
	*Machine
}

// A Pod is what a container runtime gives to CNI: an empty namespace with lo
// up, and a container's name. [Host.Path] is its CNI_NETNS.
type Pod struct {
	*Host
	node        *Node
	containerID string
}

// NewPod makes a pod's namespace on the node. The name is unique on the node;
// that of a closed pod is free again.
func (n *Node) NewPod(name string) (*Pod, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("make pod: %w", err)
	}
	n.power.Lock()
	defer n.power.Unlock()
	if !n.isOn() {
		return nil, fmt.Errorf("make pod %s on %s: %w", name, n.name, ErrDown)
	}
	if _, taken := n.pods[name]; taken {
		return nil, fmt.Errorf("make pod %s on %s: %w", name, n.name, ErrExists)
	}
	id := make([]byte, 32)
	rand.Read(id)
	// No host's name has an underscore, so no other namespace has this name.
	host := newHost(n.lab, n.name+"_"+name, filepath.Join(n.dir, "pods", name))
	if err := host.powerOn(); err != nil {
		return nil, fmt.Errorf("make pod: %w", err)
	}
	p := &Pod{Host: host, node: n, containerID: hex.EncodeToString(id)}
	n.pods[name] = p
	return p, nil
}

// Node returns the node the pod is on.
func (p *Pod) Node() *Node { return p.node }

// ContainerID returns the 64 hexadecimal digits that stand for the pod's
// sandbox, for CNI_CONTAINERID.
func (p *Pod) ContainerID() string { return p.containerID }

// Close ends the pod's processes and removes its namespace and its directory,
// as a runtime does after CNI's DEL. A pod that is gone stays so.
func (p *Pod) Close() error {
	p.node.power.Lock()
	defer p.node.power.Unlock()
	if !p.isOn() {
		return nil
	}
	delete(p.node.pods, filepath.Base(p.dir))
	if err := errors.Join(p.lab.endHosts([]*Host{p.Host}), os.RemoveAll(p.dir)); err != nil {
		return fmt.Errorf("close pod %s: %w", p.name, err)
	}
	return nil
}
