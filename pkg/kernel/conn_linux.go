package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrNamespace says that a network namespace can't be opened or is none.
var ErrNamespace = errors.New("no network namespace")

// Conn is a connection to the kernel of one network namespace. It isn't safe
// for concurrent use.
type Conn struct {
	namespace *os.File // nil: the namespace of the process
	socket    *socket
	seq       uint32
	parts     int  // in which the last answer with objects came
	large     bool // there was one in several parts
}

// Open connects to the kernel of the process's own network namespace.
func Open() (*Conn, error) { return open(nil) }

// OpenNamespace connects to the kernel of the network namespace at a path,
// such as CNI_NETNS. The error wraps ErrNamespace when there is none.
func OpenNamespace(path string) (*Conn, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would wait for a writer
	if err != nil {
		return nil, fmt.Errorf("%w: open %s: %w", ErrNamespace, path, err)
	}
	if err := isNamespace(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c, err := open(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

// isNamespace says whether a file is a network namespace; setns(2) would
// answer EINVAL to anything else, from which nobody learns what is wrong.
func isNamespace(f *os.File) error {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w: %s is not a network namespace", ErrNamespace, f.Name())
	}
	return nil
}

func open(namespace *os.File) (*Conn, error) {
	c := &Conn{namespace: namespace}
	err := c.do(func() (err error) {
		c.socket, err = openSocket()
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error {
	err := c.socket.close()
	if c.namespace != nil {
		err = errors.Join(err, c.namespace.Close())
	}
	return err
}

// IsOwn says whether the connection's namespace is that of the process.
func (c *Conn) IsOwn() (bool, error) {
	if c.namespace == nil {
		return true, nil
	}
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return false, fmt.Errorf("find own network namespace: %w", err)
	}
	there, err := c.namespace.Stat()
	if err != nil {
		return false, fmt.Errorf("find network namespace %s: %w", c.namespace.Name(), err)
	}
	return os.SameFile(own, there), nil
}

// Fd is the file descriptor of the namespace, for links that have one end
// there; -1 for the process's own.
func (c *Conn) Fd() int {
	if c.namespace == nil {
		return -1
	}
	return int(c.namespace.Fd())
}

// handle is the namespace for package nl, which takes none for the process's.
func (c *Conn) handle() netns.NsHandle {
	if c.namespace == nil {
		return netns.None()
	}
	return netns.NsHandle(c.namespace.Fd())
}

// do runs fn on a thread that is in the connection's namespace.
func (c *Conn) do(fn func() error) error {
	if c.namespace == nil {
		return fn()
	}
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() { _ = own.Close() }()
	if err := netns.Set(c.handle()); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", c.namespace.Name(), err)
	}
	err = fn()
	if back := netns.Set(own); back != nil {
		// The thread stays locked, so that the runtime ends it with its
		// goroutine instead of running others in a foreign namespace.
		return errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// request makes a netlink request.
func (c *Conn) request(kind, flags int) *nl.NetlinkRequest {
	return nl.NewNetlinkRequest(kind, flags)
}

// nextSeq numbers a request.
func (c *Conn) nextSeq() uint32 {
	c.seq++
	return c.seq
}

// errInterrupted: the kernel's tables changed during a dump.
var errInterrupted = errors.New("dump was interrupted by changes")

// dumpAttempts bounds how often an interrupted dump is repeated.
const dumpAttempts = 10

// dump sends a request and calls fn for each object of the answer. A dump that
// was interrupted by changes starts over: reset is called before each attempt.
func (c *Conn) dump(req *nl.NetlinkRequest, answer uint16, reset func(), fn func(message []byte) error) error {
	var err error
	for range dumpAttempts {
		reset()
		if err = c.query(req, answer, fn); !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return err
}

// query sends one request and calls fn for each object of the answer.
func (c *Conn) query(req *nl.NetlinkRequest, kind uint16, fn func(message []byte) error) error {
	req.Seq = c.nextSeq()
	if err := c.socket.send(req.Serialize()); err != nil {
		return err
	}
	interrupted := false
	c.parts = 0
	var failed error
	for {
		messages, err := c.socket.receive()
		if err != nil {
			return err
		}
		counted := false
		for _, m := range messages {
			if m.Header.Seq != req.Seq {
				continue // an answer to a request given up earlier
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if err := answer(m); err != nil {
					return err
				}
				if interrupted {
					return errInterrupted
				}
				return failed
			case kind:
				if !counted {
					c.parts, counted = c.parts+1, true
				}
				if failed == nil {
					failed = fn(m.Data)
				}
			}
			if m.Header.Flags&unix.NLM_F_MULTI == 0 {
				return failed
			}
		}
	}
}
