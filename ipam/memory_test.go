package ipam

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"
)

// memory is a file in memory, of which holes take no room.
type memory struct {
	pages map[int64]*[headerSize]byte
	size  int64
}

func newMemory(content []byte) *memory {
	m := &memory{pages: map[int64]*[headerSize]byte{}}
	for at := 0; at < len(content); at += headerSize {
		page := content[at:min(at+headerSize, len(content))]
		if !bytes.Equal(page, make([]byte, len(page))) {
			m.write(page, int64(at))
		}
	}
	m.size = int64(len(content))
	return m
}

// parts visits the pages that n bytes from at lie in.
func (m *memory) parts(at int64, n int, visit func(page int64, from, to, done int)) {
	for done := 0; done < n; {
		page, from := (at+int64(done))/headerSize, int((at+int64(done))%headerSize)
		to := min(headerSize, from+n-done)
		visit(page, from, to, done)
		done += to - from
	}
}

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	n := int(max(0, min(int64(len(b)), m.size-at)))
	m.parts(at, n, func(page int64, from, to, done int) {
		if p := m.pages[page]; p != nil {
			copy(b[done:], p[from:to])
		} else {
			clear(b[done : done+to-from])
		}
	})
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) write(b []byte, at int64) {
	m.parts(at, len(b), func(page int64, from, to, done int) {
		p := m.pages[page]
		if p == nil {
			p = new([headerSize]byte)
			m.pages[page] = p
		}
		copy(p[from:to], b[done:])
	})
	m.size = max(m.size, at+int64(len(b)))
}

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	m.write(b, at)
	return len(b), nil
}

func (m *memory) Truncate(size int64) error {
	if size < m.size {
		maps.DeleteFunc(m.pages, func(page int64, _ *[headerSize]byte) bool { return page*headerSize >= size })
		if p := m.pages[size/headerSize]; p != nil {
			clear(p[size%headerSize:])
		}
	}
	m.size = size
	return nil
}

func (m *memory) Size() (int64, error) { return m.size, nil }
func (m *memory) Sync() error          { return nil }

// loseUnsynced leaves of each page what a power failure may leave: what chance
// says, but for the sector that was synced.
func (m *memory) loseUnsynced(intn func(string, int) int) {
	for _, page := range slices.Sorted(maps.Keys(m.pages)) {
		p := m.pages[page]
		from := 0
		if page == 0 {
			from = dynamicOffset
		}
		switch intn("page", 3) {
		case 0:
			clear(p[from:])
		case 1:
			for i := from; i < len(p); i += 1 + intn("stride", 64) {
				p[i] ^= 0x55
			}
		}
	}
	if intn("shorter", 4) == 0 && m.size > headerSize {
		m.Truncate(headerSize + int64(intn("size", int(m.size-headerSize))))
	}
}

// The file in memory is like one on the disk, whatever is done to it.
func TestMemoryIsAFile(t *testing.T) {
	content := make([]byte, 3*headerSize+100)
	content[headerSize*2+5], content[len(content)-1] = 7, 9
	m := newMemory(content)
	if len(m.pages) != 2 {
		t.Fatalf("%d pages", len(m.pages))
	}
	want := bytes.Clone(content)
	check := func() {
		t.Helper()
		got := bytes.Repeat([]byte{1}, len(want))
		if n, err := m.ReadAt(got, 0); err != nil || n != len(want) || !bytes.Equal(got, want) {
			t.Fatal("content differs", n, err)
		}
		if n, err := m.ReadAt(make([]byte, 20), int64(len(want)-3)); n != 3 || !errors.Is(err, io.EOF) {
			t.Fatal(n, err)
		}
	}
	check()
	m.WriteAt([]byte("across"), headerSize-3)
	copy(want[headerSize-3:], "across")
	check()
	m.Truncate(headerSize + 1)
	m.Truncate(2 * headerSize)
	want = append(want[:headerSize+1], make([]byte, headerSize-1)...)
	check()
}
