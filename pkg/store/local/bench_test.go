package local

import (
	"fmt"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// BenchmarkOpenAndRevision is what a short-lived process does that finds
// nothing new.
func BenchmarkOpenAndRevision(b *testing.B) {
	dir := filled(b, 100)
	for b.Loop() {
		if _, err := open(b, dir, Options{}).Revision(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList1000(b *testing.B) {
	s := open(b, filled(b, 1000), Options{})
	for b.Loop() {
		if _, _, err := s.List(b.Context(), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, opts := range []Options{{}, {NoSync: true}} {
		b.Run(fmt.Sprintf("nosync=%v", opts.NoSync), func(b *testing.B) {
			s := open(b, filled(b, 1), opts)
			revision := store.Revision(1)
			var err error
			for b.Loop() {
				if revision, err = s.Update(b.Context(), "lease/0", []byte("value"), revision); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func filled(b *testing.B, keys int) string {
	dir := b.TempDir()
	s := open(b, dir, Options{NoSync: true})
	for i := range keys {
		if _, err := s.Create(b.Context(), fmt.Sprintf("lease/%d", i), make([]byte, 200)); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}
