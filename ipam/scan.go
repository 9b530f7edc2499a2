package ipam

import "fmt"

// scanChunk is how many slots are read at once where all have to be.
const scanChunk = 1024

// scanSlots reads slots 1 to n of a file.
func scanSlots(f file, n uint32, visit func(i uint32, s *slot) error) error {
	buf := make([]byte, slotSize*min(int(n), scanChunk))
	for i := uint32(1); i <= n; {
		count := min(n-i+1, scanChunk)
		chunk := buf[:slotSize*count]
		if _, err := f.ReadAt(chunk, slotOffset(i)); err != nil {
			return fmt.Errorf("read slots from %d: %w", i, err)
		}
		for ; len(chunk) > 0; chunk = chunk[slotSize:] {
			if err := visit(i, (*slot)(chunk)); err != nil {
				return err
			}
			i++
		}
	}
	return nil
}

// scan visits all slots as the file has them; those that are in hand are visited
// as they are in hand. It is for the few operations that concern all addresses.
func (t *tx) scan(visit func(i uint32, s *slot) error) error {
	return scanSlots(t.f, t.was.slots, func(i uint32, s *slot) error {
		if p, ok := t.slots[i]; ok {
			return visit(i, &p.slot)
		}
		if err := s.check(i); err != nil {
			return err
		}
		return visit(i, s)
	})
}

// take is slot i in hand, when s was just read.
func (t *tx) take(i uint32, s *slot) *page {
	if p, ok := t.slots[i]; ok {
		return p
	}
	p := &page{slot: *s}
	t.keep(i, p)
	return p
}
