package lab

// Capturing frames on a host's interface.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// captureLimit is how many matching frames a capture keeps; it counts all.
	captureLimit = 4096
	// captureQueue is the bytes of frames that may wait in the kernel.
	captureQueue = 8 << 20
)

// A Capture collects the frames on an interface that match.
type Capture struct {
	file  *os.File
	match func(Frame) bool
	done  chan struct{}

	mu      sync.Mutex
	frames  []Frame
	count   int
	changed chan struct{} // closed with each match
}

// Capture starts to collect the frames on an interface for which match is
// true; nil matches all. What match is given it may not keep. The kernel drops
// frames when match is much too slow for them. The capture ends with Close and
// when the host goes down.
func (h *Host) Capture(ifname string, match func(Frame) bool) (*Capture, error) {
	// A capture ends by Close or by its host; nothing else waits for it.
	alive, done, err := h.begin(context.Background())
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	c := &Capture{match: match, done: make(chan struct{}), changed: make(chan struct{})}
	err = h.Do(func() (err error) {
		c.file, err = openPacketSocket(ifname)
		return err
	})
	if err != nil {
		done()
		return nil, fmt.Errorf("capture %s on %s: %w", ifname, h.name, err)
	}
	stop := context.AfterFunc(alive, func() { _ = c.file.Close() })
	go func() {
		defer close(c.done)
		defer done()
		defer stop()
		c.read()
	}()
	return c, nil
}

// openPacketSocket opens a socket for all frames of an interface. It has no
// protocol before it is bound, so that no other interface's frames come in.
func openPacketSocket(ifname string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	index, err := interfaceIndex(fd, ifname)
	if err == nil {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureQueue))
	}
	if err == nil {
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "capture of "+ifname), nil
}

func interfaceIndex(fd int, name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, os.NewSyscallError("ioctl", err)
	}
	return int(request.Uint32()), nil
}

// read collects frames until the socket is closed.
func (c *Capture) read() {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, 1<<17)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if failed != nil {
			continue // an interface that went down may come back
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		c.add(Frame{Time: time.Now(), Outgoing: ok && link.Pkttype == unix.PACKET_OUTGOING, Data: b[:n]})
	}
}

func (c *Capture) add(f Frame) {
	if c.match != nil && !c.match(f) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	if len(c.frames) < captureLimit {
		f.Data = slices.Clone(f.Data)
		c.frames = append(c.frames, f)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// Count returns how many frames have matched so far.
func (c *Capture) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// Frames returns the matching frames so far, of many the first 4096.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// Wait waits until n frames have matched and returns the frames so far.
// Without a deadline in ctx it gives up after five seconds.
func (c *Capture) Wait(ctx context.Context, n int) ([]Frame, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	for {
		c.mu.Lock()
		count, changed, frames := c.count, c.changed, slices.Clone(c.frames)
		c.mu.Unlock()
		if count >= n {
			return frames, nil
		}
		var err error
		select {
		case <-changed:
			continue
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-c.done:
			err = os.ErrClosed
		}
		return frames, fmt.Errorf("capture %d frames, got %d: %w", n, count, err)
	}
}

// Close ends the capture. What it has collected stays.
func (c *Capture) Close() error {
	err := c.file.Close()
	<-c.done
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close capture: %w", err)
	}
	return nil
}
