package lab

// A lab: its making, the hosts in it, its end.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// routerName is the router's among the machines.
const routerName = "router"

// A Lab is an underlay with hosts on it. Its methods may be called by several
// goroutines.
type Lab struct {
	topology Topology
	dir      *directory
	launcher *launcher
	underlay *underlay
	router   *Host

	mu       sync.Mutex
	closed   bool
	machines map[string]*Machine
	hosts    []int // by segment: how many were added

	close    sync.Once
	closeErr error
}

// New makes a lab with the topology's segments and their router. Before that
// it sweeps what labs have left behind whose process was killed.
func New(ctx context.Context, t Topology) (*Lab, error) {
	t, err := t.complete()
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	if err := sweep(ctx, os.TempDir()); err != nil {
		return nil, fmt.Errorf("sweep labs left behind: %w", err)
	}
	l := &Lab{topology: t, machines: make(map[string]*Machine), hosts: make([]int, len(t.Segments))}
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("make lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build() (err error) {
	if l.dir, err = newDirectory(os.TempDir()); err != nil {
		return err
	}
	for _, dir := range []string{"netns", "host"} {
		if err := os.Mkdir(filepath.Join(l.dir.path, dir), 0o700); err != nil {
			return fmt.Errorf("make lab directory: %w", err)
		}
	}
	l.launcher = newLauncher()
	if l.underlay, err = newUnderlay(l.topology.Segments); err != nil {
		return err
	}
	l.router = newHost(l, routerName, filepath.Join(l.dir.path, "host", routerName))
	if err := l.router.powerOn(); err != nil {
		return err
	}
	return l.underlay.route(l.router.life.ns, l.topology.Segments)
}

// Topology returns the lab's topology with its defaults filled in.
func (l *Lab) Topology() Topology { return l.topology }

// Router returns the host which joins the segments. Its interface in the kth
// segment, counted from zero, is eth<k>.
func (l *Lab) Router() *Host { return l.router }

// AddNode adds a host for pods to the named segment. See [Lab.AddVM] for what
// it has.
func (l *Lab) AddNode(name, segment string) (*Node, error) {
	m, err := l.addMachine(name, segment)
	if err != nil {
		return nil, fmt.Errorf("add node: %w", err)
	}
	return &Node{Machine: m}, nil
}

// AddVM adds a host which is no node to the named segment. Its interface eth0
// has an IPv4 and an IPv6 address and routes to the other segments.
func (l *Lab) AddVM(name, segment string) (*Machine, error) {
	m, err := l.addMachine(name, segment)
	if err != nil {
		return nil, fmt.Errorf("add VM: %w", err)
	}
	return m, nil
}

func (l *Lab) addMachine(name, segment string) (*Machine, error) {
	m, err := l.reserve(name, segment)
	if err != nil {
		return nil, err
	}
	if err := m.PowerOn(); err != nil {
		l.mu.Lock()
		delete(l.machines, name)
		l.mu.Unlock()
		return nil, err
	}
	return m, nil
}

// reserve gives a name and addresses to a machine, which is still off.
func (l *Lab) reserve(name, segment string) (*Machine, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	k := slices.IndexFunc(l.topology.Segments, func(s Segment) bool { return s.Name == segment })
	if k < 0 {
		return nil, fmt.Errorf("%s in %q: %w", name, segment, ErrUnknownSegment)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%s: lab is closed: %w", name, ErrDown)
	}
	if _, taken := l.machines[name]; taken || name == routerName {
		return nil, fmt.Errorf("host %s: %w", name, ErrExists)
	}
	v4, v6, err := l.topology.Segments[k].host(l.hosts[k])
	if err != nil {
		return nil, err
	}
	l.hosts[k]++
	m := &Machine{
		Host:    newHost(l, name, filepath.Join(l.dir.path, "host", name)),
		segment: l.topology.Segments[k],
		leg:     l.underlay.newLeg(k, name, v4, v6),
		pods:    make(map[string]*Pod),
	}
	l.machines[name] = m
	return m, nil
}

// Close ends the lab: all processes in its hosts die, the namespaces and the
// lab's directory go. Further calls return the first one's result.
func (l *Lab) Close() error {
	l.close.Do(func() { l.closeErr = l.end() })
	return l.closeErr
}

func (l *Lab) end() error {
	l.mu.Lock()
	l.closed = true
	machines := slices.Collect(maps.Values(l.machines))
	l.mu.Unlock()
	var hosts []*Host
	for _, m := range machines {
		m.power.Lock()
		defer m.power.Unlock()
		hosts = append(hosts, m.withPods()...)
	}
	if l.router != nil {
		hosts = append(hosts, l.router)
	}
	var errs []error
	if l.launcher != nil {
		errs = append(errs, l.endHosts(hosts))
		l.launcher.close()
	}
	if l.underlay != nil {
		errs = append(errs, l.underlay.close())
	}
	if l.dir != nil {
		errs = append(errs, l.dir.remove())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close lab: %w", err)
	}
	return nil
}

// endHosts switches hosts off at one instant, and ends what lives in them.
func (l *Lab) endHosts(hosts []*Host) error {
	var lives []*life
	err := l.launcher.run(func() error { // no child process is being started meanwhile
		for _, h := range hosts {
			if ended := h.switchOff(); ended != nil {
				lives = append(lives, ended)
			}
		}
		return nil
	})
	errs := []error{err}
	who := suspects{}
	for _, h := range hosts {
		who.dirs = append(who.dirs, h.dir)
	}
	for _, ended := range lives {
		who.namespaces = append(who.namespaces, ended.ns.id)
	}
	if len(lives) > 0 {
		errs = append(errs, who.kill(context.Background()))
	}
	for _, ended := range lives {
		errs = append(errs, ended.end())
	}
	for _, h := range hosts {
		errs = append(errs, h.reap(), h.unlink())
	}
	return errors.Join(errs...)
}
