package ipam

import (
	"math"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestSpanSize(t *testing.T) {
	tests := map[string]struct {
		r    Range
		want uint64
	}{
		"one":                      {between("10.0.0.1", "10.0.0.1"), 1},
		"none":                     {between("10.0.0.1", "10.0.0.1", "10.0.0.0/24"), 0},
		"all of IPv4":              {between("0.0.0.0", "255.255.255.255"), 1 << 32},
		"nothing of IPv4":          {between("0.0.0.0", "255.255.255.255", "0.0.0.0/0"), 0},
		"overlapping exclusions":   {between("10.0.0.0", "10.0.0.255", "10.0.0.0/25", "10.0.0.0/30", "10.0.0.128/32"), 127},
		"exclusion outside":        {between("10.0.0.0", "10.0.0.255", "10.0.1.0/24", "fd00::/8"), 256},
		"exclusion of mapped":      {between("10.0.0.0", "10.0.0.255", "::ffff:10.0.0.0/121"), 128},
		"a /65":                    {between("fd00::", "fd00::7fff:ffff:ffff:ffff"), 1 << 63},
		"a /64 saturates":          {between("fd00::", "fd00::ffff:ffff:ffff:ffff"), math.MaxUint64},
		"a /64 less one":           {between("fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00::/128"), math.MaxUint64},
		"a /64 less two":           {between("fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00::/127"), math.MaxUint64 - 1},
		"a /48 less all but a /70": {between("fd00::", "fd00:0:0:ffff:ffff:ffff:ffff:ffff", "fd00::/49", "fd00:0:0:8000::/50", "fd00:0:0:c000::/51", "fd00:0:0:e000::/51"), 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := newSpan(test.r)
			if err != nil || s.size != test.want {
				t.Fatalf("size %d, %v, want %d", s.size, err, test.want)
			}
		})
	}
}

// Against counting one by one, and with the exclusions in another order.
func TestSpanMatchesCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		at := func(n int) netip.Addr {
			if v6 {
				return netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(n >> 8), 15: byte(n)})
			}
			return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		}
		first := rapid.IntRange(0, 600).Draw(t, "first")
		r := Range{First: at(first), Last: at(first + rapid.IntRange(0, 300).Draw(t, "length"))}
		for range rapid.IntRange(0, 5).Draw(t, "exclusions") {
			a := at(rapid.IntRange(0, 900).Draw(t, "excluded"))
			r.Exclude = append(r.Exclude, netip.PrefixFrom(a, a.BitLen()-rapid.IntRange(0, 6).Draw(t, "host bits")))
		}
		s, err := newSpan(r)
		if err != nil {
			t.Fatal(err)
		}
		var count uint64
		for n := range 1000 {
			a := at(n)
			in := r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
			for _, p := range r.Exclude {
				in = in && !p.Contains(a)
			}
			if in {
				count++
			}
			if s.gives(a) != in {
				t.Fatalf("gives %s: %v", a, !in)
			}
		}
		if count != s.size {
			t.Fatalf("size %d, counted %d", s.size, count)
		}
		turned := Range{First: r.First, Last: r.Last}
		for i := len(r.Exclude) - 1; i >= 0; i-- {
			turned.Exclude = append(turned.Exclude, r.Exclude[i])
		}
		if other, err := newSpan(turned); err != nil || other.identity() != s.identity() {
			t.Fatal("the order of exclusions matters")
		}
	})
}
