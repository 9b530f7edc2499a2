package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a netlink socket that blocks. A plugin has nothing else to do while
// the kernel answers, and waking a thread through the runtime's poller for each
// answer costs it a twentieth of an ADD.
type socket struct {
	fd       int
	buffer   []byte
	messages []syscall.NetlinkMessage // in the buffer
}

// timeoutSeconds bound how long the kernel may take for one answer, but not how
// long a request waits for the kernel's own lock: that is within the sending.
const timeoutSeconds = 60

// bufferSize is more than the kernel puts into one message of a dump.
const bufferSize = 64 << 10

// openSocket opens a socket in the namespace of the calling thread.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s := &socket{fd: fd, buffer: make([]byte, bufferSize)}
	if err := s.configure(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *socket) configure() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: timeoutSeconds}); err != nil {
			return fmt.Errorf("set timeout of netlink socket: %w", err)
		}
	}
	// Kernels before 4.12 and 4.20 know neither; all that is lost is the
	// text of errors, and that dumps are filtered by the kernel.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return nil
}

// send writes encoded requests.
func (s *socket) send(requests []byte) error {
	for {
		err := unix.Sendto(s.fd, requests, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("send netlink request: %w", err)
		}
	}
}

// receive waits for the next part of an answer. What it returns is valid until it
// is called again: a dump of many thousand entries leaves no garbage.
func (s *socket) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, from, err := unix.Recvfrom(s.fd, s.buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue // with a timeout set the kernel doesn't start over by itself
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("receive netlink answer: none within %d s: %w", timeoutSeconds, err)
		case err != nil:
			return nil, fmt.Errorf("receive netlink answer: %w", err)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue // not from the kernel
		}
		s.messages, err = parse(s.messages[:0], s.buffer[:n])
		return s.messages, err
	}
}

// parse appends the messages that an answer consists of, without copying them.
func parse(messages []syscall.NetlinkMessage, b []byte) ([]syscall.NetlinkMessage, error) {
	for len(b) >= unix.SizeofNlMsghdr {
		h := syscall.NlMsghdr{
			Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
		}
		size := int(h.Len)
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return nil, fmt.Errorf("parse netlink answer: message of %d bytes within %d", size, len(b))
		}
		messages = append(messages, syscall.NetlinkMessage{Header: h, Data: b[unix.SizeofNlMsghdr:size]})
		b = b[min(align(size), len(b)):]
	}
	return messages, nil
}

func (s *socket) close() error { return unix.Close(s.fd) }
