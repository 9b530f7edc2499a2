package lab

// A host: a network namespace, a directory, and a life between power-on and
// power-off.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
)

// bare is a host's own state, whatever the machine's settings are: IPv4's
// are copied from the machine into each new namespace.
func bare() []sysctl {
	return []sysctl{
		{"ipv4/ip_forward", "0"},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
	}
}

// A Host is a network namespace with a private directory. Its methods may be
// called by several goroutines; while it is down they return [ErrDown].
type Host struct {
	lab  *Lab
	name string
	dir  string
	link string // a name for the namespace, in the lab's directory

	mu       sync.RWMutex
	life     *life // nil while the host is down
	children map[*Command]struct{}
}

// A life is what ends with a power-off.
type life struct {
	ns     *namespace
	ctx    context.Context //nolint:containedctx // done when the life ends
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // what has sockets in the namespace
}

// newHost returns a host that is down.
func newHost(l *Lab, name, dir string) *Host {
	link := filepath.Join(l.dir.path, "netns", name)
	return &Host{lab: l, name: name, dir: dir, link: link, children: make(map[*Command]struct{})}
}

// Name returns the host's name, which for a pod is node_pod.
func (h *Host) Name() string { return h.name }

// Dir returns the host's private directory, for a /run and a /var of its own.
func (h *Host) Dir() string { return h.dir }

// Path returns a file that opens the host's namespace in any process of the
// machine, for CNI_NETNS, nsenter and setns. It doesn't exist while the host
// is down.
func (h *Host) Path() string { return h.link }

// Do runs fn on a thread in the host's namespace, and brings the thread back.
// It is the caller's goroutine which runs fn. Goroutines that fn starts are
// not in the namespace, sockets that fn makes stay in it. See [ErrThreadLost]
// for the case that the way back is barred.
func (h *Host) Do(fn func() error) error {
	return keepNamespace(func() error {
		if err := h.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// enter moves the thread into the namespace, which can't be closed meanwhile.
func (h *Host) enter() error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.life == nil {
		return fmt.Errorf("enter %s: %w", h.name, ErrDown)
	}
	return h.life.ns.enter()
}

// SetSysctl writes a setting of the host's namespace, named by its path below
// /proc/sys/net, as in ipv4/ip_forward.
func (h *Host) SetSysctl(name, value string) error {
	ns, done, err := h.hold()
	if err != nil {
		return err
	}
	defer done()
	return ns.set(sysctl{name, value})
}

// hold returns the namespace, which stays open until done is called.
func (h *Host) hold() (ns *namespace, done func(), err error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.life == nil {
		return nil, nil, fmt.Errorf("%s: %w", h.name, ErrDown)
	}
	h.life.work.Add(1)
	return h.life.ns, h.life.work.Done, nil
}

// begin joins ctx with the host's life: the context returned is done when
// either ends. A power-off waits for done.
func (h *Host) begin(ctx context.Context) (joined context.Context, done func(), err error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.life == nil {
		return nil, nil, fmt.Errorf("%s: %w", h.name, ErrDown)
	}
	alive := h.life
	alive.work.Add(1)
	joined, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(alive.ctx, func() { cancel(context.Cause(alive.ctx)) })
	return joined, func() {
		stop()
		cancel(nil)
		alive.work.Done()
	}, nil
}

// powerOn gives a host that is down its directory and a namespace with lo up.
func (h *Host) powerOn() error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("power on %s: %w", h.name, err)
	}
	ns, err := newNamespace()
	if err != nil {
		return fmt.Errorf("power on %s: %w", h.name, err)
	}
	if err := errors.Join(ns.set(bare()...), ns.up("lo"), os.Symlink(ns.path(), h.link)); err != nil {
		return errors.Join(fmt.Errorf("power on %s: %w", h.name, err), h.unlink(), ns.close())
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.life = &life{ns: ns, ctx: ctx, cancel: cancel}
	return nil
}

// switchOff makes the host's methods return ErrDown from now on. It returns
// the life to end, or nil.
func (h *Host) switchOff() *life {
	h.mu.Lock()
	defer h.mu.Unlock()
	ended := h.life
	h.life = nil
	return ended
}

// end closes what is open in the namespace, last of all itself.
func (l *life) end() error {
	l.cancel(ErrDown)
	l.work.Wait()
	return l.ns.close()
}

// unlink removes the namespace's name.
func (h *Host) unlink() error {
	if err := os.Remove(h.link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove name of namespace: %w", err)
	}
	return nil
}

// up sets a link of the namespace up.
func (ns *namespace) up(name string) error {
	kernel, err := ns.kernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	link, err := kernel.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	return setUp(kernel, link)
}

func setUp(kernel *netlink.Handle, link netlink.Link) error {
	if err := kernel.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", link.Attrs().Name, err)
	}
	return nil
}
