package ipam

import (
	"errors"
	"fmt"
)

// tx is one operation. It reads what it needs, changes copies, and writes them
// at the end, in an order in which a kill at any point can be told from the end.
type tx struct {
	f         file
	head, was header
	op        uint64 // the operation's number
	slots     map[uint32]*page
	touched   []uint32 // the slots in the order of their reading
	words     map[int64]*word
	offsets   []int64    // the words in the order of their reading
	activated []span     // ranges that became active
	gone      []interval // what is withdrawn, once it was read
	list      []byte     // what is withdrawn, when it has to be written
}

// page is a slot in hand.
type page struct {
	slot
	was   slot
	fresh bool // appended by this operation
}

// word is a chain head in hand.
type word struct{ now, was uint32 }

func newTx(f file, head header) *tx {
	return &tx{f: f, head: head, was: head, op: head.committed + 1,
		slots: make(map[uint32]*page, 8), words: make(map[int64]*word, 8)}
}

// slot reads slot i, once.
func (t *tx) slot(i uint32) (*page, error) {
	if p, ok := t.slots[i]; ok {
		return p, nil
	}
	if i == 0 || i > t.head.slots {
		return nil, corruptf("link to slot %d of %d", i, t.head.slots)
	}
	p := new(page)
	if _, err := t.f.ReadAt(p.slot[:], slotOffset(i)); err != nil {
		return nil, fmt.Errorf("read slot %d: %w", i, err)
	}
	if err := p.check(i); err != nil {
		return nil, err
	}
	t.keep(i, p)
	return p, nil
}

func (t *tx) keep(i uint32, p *page) {
	p.was = p.slot
	t.slots[i] = p
	t.touched = append(t.touched, i)
}

// record reads slot i, which must be a record.
func (t *tx) record(i uint32) (*page, error) {
	p, err := t.slot(i)
	if err == nil && !p.isRecord() {
		return nil, corruptf("slot %d is no record", i)
	}
	return p, err
}

// owner reads slot i, which must be a range.
func (t *tx) owner(i uint32) (*page, error) {
	p, err := t.slot(i)
	if err == nil && !p.isRange() {
		return nil, corruptf("slot %d is no range", i)
	}
	return p, err
}

// extend adds an empty slot to the arena.
func (t *tx) extend() (uint32, *page, error) {
	if t.head.slots >= maxSlots {
		return 0, nil, fmt.Errorf("all %d slots are used", maxSlots)
	}
	t.head.slots++
	p := &page{fresh: true}
	t.keep(t.head.slots, p)
	return t.head.slots, p, nil
}

// first reads the head of a chain, once.
func (t *tx) first(at int64) (*word, error) {
	if w, ok := t.words[at]; ok {
		return w, nil
	}
	var b [4]byte
	if _, err := t.f.ReadAt(b[:], at); err != nil {
		return nil, fmt.Errorf("read bucket at %d: %w", at, err)
	}
	w := &word{le.Uint32(b[:]), le.Uint32(b[:])}
	t.words[at] = w
	t.offsets = append(t.offsets, at)
	return w, nil
}

// commit writes the operation, or takes back what it wrote.
func (t *tx) commit() error {
	if !t.changed() {
		return nil
	}
	t.head.committed = t.op
	err := t.write()
	if err == nil {
		return nil
	}
	if undo := t.undo(); undo != nil {
		return errors.Join(err, fmt.Errorf("undo, which is left to the next operation: %w", undo))
	}
	return err
}

func (t *tx) changed() bool {
	if t.head != t.was {
		return true
	}
	for _, p := range t.slots {
		if p.slot != p.was {
			return true
		}
	}
	return false
}

// write has three phases. The mark comes first. Then everything but the states
// of records: nobody believes new slots, as they aren't counted yet, or the copy
// of the list that the header doesn't name, and an index is derived. The states are last, a word each. The header ends it all.
func (t *tx) write() error {
	mark := t.was
	mark.dirty = true
	if err := t.put(mark.encode(), dynamicOffset, "mark of the header"); err != nil {
		return err
	}
	if len(t.list) > 0 {
		if err := t.put(t.list, t.head.withdrawn.offset(), "withdrawn ranges"); err != nil {
			return err
		}
	}
	for _, i := range t.touched {
		p := t.slots[i]
		p.seal()
		if p.slot == p.was {
			continue
		}
		body := p.slot
		if !p.fresh {
			body.set(atState, p.was.state())
		}
		if err := t.put(body[:], slotOffset(i), "slot"); err != nil {
			return err
		}
	}
	for _, at := range t.offsets {
		if w := t.words[at]; w.now != w.was {
			if err := t.put(le.AppendUint32(nil, w.now), at, "bucket"); err != nil {
				return err
			}
		}
	}
	for _, i := range t.touched {
		if p := t.slots[i]; !p.fresh && p.state() != p.was.state() {
			if err := t.put(p.slot[atState:atState+4], slotOffset(i), "state of slot"); err != nil {
				return err
			}
		}
	}
	return t.put(t.head.encode(), dynamicOffset, "header")
}

// undo puts everything back that may have been written. All of it is in place,
// so that it needs no room on the disk.
func (t *tx) undo() error {
	for _, i := range t.touched {
		if p := t.slots[i]; !p.fresh && p.slot != p.was {
			if err := t.put(p.was[:], slotOffset(i), "slot"); err != nil {
				return err
			}
		}
	}
	for _, at := range t.offsets {
		if w := t.words[at]; w.now != w.was {
			if err := t.putBack(w.was, at); err != nil {
				return err
			}
		}
	}
	if err := t.f.Truncate(slotOffset(t.was.slots + 1)); err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	return t.put(t.was.encode(), dynamicOffset, "header")
}

// putBack restores a chain head, unless it was never changed: a bucket may be a
// hole in the file that the full disk has no room for.
func (t *tx) putBack(v uint32, at int64) error {
	var b [4]byte
	if _, err := t.f.ReadAt(b[:], at); err != nil {
		return fmt.Errorf("read bucket at %d: %w", at, err)
	}
	if le.Uint32(b[:]) == v {
		return nil
	}
	return t.put(le.AppendUint32(nil, v), at, "bucket")
}

func (t *tx) put(b []byte, at int64, what string) error {
	if _, err := t.f.WriteAt(b, at); err != nil {
		return fmt.Errorf("write %s at %d: %w", what, at, err)
	}
	return nil
}
