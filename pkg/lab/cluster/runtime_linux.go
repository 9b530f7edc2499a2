package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// dial connects to the daemon's health port; the caller is in the namespace.
func (n *Node) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", health)
}

// Conflist is the node's network configuration, as it would stand in
// /etc/cni/net.d.
func (n *Node) Conflist() ([]byte, error) {
	o := &n.cluster.options
	plugin := map[string]any{
		"type": "overlay-vxlan", "runDir": n.RunDir(), "dataDir": n.DataDir(), "node": n.Name(),
		"capabilities": map[string]bool{"ips": true, "mac": true},
	}
	if o.NoDaemon {
		spec, err := n.cluster.spec()
		if err != nil {
			return nil, err
		}
		plugin["network"], plugin["daemon"] = spec, false
	}
	if o.IPAM != "" {
		plugin["ipam"] = json.RawMessage(o.IPAM)
	}
	plugins := []any{plugin}
	for _, next := range o.Chain {
		plugins = append(plugins, json.RawMessage(next))
	}
	data, err := json.MarshalIndent(map[string]any{"cniVersion": o.CNIVersion, "name": Network, "plugins": plugins}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode conflist: %w", err)
	}
	return data, nil
}

// CNI returns the CNI library, as a runtime on the node uses it, and the
// network configuration.
func (n *Node) CNI() (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	conflist, err := n.Conflist()
	if err != nil {
		return nil, nil, err
	}
	list, err := libcni.NetworkConfFromBytes(conflist)
	if err != nil {
		return nil, nil, fmt.Errorf("read conflist: %w", err)
	}
	path := append([]string{n.cluster.options.Bin}, n.cluster.options.Path...)
	return libcni.NewCNIConfigWithCacheDir(path, filepath.Join(n.Dir(), "cni-cache"), &execution{node: n.Node}), list, nil
}

// execution runs plugins in the node's namespace.
type execution struct {
	node *lab.Node
	version.PluginDecoder
}

// ExecPlugin implements invoke.Exec.
func (e *execution) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := e.node.Command(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var refused types.Error
	if json.Unmarshal(stdout.Bytes(), &refused) == nil && refused.Msg != "" {
		return nil, &refused
	}
	return nil, fmt.Errorf("run %s: %w: %s%s", filepath.Base(path), err, stdout.Bytes(), stderr.Bytes())
}

// FindInPath implements invoke.Exec.
func (e *execution) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// Pod is a pod with its interface eth0 in the cluster's network.
type Pod struct {
	*lab.Pod
	node         *Node
	capabilities map[string]any // as given to ADD, for the other verbs
	// Result of ADD.
	Result *types100.Result
}

// AddPod makes a pod and attaches it.
func (n *Node) AddPod(ctx context.Context, name string) (*Pod, error) {
	pod, err := n.NewPod(name)
	if err != nil {
		return nil, err
	}
	p := Attach(n, pod)
	return p, p.Add(ctx, nil)
}

// Attach returns a pod of the node that isn't attached yet: Add does that.
func Attach(n *Node, pod *lab.Pod) *Pod { return &Pod{Pod: pod, node: n} }

// Runtime is the runtime's configuration for the pod's attachment.
func (p *Pod) Runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.ContainerID(), NetNS: p.Path(), IfName: "eth0", CapabilityArgs: p.capabilities,
	}
}

// Add calls ADD for the pod.
func (p *Pod) Add(ctx context.Context, capabilities map[string]any) error {
	cni, list, err := p.node.CNI()
	if err != nil {
		return err
	}
	p.capabilities = capabilities
	raw, err := cni.AddNetworkList(ctx, list, p.Runtime())
	if err != nil {
		return fmt.Errorf("ADD %s: %w", p.Name(), err)
	}
	if p.Result, err = types100.NewResultFromResult(raw); err != nil {
		return fmt.Errorf("ADD %s: read result: %w", p.Name(), err)
	}
	return nil
}

// Check calls CHECK for the pod.
func (p *Pod) Check(ctx context.Context) error {
	cni, list, err := p.node.CNI()
	if err != nil {
		return err
	}
	return cni.CheckNetworkList(ctx, list, p.Runtime())
}

// Del calls DEL for the pod.
func (p *Pod) Del(ctx context.Context) error {
	cni, list, err := p.node.CNI()
	if err != nil {
		return err
	}
	if err := cni.DelNetworkList(ctx, list, p.Runtime()); err != nil {
		return fmt.Errorf("DEL %s: %w", p.Name(), err)
	}
	return nil
}

// Status calls STATUS.
func (n *Node) Status(ctx context.Context) error {
	cni, list, err := n.CNI()
	if err != nil {
		return err
	}
	return cni.GetStatusNetworkList(ctx, list)
}

// Alone calls STATUS of a plugin that is configured to work without a daemon.
func (n *Node) Alone(ctx context.Context) error {
	alone := *n.cluster
	alone.options.NoDaemon = true
	return (&Node{Node: n.Node, cluster: &alone}).Status(ctx)
}

// GC calls GC with the pods that are left.
func (n *Node) GC(ctx context.Context, left ...*Pod) error {
	cni, list, err := n.CNI()
	if err != nil {
		return err
	}
	args := &libcni.GCArgs{}
	for _, p := range left {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: p.ContainerID(), IfName: "eth0"})
	}
	return cni.GCNetworkList(ctx, list, args)
}

// Addresses returns the pod's addresses, in the order of the result.
func (p *Pod) Addresses() []netip.Addr {
	var addresses []netip.Addr
	for _, ip := range p.Result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addresses = append(addresses, a.Unmap())
		}
	}
	return addresses
}

// String names the pod as people do: node/pod.
func (p *Pod) String() string { return strings.Replace(p.Name(), "_", "/", 1) }
