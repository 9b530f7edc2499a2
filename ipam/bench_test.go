package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
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

// BenchmarkWithdrawn is the same beside as many withdrawn ranges as there can be,
// and one more Withdraw and Admit of a block, with 30000 addresses taken.
func BenchmarkWithdrawn(b *testing.B) {
	ctx := context.Background()
	l := newLedger(b, Options{})
	r := between("10.0.0.0", "10.0.255.255")
	for n := range 30000 {
		allocate(b, l, ask(pod(n), r))
	}
	block := between("10.1.0.0", "10.1.0.63")
	allocate(b, l, ask(pod(30000), block))
	release(b, l, pod(30000))
	for n := range MaxWithdrawn - 1 {
		first := netip.AddrFrom4([4]byte{10, 2, byte(n), 0})
		withdraw(b, l, Range{First: first, Last: first.Next()})
	}
	b.Run("allocate", func(b *testing.B) {
		for b.Loop() {
			allocate(b, l, ask(pod(30000), r))
			release(b, l, pod(30000))
		}
	})
	b.Run("withdraw", func(b *testing.B) {
		for b.Loop() {
			if err := l.Withdraw(ctx, block); err != nil {
				b.Fatal(err)
			}
			admit(b, l, block)
		}
	})
}

// BenchmarkMemory is what a ledger with 30000 taken addresses takes: bytes of file
// for each, and the heap of one Allocate in a process that opens the ledger for it.
// Nothing is freed before such a process ends, so all that it allocates is its peak.
func BenchmarkMemory(b *testing.B) {
	const taken = 30000
	ctx := context.Background()
	path := filepath.Join(b.TempDir(), "ledger")
	r := between("10.0.0.0", "10.0.255.255", "10.0.0.0/32", "10.0.255.255/32")
	l := open(b, path, Options{})
	for n := range taken {
		allocate(b, l, ask(pod(n), r))
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	var most uint64
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.ReadMemStats(&before)
		process, err := OpenLedger(path, Options{BootID: "boot-1"})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := process.Allocate(ctx, ask(pod(taken), r)); err != nil {
			b.Fatal(err)
		}
		process.Close()
		runtime.ReadMemStats(&after)
		most = max(most, after.TotalAlloc-before.TotalAlloc)
		release(b, l, pod(taken))
	}
	b.ReportMetric(float64(info.Size())/taken, "file-B/address")
	b.ReportMetric(float64(most), "heap-B/allocate")
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
