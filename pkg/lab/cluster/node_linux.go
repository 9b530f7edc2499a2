package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// Node is a node of the cluster.
type Node struct {
	*lab.Node
	// Daemon holds further fields of this node's daemon's configuration.
	Daemon map[string]any

	cluster *Cluster
	daemon  *lab.Command
	log     *os.File
}

// RunDir is the plugin's and the daemon's run directory; a power-off loses it.
func (n *Node) RunDir() string { return filepath.Join(n.Node.RunDir(), "overlay-cni") }

// DataDir is their data directory, which a power-off keeps.
func (n *Node) DataDir() string { return filepath.Join(n.Dir(), "lib") }

// LogPath is the daemon's log.
func (n *Node) LogPath() string { return filepath.Join(n.Dir(), "overlayd.log") }

// StartDaemon starts overlayd and waits until it is ready.
func (n *Node) StartDaemon(ctx context.Context) error {
	if err := n.LaunchDaemon(ctx); err != nil {
		return err
	}
	if err := n.WaitReady(ctx); err != nil {
		return fmt.Errorf("overlayd of %s: %w; its log:\n%s", n.Name(), err, n.Log())
	}
	return nil
}

// LaunchDaemon starts overlayd without waiting for it.
func (n *Node) LaunchDaemon(ctx context.Context) error {
	path, err := n.writeDaemonConfig()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(n.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of overlayd: %w", err)
	}
	n.log = log
	n.daemon = n.Command(context.WithoutCancel(ctx), filepath.Join(n.cluster.options.Bin, "overlayd"), "-config", path, "-log-level", "debug")
	n.daemon.Stdout, n.daemon.Stderr = log, log
	if err := n.daemon.Start(); err != nil {
		return errors.Join(fmt.Errorf("start overlayd on %s: %w", n.Name(), err), log.Close())
	}
	return nil
}

// Leave takes the node, whose daemon is stopped, out of all networks.
func (n *Node) Leave(ctx context.Context) (output string, err error) {
	path, err := n.writeDaemonConfig()
	if err != nil {
		return "", err
	}
	out, err := n.Command(ctx, filepath.Join(n.cluster.options.Bin, "overlayd"), "-config", path, "leave").CombinedOutput()
	return string(out), err
}

const health = "127.0.0.1:9480"

func (n *Node) writeDaemonConfig() (string, error) {
	spec, err := n.cluster.spec()
	if err != nil {
		return "", err
	}
	spec["name"] = Network
	config := map[string]any{
		"node": n.Name(), "runDir": n.RunDir(), "dataDir": n.DataDir(), "health": health,
		"store": map[string]any{"type": "local", "path": n.cluster.store}, "networks": []any{spec},
	}
	for name, value := range n.cluster.options.Daemon {
		config[name] = value
	}
	for name, value := range n.Daemon {
		config[name] = value
	}
	maps.DeleteFunc(config, func(_ string, value any) bool { return value == nil })
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode configuration of overlayd: %w", err)
	}
	path := filepath.Join(n.Dir(), "overlayd.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return "", fmt.Errorf("write configuration of overlayd: %w", err)
	}
	return path, nil
}

// readyPause is the time between two questions to /readyz.
const readyPause = 10 * time.Millisecond

// WaitReady waits until the daemon's /readyz answers 200.
func (n *Node) WaitReady(ctx context.Context) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(readyPause)
	defer tick.Stop()
	for {
		status, err := n.Health(ctx, "/readyz")
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not ready (status %d, %w)", status, errors.Join(err, ctx.Err()))
		}
	}
}

// Health asks the daemon for a path and returns the status.
func (n *Node) Health(ctx context.Context, path string) (status int, err error) {
	err = n.Do(func() error {
		conn, err := n.dial(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+health+path, nil)
		if err != nil {
			return err
		}
		if err := request.Write(conn); err != nil {
			return err
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), request)
		if err != nil {
			return err
		}
		status = response.StatusCode
		return response.Body.Close()
	})
	return status, err
}

// StopDaemon ends overlayd as systemd would.
func (n *Node) StopDaemon() error {
	if err := n.daemon.Process.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("stop overlayd of %s: %w", n.Name(), err)
	}
	return n.reap(n.daemon.Wait())
}

// KillDaemon ends overlayd with SIGKILL.
func (n *Node) KillDaemon() error {
	if err := n.daemon.Kill(); err != nil {
		return fmt.Errorf("kill overlayd of %s: %w", n.Name(), err)
	}
	_ = n.daemon.Wait() // says that it was killed
	return n.reap(nil)
}

// WaitDaemon waits for overlayd to end by itself, and returns how it did.
func (n *Node) WaitDaemon() error { return n.reap(n.daemon.Wait()) }

func (n *Node) reap(err error) error {
	n.daemon = nil
	return errors.Join(err, n.log.Close())
}

// Log returns what the daemon has logged.
func (n *Node) Log() string {
	data, err := os.ReadFile(n.LogPath())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

// State returns the node's state in the network.
func (n *Node) State() (*nodestate.State, error) { return nodestate.Read(n.RunDir(), Network) }

// LedgerPath is the node's IPAM ledger of the network.
func (n *Node) LedgerPath() string {
	return (&config.Node{DataDir: n.DataDir()}).LedgerPath(Network)
}
