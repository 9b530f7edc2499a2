//go:build linux

package main

// The section "dataplane": what a packet from pod to pod costs, against the
// same shape without any rules.

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// kind of traffic.
type kind struct {
	name   string // on the command line
	metric metric
	port   uint16
}

// kinds returns those that were asked for.
func kinds(names string) ([]kind, error) {
	all := []kind{
		{"stream", metric{name: "TCP stream Gbit/s", digits: 2}, streamPort},
		{"roundtrip", metric{name: "round trips/s"}, roundTripPort},
		{"connect", metric{name: "connections/s"}, connectPort},
		{"packet", metric{name: "64-byte packets/s"}, datagramPort},
	}
	var found []kind
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(k kind) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no traffic %q; there are %s", name, everyTraffic)
		}
		found = append(found, all[i])
	}
	return found, nil
}

const everyTraffic = "stream,roundtrip,connect,packet"

// share is what of the traffic of the same shape without our rules we want.
const share = 0.98

func measureDataplane(ctx context.Context, o *options, dir string) (s *section, err error) {
	if err := absolute(&o.bin); err != nil {
		return nil, err
	}
	cpu := o.cpu
	if cpu < 0 {
		if cpu, err = lastCPU(); err != nil {
			return nil, err
		}
	}
	asked, err := kinds(o.traffic)
	if err != nil {
		return nil, err
	}
	l, err := lab.New(ctx, lab.Topology{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b := &builder{lab: l, options: o, dir: filepath.Join(dir, "dataplane")}
	setups, err := b.buildAll(ctx, strings.Split(o.setups, ","))
	if err != nil {
		return nil, err
	}
	s = newDataplane(asked, setups)
	s.name = "dataplane: " + o.family + " from pod to pod of another node"
	s.notes = []string{
		fmt.Sprintf("All on CPU %d, %s at a time.", cpu, o.slice),
		"plain: the same shape made by hand, without any rules; masquerade: the same with one masquerade rule.",
	}
	if err := s.traffic(ctx, o, asked, setups, cpu); err != nil {
		return nil, err
	}
	for _, made := range setups {
		tracked, err := made.tracked()
		if err != nil {
			return nil, err
		}
		s.notes = append(s.notes, fmt.Sprintf("%s: MTU of pods %d; connections tracked by the nodes at the end: %s.", made.name, made.mtu, tracked))
	}
	return s, nil
}

// newDataplane is the section with its questions, not measured yet.
func newDataplane(asked []kind, setups []*setup) *section {
	s := &section{measured: series{}}
	for _, made := range setups {
		s.contenders = append(s.contenders, made.name)
	}
	for _, k := range asked {
		s.metrics = append(s.metrics, k.metric)
		s.questions = append(s.questions,
			question{"ours", "plain", k.metric.name, atLeast(share)},
			question{"ours", "masquerade", k.metric.name, atLeast(share)})
		for _, made := range setups {
			if made.name != "plain" && made.name != "ours" {
				s.questions = append(s.questions, question{made.name, "plain", k.metric.name, nil})
			}
		}
	}
	return s
}

// traffic measures the kinds one after the other, the set-ups in turns.
func (s *section) traffic(ctx context.Context, o *options, asked []kind, setups []*setup, cpu int) error {
	for _, k := range asked {
		err := inTurns(ctx, 1, o.times(41, 7), len(setups), func(round, i int) error {
			d := o.slice
			if round < 0 {
				d = warmUp
			}
			rate, err := setups[i].traffic.measure(k.port, d, cpu)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", setups[i].name, k.metric.name, err)
			}
			if round >= 0 {
				s.measured.add(setups[i].name, k.metric.name, rate)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
