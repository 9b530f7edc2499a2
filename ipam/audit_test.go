package ipam

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func has(n int, address string) Allocation {
	a := Allocation{Attachment: pod(n)}
	if address != "" {
		a.Address = addr(address)
	}
	return a
}

func elsewhere(a Allocation) Allocation {
	a.Elsewhere = true
	return a
}

func TestAudit(t *testing.T) {
	blocks := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}
	long := Allocation{Attachment: Attachment{strings.Repeat("x", 300), "eth0"}, Address: addr("10.0.0.7")}
	cut := long
	cut.ContainerID, cut.Truncated = cut.ContainerID[:InlineContainerID], true
	tests := map[string]struct {
		held, live []Allocation
		want       Report
		says       string
	}{
		"nothing":    {says: "nothing differs"},
		"agree":      {held: []Allocation{has(1, "10.0.0.1"), has(1, "fd00::1")}, live: []Allocation{has(1, "fd00::1"), has(1, "::ffff:10.0.0.1")}, says: "nothing differs"},
		"agree, cut": {held: []Allocation{cut}, live: []Allocation{long}, says: "nothing differs"},
		"leaked": {held: []Allocation{has(2, "fd00::1"), has(1, "10.0.0.1")}, live: []Allocation{has(3, "")},
			want: Report{Leaked: []Allocation{has(1, "10.0.0.1"), has(2, "fd00::1")}},
			says: "leaked 10.0.0.1 of container pod-1 interface eth0\nleaked fd00::1 of container pod-2 interface eth0"},
		"being made":           {held: []Allocation{has(1, "10.0.0.1")}, live: []Allocation{has(1, "")}, says: "nothing differs"},
		"one of two addresses": {held: []Allocation{has(1, "10.0.0.1"), has(1, "fd00::1")}, live: []Allocation{has(1, "10.0.0.1")}, says: "nothing differs"},
		"elsewhere": {held: []Allocation{elsewhere(has(1, "10.0.0.1")), has(2, "10.0.0.2")},
			want: Report{Leaked: []Allocation{has(2, "10.0.0.2")}}, says: "leaked 10.0.0.2 of container pod-2 interface eth0"},
		"elsewhere, and live with another": {held: []Allocation{elsewhere(has(1, "10.0.0.1"))}, live: []Allocation{has(2, "10.0.0.1")},
			want: Report{Duplicate: []Conflict{{addr("10.0.0.1"), []Attachment{pod(1)}, []Attachment{pod(2)}}}},
			says: "duplicate 10.0.0.1 held by container pod-1 interface eth0, live at container pod-2 interface eth0"},
		"elsewhere, and foreign": {held: []Allocation{elsewhere(has(1, "10.0.1.1"))},
			want: Report{Foreign: []Allocation{elsewhere(has(1, "10.0.1.1"))}}, says: "foreign 10.0.1.1 of container pod-1 interface eth0"},
		"orphaned": {live: []Allocation{has(1, "10.0.0.1")}, want: Report{Orphaned: []Allocation{has(1, "10.0.0.1")}},
			says: "orphaned 10.0.0.1 of container pod-1 interface eth0"},
		"live twice": {held: []Allocation{has(1, "10.0.0.1")}, live: []Allocation{has(2, "10.0.0.1"), has(1, "10.0.0.1")},
			want: Report{Duplicate: []Conflict{{addr("10.0.0.1"), []Attachment{pod(1)}, []Attachment{pod(1), pod(2)}}}},
			says: "duplicate 10.0.0.1 held by container pod-1 interface eth0, live at container pod-1 interface eth0, live at container pod-2 interface eth0"},
		"held by another than lives": {held: []Allocation{has(1, "10.0.0.1")}, live: []Allocation{has(2, "10.0.0.1")},
			want: Report{Duplicate: []Conflict{{addr("10.0.0.1"), []Attachment{pod(1)}, []Attachment{pod(2)}}}},
			says: "duplicate 10.0.0.1 held by container pod-1 interface eth0, live at container pod-2 interface eth0"},
		"listed twice is one": {held: []Allocation{has(1, "10.0.0.1")}, live: []Allocation{has(1, "10.0.0.1"), has(1, "10.0.0.1")}, says: "nothing differs"},
		"foreign": {held: []Allocation{has(1, "10.0.1.1"), has(2, "10.0.1.2")}, live: []Allocation{has(1, "10.0.1.1"), has(3, "fd01::1")},
			want: Report{
				Leaked: []Allocation{has(2, "10.0.1.2")}, Orphaned: []Allocation{has(3, "fd01::1")},
				Foreign: []Allocation{has(1, "10.0.1.1"), has(2, "10.0.1.2"), has(3, "fd01::1")}},
			says: "orphaned fd01::1 of container pod-3 interface eth0\nforeign 10.0.1.1 of container pod-1 interface eth0\n" +
				"foreign 10.0.1.2 of container pod-2 interface eth0\nforeign fd01::1 of container pod-3 interface eth0\n" +
				"leaked 10.0.1.2 of container pod-2 interface eth0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for range 5 { // the order of the lists doesn't matter
				got := Audit(test.held, test.live, blocks)
				if !reflect.DeepEqual(got, test.want) || got.String() != test.says || got.Clean() != (test.says == "nothing differs") {
					t.Fatalf("got %+v\n%s\nwant %+v\n%s", got, got, test.want, test.says)
				}
				for _, list := range [][]Allocation{test.held, test.live} {
					rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				}
			}
		})
	}
}

func TestCollector(t *testing.T) {
	type look struct {
		at     int // seconds
		leaked []Allocation
		want   []Allocation
	}
	one, two := has(1, "10.0.0.1"), has(2, "10.0.0.2")
	again := one
	again.Since = time.Unix(5, 0)
	all := func(a ...Allocation) []Allocation { return a }
	tests := map[string]struct {
		grace int
		looks []look
	}{
		"one look is never enough":  {0, []look{{0, all(one), nil}}},
		"two looks without a grace": {0, []look{{0, all(one), nil}, {0, all(one), all(one)}}},
		"grace":                     {10, []look{{0, all(one), nil}, {9, all(one), nil}, {10, all(one), all(one)}, {11, all(one), all(one)}}},
		"not leaked between":        {10, []look{{0, all(one), nil}, {9, nil, nil}, {10, all(one), nil}, {19, all(one), nil}, {20, all(one), all(one)}}},
		"taken again between":       {10, []look{{0, all(one), nil}, {10, all(again), nil}, {20, all(again), all(again)}}},
		"each by itself":            {10, []look{{0, all(two), nil}, {5, all(two, one), nil}, {10, all(two, one), all(two)}, {15, all(two, one), all(one, two)}}},
		"clock set back":            {10, []look{{100, all(one), nil}, {50, all(one), nil}, {59, all(one), nil}, {60, all(one), all(one)}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := Collector{Grace: time.Duration(test.grace) * time.Second}
			for n, look := range test.looks {
				got := c.Observe(time.Unix(int64(look.at), 0), Report{Leaked: look.leaked})
				if !reflect.DeepEqual(got, look.want) {
					t.Fatalf("look %d: got %v, want %v", n, got, look.want)
				}
				if len(c.Suspects()) != len(look.leaked) {
					t.Fatalf("look %d: suspects %v", n, c.Suspects())
				}
			}
		})
	}
}
