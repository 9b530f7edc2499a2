package lab

// A machine: a host with a leg in a segment of the underlay, which can lose
// its carrier and its power.

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// A Machine is a host on the underlay.
type Machine struct {
	*Host
	segment Segment
	leg     *leg

	power sync.Mutex // held while the machine is switched on or off
	pods  map[string]*Pod
}

// Segment returns the segment the machine is in.
func (m *Machine) Segment() Segment { return m.segment }

// IPv4 returns the machine's address on eth0.
func (m *Machine) IPv4() netip.Addr { return m.leg.v4.Addr() }

// IPv6 returns the machine's global address on eth0.
func (m *Machine) IPv6() netip.Addr { return m.leg.v6.Addr() }

// MAC returns eth0's link-layer address, which follows from the machine's name.
func (m *Machine) MAC() net.HardwareAddr { return slices.Clone(m.leg.mac) }

// RunDir returns the directory below [Host.Dir] whose content a power-off
// loses, as a system's /run. Files next to it are kept.
func (m *Machine) RunDir() string { return filepath.Join(m.dir, "run") }

// BootID reads the number of this life of the machine, as a kernel has one in
// /proc/sys/kernel/random/boot_id. It is in the file boot_id of [Machine.RunDir].
func (m *Machine) BootID() (string, error) {
	id, err := os.ReadFile(filepath.Join(m.RunDir(), "boot_id"))
	if err != nil {
		return "", fmt.Errorf("read boot ID of %s: %w", m.name, err)
	}
	return string(id), nil
}

// Disconnect takes the carrier from the machine's eth0, as if its cable were
// pulled.
func (m *Machine) Disconnect() error { return m.wire(false) }

// Connect gives eth0 its carrier back and waits until frames pass.
func (m *Machine) Connect() error { return m.wire(true) }

func (m *Machine) wire(up bool) error {
	ns, done, err := m.hold()
	if err != nil {
		return err
	}
	defer done()
	if err := m.lab.underlay.wire(ns, m.leg, up); err != nil {
		return fmt.Errorf("wire %s: %w", m.name, err)
	}
	return nil
}

// PowerOff ends the machine at one instant: it is off the wire before anything
// else, so that nobody hears a goodbye, then all its processes die, and its
// namespace, its pods and its RunDir vanish. A machine that is off stays off.
func (m *Machine) PowerOff() error {
	m.power.Lock()
	defer m.power.Unlock()
	return m.powerOff()
}

// PowerOn gives a machine that is off a new namespace with the link-layer and
// network addresses it had. A machine that is on stays as it is.
func (m *Machine) PowerOn() error {
	m.power.Lock()
	defer m.power.Unlock()
	return m.powerOn()
}

// Reset is a power-off followed by a power-on.
func (m *Machine) Reset() error {
	m.power.Lock()
	defer m.power.Unlock()
	if err := m.powerOff(); err != nil {
		return err
	}
	return m.powerOn()
}

func (m *Machine) powerOff() error {
	if !m.isOn() {
		return nil
	}
	unplug := m.lab.underlay.unplug(m.leg)
	ended := m.lab.endHosts(m.withPods())
	clear(m.pods)
	files := errors.Join(os.RemoveAll(m.RunDir()), os.RemoveAll(filepath.Join(m.dir, "pods")))
	if err := errors.Join(unplug, ended, files); err != nil {
		return fmt.Errorf("power off %s: %w", m.name, err)
	}
	return nil
}

func (m *Machine) powerOn() error {
	if m.isOn() {
		return nil
	}
	if m.lab.isClosed() {
		return fmt.Errorf("power on %s: lab is closed: %w", m.name, ErrDown)
	}
	if err := m.Host.powerOn(); err != nil {
		return err
	}
	if err := m.boot(); err != nil {
		return errors.Join(fmt.Errorf("power on %s: %w", m.name, err), m.powerOff())
	}
	return nil
}

// boot connects a new namespace and fills the RunDir.
func (m *Machine) boot() error {
	if err := os.Mkdir(m.RunDir(), 0o700); err != nil {
		return err
	}
	id := make([]byte, 16)
	rand.Read(id)
	text := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	if err := os.WriteFile(filepath.Join(m.RunDir(), "boot_id"), []byte(text), 0o600); err != nil {
		return err
	}
	ns, done, err := m.hold()
	if err != nil {
		return err
	}
	defer done()
	return m.lab.underlay.plug(ns, m.leg, m.segment)
}

// withPods returns the machine's host and those of its pods.
func (m *Machine) withPods() []*Host {
	hosts := []*Host{m.Host}
	for _, p := range m.pods {
		hosts = append(hosts, p.Host)
	}
	return hosts
}

func (h *Host) isOn() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.life != nil
}

func (l *Lab) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}
