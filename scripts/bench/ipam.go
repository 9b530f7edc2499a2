//go:build linux

package main

// IPAM plugins by themselves, with more and more addresses taken.

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/overlay-cni/overlay-cni/ipam"
)

const (
	ownIPAM    = "overlay-ipam"
	hostLocal  = "host-local"
	ipamRate   = "ADD/s, 16 callers"
	ipamAtOnce = 16
	ipamBurst  = 48 // ADDs of one measurement with all callers
)

// pool is an IPAM plugin with addresses taken.
type pool struct {
	name   string
	binary string
	config []byte
}

// ipamSizes are how many addresses are taken; upstream takes a third of a
// second for each ADD at the last, so it has no part in that.
func ipamSizes() []int { return []int{0, 250, 4000, 30000} }

func poolName(plugin string, taken int) string { return fmt.Sprintf("%s, %d taken", plugin, taken) }

func measureIPAM(ctx context.Context, o *options, dir string) (*section, error) {
	var pools []pool
	for _, taken := range ipamSizes() {
		for _, plugin := range []string{ownIPAM, hostLocal} {
			if plugin == hostLocal && taken > 4000 {
				continue
			}
			p, err := newPool(ctx, o, filepath.Join(dir, "ipam"), plugin, taken)
			if err != nil {
				return nil, err
			}
			pools = append(pools, p)
		}
	}
	s := &section{
		name: "ipam: ADD and DEL of an IPAM plugin as a process", notes: []string{about(dir)}, measured: series{},
		metrics: []metric{{name: addTime, digits: 2, tail: true}, {name: delTime, digits: 2}, {name: ipamRate}},
	}
	for _, p := range pools {
		s.contenders = append(s.contenders, p.name)
	}
	base := poolName(hostLocal, 0)
	for i, taken := range ipamSizes() {
		if i > 0 { // it doesn't grow
			s.questions = append(s.questions, question{poolName(ownIPAM, taken), poolName(ownIPAM, 0), addTime, atMost(1.2)})
		}
		s.questions = append(s.questions,
			question{poolName(ownIPAM, taken), base, addTime, atMost(1)},
			question{poolName(ownIPAM, taken), base, delTime, atMost(1)},
			question{poolName(ownIPAM, taken), poolName(hostLocal, taken), addTime, nil},
			question{poolName(ownIPAM, taken), poolName(hostLocal, taken), ipamRate, atLeast(2)},
		)
	}
	err := inTurns(ctx, 2, o.times(40, 5), len(pools), func(round, i int) error {
		return pools[i].measure(ctx, s.measured, round)
	})
	return s, err
}

// measure makes one ADD and DEL alone; in every fourth round, many at once.
func (p *pool) measure(ctx context.Context, into series, round int) error {
	add, err := p.call(ctx, "ADD", "measured")
	if err != nil {
		return err
	}
	del, err := p.call(ctx, "DEL", "measured")
	if err != nil || round < 0 {
		return err
	}
	into.add(p.name, addTime, milliseconds(add))
	into.add(p.name, delTime, milliseconds(del))
	if round%4 != 0 {
		return nil
	}
	rate, err := p.burst(ctx)
	into.add(p.name, ipamRate, rate)
	return err
}

// burst returns how many ADDs a second are made at once.
func (p *pool) burst(ctx context.Context) (float64, error) {
	verb := func(verb string) error {
		var all errgroup.Group
		all.SetLimit(ipamAtOnce)
		for i := range ipamBurst {
			all.Go(func() error {
				_, err := p.call(ctx, verb, fmt.Sprintf("burst%d", i))
				return err
			})
		}
		return all.Wait()
	}
	started := time.Now()
	if err := verb("ADD"); err != nil {
		return 0, err
	}
	took := time.Since(started)
	return ipamBurst / took.Seconds(), verb("DEL")
}

// call executes the plugin once.
func (p *pool) call(ctx context.Context, verb, container string) (time.Duration, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.binary)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + container, "CNI_IFNAME=eth0",
		"CNI_NETNS=/proc/self/ns/net", "CNI_NETNS_OVERRIDE=TRUE", "CNI_PATH=/",
	}
	cmd.Stdin, cmd.Stderr = bytes.NewReader(p.config), &stderr
	started := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %w: %s%s", verb, p.name, err, out, stderr.Bytes())
	}
	return time.Since(started), nil
}

// newPool makes a plugin's state with addresses taken, as the plugin itself
// would have: by its library, or as its files.
func newPool(ctx context.Context, o *options, dir, plugin string, taken int) (pool, error) {
	name := fmt.Sprintf("bench%d", taken)
	p := pool{name: poolName(plugin, taken), binary: filepath.Join(o.bin, ownIPAM)}
	if plugin == hostLocal {
		p.binary = filepath.Join(o.upstream, hostLocal)
	}
	state := filepath.Join(dir, plugin)
	config, err := json.Marshal(object{
		"cniVersion": "1.0.0", "name": name, "type": plugin,
		"ipam": object{"type": plugin, "dataDir": state, "ranges": [][]object{{{"subnet": "10.200.0.0/16"}}}},
	})
	if err != nil {
		return p, fmt.Errorf("encode configuration of %s: %w", p.name, err)
	}
	p.config = config
	state = filepath.Join(state, name)
	if err := os.MkdirAll(state, 0o755); err != nil {
		return p, fmt.Errorf("make state of %s: %w", p.name, err)
	}
	if plugin == hostLocal {
		return p, fillHostLocal(state, taken)
	}
	return p, fillLedger(ctx, filepath.Join(state, "ledger"), taken)
}

// nth is an address of the subnet, counted from its second.
func nth(i int) netip.Addr {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], 10<<24|200<<16+2+uint32(i))
	return netip.AddrFrom4(raw)
}

func fillHostLocal(dir string, taken int) error {
	for i := range taken {
		text := fmt.Sprintf("taken%d\r\neth0", i)
		if err := os.WriteFile(filepath.Join(dir, nth(i).String()), []byte(text), 0o600); err != nil {
			return fmt.Errorf("fill host-local: %w", err)
		}
	}
	last := []byte(nth(max(taken-1, 0)).String())
	if err := os.WriteFile(filepath.Join(dir, "last_reserved_ip.0"), last, 0o600); err != nil {
		return fmt.Errorf("fill host-local: %w", err)
	}
	return nil
}

func fillLedger(ctx context.Context, file string, taken int) error {
	live := make([]ipam.Allocation, taken)
	for i := range live {
		live[i] = ipam.Allocation{
			Attachment: ipam.Attachment{ContainerID: fmt.Sprintf("taken%d", i), Interface: "eth0"}, Address: nth(i),
		}
	}
	if err := ipam.Rebuild(ctx, file, ipam.Options{}, live); err != nil {
		return fmt.Errorf("fill ledger: %w", err)
	}
	return nil
}
