package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// batchSize is how many requests go into one send: enough that the system call
// no longer counts, few enough that the answers fit the socket's buffer.
const batchSize = 128

// batch collects requests, sends them many at a time, and gives each answer's
// error to the request that it belongs to.
type batch struct {
	conn     *Conn
	requests []*nl.NetlinkRequest
	failed   []func(error) error
}

// add appends a request. When it fails, handle turns the error into that of
// the batch, or into nil where it doesn't matter.
func (b *batch) add(r *nl.NetlinkRequest, handle func(error) error) {
	r.Flags |= unix.NLM_F_ACK
	b.requests = append(b.requests, r)
	b.failed = append(b.failed, handle)
}

// flush sends what was added and waits for all answers.
func (b *batch) flush() error {
	var errs []error
	for len(b.requests) > 0 {
		n := min(batchSize, len(b.requests))
		if err := b.exchange(b.requests[:n], b.failed[:n]); err != nil {
			errs = append(errs, err)
		}
		b.requests, b.failed = b.requests[n:], b.failed[n:]
	}
	return errors.Join(errs...)
}

func (b *batch) exchange(requests []*nl.NetlinkRequest, failed []func(error) error) error {
	var out []byte
	pending := make(map[uint32]int, len(requests))
	for i, r := range requests {
		r.Seq = b.conn.nextSeq()
		pending[r.Seq] = i
		out = append(out, r.Serialize()...)
		for len(out)%unix.NLMSG_ALIGNTO != 0 {
			out = append(out, 0)
		}
	}
	if err := b.conn.socket.send(out); err != nil {
		return err
	}
	var errs []error
	for len(pending) > 0 {
		messages, err := b.conn.socket.receive()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, m := range messages {
			i, ok := pending[m.Header.Seq]
			if !ok || m.Header.Type != unix.NLMSG_ERROR {
				continue // an answer to a request given up earlier
			}
			delete(pending, m.Header.Seq)
			if err := answer(m); err != nil {
				errs = append(errs, failed[i](err))
			}
		}
	}
	return errors.Join(errs...)
}

// answer decodes the message that ends an exchange: nil for success, else the
// error with the kernel's own words. NLMSG_ERROR carries the code, a copy of
// the request, and attributes (linux/netlink.h, struct nlmsgerr); NLMSG_DONE
// has the attributes right after the code.
func answer(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		if m.Header.Type == unix.NLMSG_DONE {
			return nil
		}
		return fmt.Errorf("netlink error message of %d bytes", len(m.Data))
	}
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil
	}
	err := error(syscall.Errno(-code))
	attrs := m.Data[4:]
	if m.Header.Type == unix.NLMSG_ERROR && len(attrs) >= unix.SizeofNlMsghdr {
		attrs = attrs[min(align(int(binary.NativeEndian.Uint32(attrs))), len(attrs)):]
	}
	if text := errorText(attrs); text != "" && m.Header.Flags&unix.NLM_F_ACK_TLVS != 0 {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// errorText finds NLMSGERR_ATTR_MSG among attributes.
func errorText(attrs []byte) (text string) {
	// What can't be read has no text; the error's number is known anyway.
	_ = attributes(attrs, 0, func(kind uint16, value []byte) {
		if kind == nl.NLMSGERR_ATTR_MSG {
			text = unix.ByteSliceToString(value)
		}
	})
	return text
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
