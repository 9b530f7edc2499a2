//go:build linux

package main

// What a process takes of the machine, and its end.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// memory is what a process has in memory, in MB of 2^20 bytes.
type memory struct{ resident, anonymous, peak float64 }

func memoryOf(pid int) (memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, fmt.Errorf("read memory of process: %w", err)
	}
	var m memory
	into := map[string]*float64{"VmRSS": &m.resident, "RssAnon": &m.anonymous, "VmHWM": &m.peak}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		if at := into[name]; at != nil {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			if err != nil {
				return m, fmt.Errorf("read memory of process: %w", err)
			}
			*at = kib / (1 << 10)
		}
	}
	return m, nil
}

// ticksPerSecond is USER_HZ, which no system has otherwise.
const ticksPerSecond = 100

// cpuOf is the CPU time of a process that runs.
func cpuOf(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time of process: %w", err)
	}
	// Behind the name, which may have any character, fields are counted from 3.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time of process %d: it has %d fields", pid, len(fields))
	}
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(string(field))
		if err != nil {
			return 0, fmt.Errorf("read CPU time of process: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// stop interrupts a process and waits for its end.
func stop(c *lab.Command) error {
	if err := c.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.Path, err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("stop %s: %w", c.Path, err)
	}
	return nil
}
