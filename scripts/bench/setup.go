//go:build linux

package main

// The set-ups that traffic is measured in: two nodes with a pod each.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// setup is two nodes, a pod on each, and traffic between the pods.
type setup struct {
	name      string
	nodes     [2]*lab.Node
	pods      [2]*lab.Pod
	addresses [2]netip.Addr
	mtu       int
	traffic   *traffic
}

// builder makes set-ups in one lab.
type builder struct {
	lab     *lab.Lab
	options *options
	dir     string
	count   int
	mtu     int // of the pods of our own set-up, once there is one
}

// build makes the set-up that was asked for.
func (b *builder) build(ctx context.Context, what string) (*setup, error) {
	b.count++
	s := &setup{name: what}
	for i := range s.nodes {
		var err error
		if s.nodes[i], err = b.lab.AddNode(fmt.Sprintf("s%dn%d", b.count, i+1), "a"); err != nil {
			return nil, err
		}
		if s.pods[i], err = s.nodes[i].NewPod("pod"); err != nil {
			return nil, err
		}
	}
	if err := b.fill(ctx, s); err != nil {
		return nil, fmt.Errorf("set up %s: %w", what, err)
	}
	return s, s.connect(ctx)
}

// fill makes what the set-up's name says.
func (b *builder) fill(ctx context.Context, s *setup) error {
	kind, rules, _ := strings.Cut(s.name, "+")
	switch kind {
	case "ours", "norules":
		return b.overlay(ctx, s, kind == "norules")
	case "routed":
		return b.plain(s, false)
	case "masquerade":
		if err := b.plain(s, true); err != nil {
			return err
		}
		return load(ctx, s, "-", masquerade(b.options.family))
	case "plain":
		if err := b.plain(s, true); err != nil || rules == "" {
			return err
		}
		return load(ctx, s, rules, "")
	}
	return errors.New("there are only ours, norules, plain, masquerade, routed and plain+FILE")
}

// masquerade is what any network needs whose pods have private addresses.
func masquerade(family string) string {
	pods := "ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16"
	if family == "ipv6" {
		pods = "ip6 saddr fd00:10:244::/48 ip6 daddr != fd00:10:244::/48"
	}
	return "table inet plain { chain postrouting { type nat hook postrouting priority srcnat; " + pods + " masquerade; }; }"
}

func (b *builder) buildAll(ctx context.Context, names []string) ([]*setup, error) {
	var made []*setup
	for _, what := range names {
		s, err := b.build(ctx, what)
		if err != nil {
			return nil, err
		}
		made = append(made, s)
	}
	return made, nil
}

// connect waits until the pods reach each other, and starts the traffic.
func (s *setup) connect(ctx context.Context) (err error) {
	for i := range s.pods {
		if _, err := s.pods[i].Ping(ctx, s.addresses[1-i]); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	s.traffic, err = newTraffic(ctx, s.pods[0].Host, s.pods[1].Host, s.addresses[1])
	return err
}

// overlay is this project's: a daemon on each node, the plugin for the pods.
func (b *builder) overlay(ctx context.Context, s *setup, withoutRules bool) error {
	cidr := "10.244.0.0/16"
	if b.options.family == "ipv6" {
		cidr = "fd00:10:244::/48"
	}
	dir := filepath.Join(b.dir, s.name)
	daemons := [2]*daemon{}
	for i, n := range s.nodes {
		daemons[i] = &daemon{
			bin: b.options.bin, node: n, dir: filepath.Join(dir, n.Name()), store: filepath.Join(dir, "store"),
			networks: []object{{"name": "pods", "cidrs": []string{cidr}}},
		}
		if err := daemons[i].start(ctx); err != nil {
			return err
		}
	}
	for i, n := range s.nodes {
		c, err := daemons[i].serves(s.name, 0)
		if err != nil {
			return err
		}
		j := job{
			Paths: []string{b.options.bin}, Cache: filepath.Join(dir, "cache"), Keep: true,
			Contenders: []contender{c}, Namespaces: []string{s.pods[i].Path()},
		}
		found, err := j.command(ctx, n.Host)
		if err != nil {
			return err
		}
		s.addresses[i], s.mtu = found.Attached.Address, found.Attached.MTU
	}
	b.mtu = s.mtu
	if !withoutRules {
		return nil
	}
	for i, n := range s.nodes {
		if _, err := s.pods[i].Ping(ctx, s.addresses[1-i]); err != nil {
			return err // the daemons have to know each other before they stop
		}
		if err := daemons[i].command.Kill(); err != nil {
			return err
		}
		if out, err := n.Command(ctx, "nft", "flush", "ruleset").CombinedOutput(); err != nil {
			return fmt.Errorf("remove rules: %w: %s", err, out)
		}
	}
	return nil
}

// load adds rules to both nodes of a set-up, to see what they cost.
func load(ctx context.Context, s *setup, file, text string) error {
	for _, n := range s.nodes {
		c := n.Command(ctx, "nft", "-f", file)
		c.Stdin = strings.NewReader(text)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("load rules: %w: %s", err, out)
		}
	}
	return nil
}

// tracked returns how many connections the nodes of a set-up track.
func (s *setup) tracked() (string, error) {
	var counts []string
	for _, n := range s.nodes {
		err := n.Do(func() error {
			data, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
			if os.IsNotExist(err) {
				counts = append(counts, "no conntrack")
				return nil
			}
			counts = append(counts, strings.TrimSpace(string(data)))
			return err
		})
		if err != nil {
			return "", fmt.Errorf("count tracked connections: %w", err)
		}
	}
	return strings.Join(counts, ", "), nil
}

// warmUp is how long each kind of traffic runs before it counts.
const warmUp = 200 * time.Millisecond
