//go:build linux

package main

// A node's overlayd.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// daemonPatience is how long overlayd may take to be ready.
const daemonPatience = 20 * time.Second

// health is where overlayd answers, on every node.
const health = "127.0.0.1:9480"

// errEnded says that a daemon died.
var errEnded = errors.New("ended")

type daemon struct {
	bin   string
	node  *lab.Node
	dir   string // its own
	store string // that of all nodes: a folder
	etcd  *etcd  // in its place
	// networks are what the daemon keeps.
	networks []object

	command *lab.Command
	output  bytes.Buffer
	ended   chan error
}

// serves makes the configuration list of a plugin that is served by the daemon,
// in its i-th network.
func (d *daemon) serves(name string, i int) (contender, error) {
	return named(name, fmt.Sprint(d.networks[i]["name"]), object{
		"type": ownPlugin, "node": d.node.Name(),
		"runDir": filepath.Join(d.dir, "run"), "dataDir": filepath.Join(d.dir, "data"),
	})
}

// start runs the daemon and waits until it is ready.
func (d *daemon) start(ctx context.Context) error {
	if err := d.launch(ctx); err != nil {
		return err
	}
	return d.await(ctx)
}

// launch runs the daemon.
func (d *daemon) launch(ctx context.Context) error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return fmt.Errorf("start overlayd: %w", err)
	}
	store := object{"type": "local", "path": d.store}
	if d.etcd != nil {
		store = object{"type": "etcd", "endpoints": d.etcd.cluster.Endpoints(), "prefix": d.etcd.prefix}
	}
	config, err := json.Marshal(object{ // which is YAML, too
		"node": d.node.Name(), "runDir": filepath.Join(d.dir, "run"), "dataDir": filepath.Join(d.dir, "data"),
		"store": store, "health": health, "networks": d.networks,
	})
	if err != nil {
		return fmt.Errorf("encode configuration of overlayd: %w", err)
	}
	file := filepath.Join(d.dir, "overlayd.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return fmt.Errorf("write configuration of overlayd: %w", err)
	}
	d.command = d.node.Command(ctx, filepath.Join(d.bin, "overlayd"), "-config", file)
	d.command.Stdout, d.command.Stderr = &d.output, &d.output
	if err := d.command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- d.command.Wait() }()
	d.ended = ended
	return nil
}

func (d *daemon) pid() int { return d.command.Process.Pid }

// stop ends the daemon as a service manager does.
func (d *daemon) stop() error { return stop(d.command) }

// await asks the daemon until it says that it is ready.
func (d *daemon) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	client := &http.Client{Transport: &http.Transport{DialContext: d.dial, DisableKeepAlives: true}}
	for {
		if err := ask(ctx, client); err == nil {
			return nil
		}
		select {
		case <-again.C:
		case err := <-d.ended:
			return fmt.Errorf("overlayd on %s %w: %w\n%s", d.node.Name(), errEnded, err, d.output.String())
		case <-ctx.Done():
			return fmt.Errorf("overlayd on %s is not ready: %w", d.node.Name(), ctx.Err())
		}
	}
}

// dial connects from within the node.
func (d *daemon) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = d.node.Do(func() (err error) {
		// Dialling an address of the loopback starts no goroutine.
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func ask(ctx context.Context, client *http.Client) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+health+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask overlayd: %w", err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask overlayd: %w", err)
	}
	defer func() { _ = answer.Body.Close() }() // only the status matters
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask overlayd: %s", answer.Status)
	}
	return nil
}
