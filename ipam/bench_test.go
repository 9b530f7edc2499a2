package ipam

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkAllocate is one Allocate and one Release; the part of Allocate alone
// is reported beside it. "open" opens and closes the ledger for each, as a
// plugin does.
func BenchmarkAllocate(b *testing.B) {
	for _, taken := range []int{0, 4000, 30000} {
		for _, reopen := range []bool{false, true} {
			name := fmt.Sprintf("taken=%d", taken)
			if reopen {
				name += "/open"
			}
			b.Run(name, func(b *testing.B) { benchmarkAllocate(b, taken, reopen) })
		}
	}
}

func benchmarkAllocate(b *testing.B, taken int, reopen bool) {
	ctx := context.Background()
	path := filepath.Join(b.TempDir(), "ledger")
	r := between("10.0.0.0", "10.0.255.255", "10.0.0.0/32", "10.0.255.255/32")
	l := open(b, path, Options{})
	for n := range taken {
		allocate(b, l, ask(pod(n), r))
	}
	a := pod(taken)
	var alone float64
	for b.Loop() {
		before := b.Elapsed()
		if reopen {
			l = open(b, path, Options{})
		}
		if _, err := l.Allocate(ctx, ask(a, r)); err != nil {
			b.Fatal(err)
		}
		if reopen {
			l.Close()
		}
		alone += float64(b.Elapsed() - before)
		if reopen {
			l = open(b, path, Options{})
		}
		if _, err := l.Release(ctx, a); err != nil {
			b.Fatal(err)
		}
		if reopen {
			l.Close()
		}
	}
	b.ReportMetric(alone/float64(b.N), "ns/allocate")
}
