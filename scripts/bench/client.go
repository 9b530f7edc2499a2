//go:build linux

package main

// The client's end of the traffic.

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// slice asks a client for one kind of traffic.
type slice struct {
	Server   netip.Addr
	Port     uint16
	Duration time.Duration
}

// rate is the client's answer, in the metric's unit.
type rate struct {
	Rate  float64
	Error string
}

// client keeps its connections from slice to slice.
type client struct{ open map[uint16]int }

// playClient does slices until its input ends.
func playClient(in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(2)
	c := &client{open: make(map[uint16]int)}
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var s slice
		if err := requests.Decode(&s); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		runtime.GC() // now, not while it is measured
		var answer rate
		var err error
		if answer.Rate, err = c.do(&s); err != nil {
			answer.Error = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return fmt.Errorf("print rate: %w", err)
		}
	}
}

func (c *client) do(s *slice) (float64, error) {
	to := netip.AddrPortFrom(s.Server, s.Port)
	if s.Port == connectPort {
		return connects(to, s.Duration)
	}
	fd, ok := c.open[s.Port]
	if !ok {
		kind := unix.SOCK_STREAM
		if s.Port == datagramPort {
			kind = unix.SOCK_DGRAM
		}
		var err error
		if fd, err = dial(to, kind); err != nil {
			return 0, err
		}
		c.open[s.Port] = fd
	}
	switch s.Port {
	case streamPort:
		return stream(fd, s.Duration)
	case roundTripPort:
		return roundTrips(fd, s.Duration)
	case datagramPort:
		return datagrams(fd, s.Duration)
	}
	return 0, fmt.Errorf("no traffic with port %d", s.Port)
}

// stream returns Gbit/s that have arrived.
func stream(fd int, d time.Duration) (float64, error) {
	b := make([]byte, streamWrite)
	started := time.Now()
	blocks := 0
	for ; time.Since(started) < d; blocks++ {
		for range streamBlock / streamWrite {
			if err := write(fd, b); err != nil {
				return 0, err
			}
		}
	}
	for arrived := 0; arrived < blocks; {
		n, err := read(fd, b[:blocks-arrived])
		if n == 0 {
			return 0, fmt.Errorf("%d of %d blocks arrived: %w", arrived, blocks, errors.Join(err, io.ErrUnexpectedEOF))
		}
		arrived += n
	}
	return float64(blocks) * streamBlock * 8 / time.Since(started).Seconds() / 1e9, nil
}

// roundTrips returns how many there were a second.
func roundTrips(fd int, d time.Duration) (float64, error) {
	b := make([]byte, 1)
	return perSecond(d, func() error {
		if err := write(fd, b); err != nil {
			return err
		}
		n, err := read(fd, b)
		if n == 0 {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		return err
	})
}

// connects returns how many connections with a byte each way there were a
// second.
func connects(to netip.AddrPort, d time.Duration) (float64, error) {
	b := make([]byte, 1)
	return perSecond(d, func() error {
		fd, err := dial(to, unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		if err = write(fd, b); err == nil {
			var n int
			if n, err = read(fd, b); n == 0 {
				err = errors.Join(err, io.ErrUnexpectedEOF)
			}
		}
		return errors.Join(err, unix.Close(fd))
	})
}

// perSecond calls fn for some time.
func perSecond(d time.Duration, fn func() error) (float64, error) {
	started := time.Now()
	for n := 1; ; n++ {
		if err := fn(); err != nil {
			return 0, err
		}
		if took := time.Since(started); took >= d {
			return float64(n) / took.Seconds(), nil
		}
	}
}

// datagrams returns how many small packets arrived a second.
func datagrams(fd int, d time.Duration) (float64, error) {
	before, err := askCount(fd)
	if err != nil {
		return 0, err
	}
	b := make([]byte, datagramSize)
	started := time.Now()
	for time.Since(started) < d {
		for range datagramBurst - 1 {
			if err := write(fd, b); err != nil {
				return 0, err
			}
		}
		after, err := askCount(fd)
		if err != nil {
			return 0, err
		}
		if took := time.Since(started); took >= d {
			return float64(after-before) / took.Seconds(), nil
		}
	}
	return 0, errors.New("no time to send datagrams")
}

// askCount asks how many datagrams have arrived. The question is one, too.
func askCount(fd int) (uint64, error) {
	b := make([]byte, datagramSize)
	b[0] = askMark
	const attempts = 50
	var err error
	for range attempts {
		if err = write(fd, b); err != nil {
			return 0, err
		}
		answer := make([]byte, 8)
		n, failed := read(fd, answer)
		if failed == nil && n == len(answer) {
			return binary.NativeEndian.Uint64(answer), nil
		}
		err = failed
	}
	return 0, fmt.Errorf("no answer about datagrams: %w", err)
}
