//go:build linux

package main

// A pair of traffic processes in the pods of a set-up.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// traffic is a client and a server.
type traffic struct {
	server    netip.Addr
	processes []*lab.Command
	requests  *json.Encoder
	answers   *json.Decoder
}

// newTraffic starts a server with an address in one pod, a client in another.
func newTraffic(ctx context.Context, client, server *lab.Host, address netip.Addr) (*traffic, error) {
	t := &traffic{server: address}
	_, ready, err := t.start(ctx, server, "traffic-server", address.String()+"\n")
	if err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("traffic server on %s: said %q: %w", server.Name(), line, err)
	}
	requests, answers, err := t.start(ctx, client, "traffic-client", "")
	if err != nil {
		return nil, err
	}
	t.requests, t.answers = json.NewEncoder(requests), json.NewDecoder(answers)
	return t, nil
}

func (t *traffic) start(ctx context.Context, on *lab.Host, role, first string) (io.Writer, io.Reader, error) {
	c := on.Command(ctx, "/proc/self/exe", "--role", role)
	c.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", role, err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", role, err)
	}
	if err := c.Start(); err != nil {
		return nil, nil, err
	}
	t.processes = append(t.processes, c)
	if _, err := io.WriteString(in, first); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", role, err)
	}
	return in, out, nil
}

// measure lets one kind of traffic run for a while, on one CPU.
func (t *traffic) measure(port uint16, d time.Duration, cpu int) (float64, error) {
	for _, p := range t.processes {
		if err := pin(p.Process.Pid, cpu); err != nil {
			return 0, err
		}
	}
	if err := t.requests.Encode(slice{t.server, port, d}); err != nil {
		return 0, fmt.Errorf("ask traffic client: %w", err)
	}
	var r rate
	if err := t.answers.Decode(&r); err != nil {
		return 0, fmt.Errorf("read answer of traffic client: %w", err)
	}
	if r.Error != "" {
		return 0, errors.New(r.Error)
	}
	return r.Rate, nil
}

// pin keeps all threads of a process on one CPU, and the kernel's work that
// they cause with them.
func pin(pid, cpu int) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	var set unix.CPUSet
	set.Set(cpu)
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin process %d to CPU %d: %w", pid, cpu, err)
		}
	}
	return nil
}

// lastCPU is the last that this process may run on.
func lastCPU() (int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("find CPUs: %w", err)
	}
	last := 0
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			last = cpu
		}
	}
	return last, nil
}
