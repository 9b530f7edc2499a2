package ipam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/filelock"
)

// Snapshot is what a ledger says at one moment.
type Snapshot struct {
	// Held is every address that is held, in ascending order.
	Held []Allocation
	// Withdrawn is what is withdrawn, in ascending order.
	Withdrawn []Range
}

// Inspect reads all of the ledger at path and changes nothing: it makes no file,
// restores none that was lost, and repairs none. It is for who wants to look only;
// opts.Live isn't asked.
//
// A file that isn't there is an error that wraps fs.ErrNotExist. One that is empty
// or of another boot holds nothing. With an error that wraps ErrCorrupt, which is
// also what Verify would find, the snapshot has what can be read all the same.
func Inspect(ctx context.Context, path string, opts Options) (Snapshot, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return Snapshot{}, fmt.Errorf("inspect ledger %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, opts.LockWait)
	defer cancel()
	disk, err := openShared(ctx, path)
	if err != nil {
		return Snapshot{}, fmt.Errorf("inspect ledger %s: %w", path, err)
	}
	r := salvage(opts.wrap(diskFile{disk}), opts.BootID)
	if err := errors.Join(r.damage, disk.Close()); err != nil {
		return r.snapshot(), fmt.Errorf("inspect ledger %s: %w", path, err)
	}
	return r.snapshot(), nil
}

// Usage counts the addresses of each set, as the ledger's own Usage does.
func (s *Snapshot) Usage(sets []RangeSet) ([]Usage, error) {
	parsed, err := parseSets(sets)
	if err != nil {
		return nil, err
	}
	gone := make([]interval, 0, len(s.Withdrawn))
	for _, r := range s.Withdrawn {
		gone = append(gone, interval{r.First, r.Last})
	}
	usage := make([]Usage, len(parsed))
	for i, set := range parsed {
		for n := range set {
			open := set[n].less(gone)
			var taken uint64
			for _, a := range s.Held {
				if open.gives(a.Address) {
					taken++
				}
			}
			usage[i].add(taken, &set[n], open)
		}
	}
	return usage, nil
}

// openShared opens the file that the path names, and keeps all from changing it.
func openShared(ctx context.Context, path string) (*os.File, error) {
	for {
		disk, err := os.Open(path)
		if err != nil {
			return nil, plain(err)
		}
		current, err := lockShared(ctx, disk, path)
		if err == nil && current {
			return disk, nil
		}
		if err = errors.Join(err, disk.Close()); err != nil {
			return nil, err
		}
	}
}

// lockShared locks a file, and says whether the path still names it then.
func lockShared(ctx context.Context, disk *os.File, path string) (bool, error) {
	if err := filelock.Wait(ctx, disk, filelock.Shared); err != nil {
		if ctx.Err() != nil {
			return false, lockedError(ctx)
		}
		return false, plain(err)
	}
	info, err := stillNamed(disk, path)
	return info != nil, err
}

// remains is what can be read of a file that may be anything.
type remains struct {
	held map[netip.Addr]*slot
	gone []interval
	// damage is the first that was found wrong.
	damage error
}

func (r *remains) spoil(err error) {
	if r.damage == nil {
		r.damage = err
	}
}

// snapshot is what remains, for others.
func (r *remains) snapshot() Snapshot {
	var s Snapshot
	for _, record := range r.held {
		s.Held = append(s.Held, record.allocation())
	}
	sortAllocations(s.Held)
	for _, i := range r.gone {
		s.Withdrawn = append(s.Withdrawn, Range{First: i.first, Last: i.last})
	}
	return s
}

// salvage reads what it can. A file whose first sector doesn't say that it is a
// ledger of this boot holds nothing: the attachments of another one are gone.
func salvage(f file, boot string) *remains {
	r := &remains{held: make(map[netip.Addr]*slot)}
	size, err := f.Size()
	if err != nil {
		r.spoil(fmt.Errorf("read size: %w", err))
		return r
	}
	if size == 0 {
		return r
	}
	var b [dynamicOffset + dynamicSize]byte
	if _, err := f.ReadAt(b[:], 0); errors.Is(err, io.EOF) {
		r.spoil(corruptf("file has %d bytes, less than a header", size))
		return r
	} else if err != nil {
		r.spoil(fmt.Errorf("read header: %w", err))
		return r
	}
	same, err := sameBoot(b[:staticSize], boot)
	if err != nil || !same {
		r.damage = err
		return r
	}
	present := uint32(min(max(size-arenaOffset, 0)/slotSize, maxSlots))
	head, err := decodeHeader(b[dynamicOffset:])
	if err != nil { // and so it isn't known which operation was the last one
		r.spoil(err)
		r.readSlots(f, header{slots: present})
		return r
	}
	if err := head.fits(size); err != nil {
		r.spoil(err)
	}
	if r.gone, err = readList(f, head.withdrawn); err != nil {
		r.spoil(err)
	}
	counted := head
	head.slots = min(head.slots, present)
	r.readSlots(f, head)
	if r.damage == nil && !head.dirty {
		r.damage = (&verifier{tx: newTx(f, counted)}).run()
	}
	return r
}

// readSlots reads the taken records, as they were before an operation that didn't
// end.
func (r *remains) readSlots(f file, head header) {
	seen := make(map[netip.Addr]uint32)
	err := scanSlots(f, head.slots, func(i uint32, s *slot) error {
		if err := s.check(i); err != nil {
			r.spoil(err)
			return nil
		}
		if !s.isRecord() {
			return nil
		}
		record := *s
		if head.dirty {
			if err := rollBack(i, &record, head.committed); err != nil {
				r.spoil(err)
			}
		}
		a := record.address(atAddress)
		if other, ok := seen[a]; ok {
			r.spoil(corruptf("slots %d and %d are both of %s", other, i, a))
		}
		seen[a] = i
		if record.state() == stateTaken {
			r.held[a] = &record
		}
		return nil
	})
	if err != nil {
		r.spoil(err)
	}
}
