//go:build linux

package main

// How long a plugin takes to start: VERSION, against the least a Go program
// can do.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	startTime = "start ms"
	startCPU  = "CPU ms"
	startSize = "bytes"
	ownPlugin = "overlay-vxlan"
)

// sizeLimit is what the plugin's binary may have.
const sizeLimit = 8_000_000

func measureStart(ctx context.Context, o *options, dir string) (*section, error) {
	built, err := buildProgram(ctx, dir, "hello")
	if err != nil {
		return nil, err
	}
	names := []string{"hello", ownPlugin, "ptp", "bridge", "host-local"}
	files := []string{filepath.Join(built, "hello"), filepath.Join(o.bin, ownPlugin)}
	for _, name := range names[2:] {
		files = append(files, filepath.Join(o.upstream, name))
	}
	if err := executables(files...); err != nil {
		return nil, err
	}
	request := filepath.Join(dir, "version.json")
	if err := os.WriteFile(request, []byte(`{"cniVersion":"1.1.0"}`), 0o600); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	s := &section{
		name: "start: fork, exec and exit of VERSION", contenders: names, measured: series{},
		metrics: []metric{{name: startTime, digits: 3, tail: true}, {name: startCPU, digits: 3}, {name: startSize}},
	}
	err = inTurns(ctx, 5, o.times(400, 100), len(names), func(round, i int) error {
		wall, cpu, err := startOnce(files[i], request)
		if err == nil && round >= 0 {
			s.measured.add(names[i], startTime, wall)
			s.measured.add(names[i], startCPU, cpu)
		}
		return err
	})
	for i, name := range names {
		info, statErr := os.Stat(files[i])
		if err = errors.Join(err, statErr); err == nil {
			s.measured.add(name, startSize, float64(info.Size()))
		}
	}
	s.measured.add("8 MB", startSize, sizeLimit)
	s.questions = []question{
		{ownPlugin, "hello", startTime, atMost(1.3)},
		{ownPlugin, "hello", startCPU, nil},
		{ownPlugin, "ptp", startTime, nil},
		{ownPlugin, "bridge", startTime, nil},
		{ownPlugin, "host-local", startTime, nil},
		{ownPlugin, "8 MB", startSize, atMost(1)},
	}
	return s, err
}

// startOnce runs a program and returns how many milliseconds of time and of CPU
// time it took.
func startOnce(file, request string) (wall, cpu float64, err error) {
	stdin, err := os.Open(request)
	if err != nil {
		return 0, 0, fmt.Errorf("open request: %w", err)
	}
	defer func() { _ = stdin.Close() }() // read only
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("open output: %w", err)
	}
	defer func() { _ = null.Close() }() // nothing is kept there
	started := time.Now()
	//nolint:gosec // which programs are compared is for the caller to say
	p, err := os.StartProcess(file, []string{file}, &os.ProcAttr{
		Env: []string{"CNI_COMMAND=VERSION"}, Files: []*os.File{stdin, null, os.Stderr},
	})
	if err != nil {
		return 0, 0, fmt.Errorf("start %s: %w", file, err)
	}
	state, err := p.Wait()
	took := time.Since(started)
	if err != nil || !state.Success() {
		return 0, 0, fmt.Errorf("run %s: %v: %w", file, state, err)
	}
	return milliseconds(took), milliseconds(state.UserTime() + state.SystemTime()), nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
