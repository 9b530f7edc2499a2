package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// Rebuild replaces the ledger at path, whatever it is, by a new one that holds
// exactly the given addresses. It is the way back from ErrCorrupt: list the
// addresses of the interfaces that live, and rebuild. The new file takes the
// place of the old one in one step; processes that wait for the old one find the
// new one.
//
// What was withdrawn stays so if the old file still tells it. Where it doesn't,
// or is gone, nothing is withdrawn: who was about to give a block back has to
// withdraw it again.
func Rebuild(ctx context.Context, path string, opts Options, live []Allocation) error {
	opts.Live = nil
	l, err := OpenLedger(path, opts)
	if err != nil {
		return err
	}
	err = l.exclusively(ctx, func() error {
		return replace(l.path, l.opts, live, salvage(l.opts.wrap(diskFile{l.disk}), l.opts.BootID))
	})
	if err != nil {
		err = fmt.Errorf("rebuild ledger %s: %w", path, err)
	}
	return errors.Join(err, l.Close())
}

// rebuiltOp is the operation that records of a rebuilt ledger are of.
const rebuiltOp = 1

// salvage is what is withdrawn in a file that may be anything.
func salvage(f file, boot string) []interval {
	var b [dynamicOffset + dynamicSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return nil
	}
	if same, err := sameBoot(b[:staticSize], boot); err != nil || !same {
		return nil
	}
	head, err := decodeHeader(b[dynamicOffset:])
	if err != nil {
		return nil
	}
	gone, err := readList(f, head.withdrawn)
	if err != nil {
		return nil
	}
	return gone
}

// replace writes a ledger beside the path, which has to be locked, and renames
// it.
func replace(path string, opts Options, live []Allocation, gone []interval) error {
	arena, err := encodeLive(live, opts)
	if err != nil {
		return err
	}
	name := path + ".new"
	disk, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, plain(err))
	}
	err = errors.Join(fill(opts.wrap(diskFile{disk}), opts.BootID, arena, gone), disk.Close())
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(name))
	}
	return nil
}

// fill writes a whole ledger into an empty file.
func fill(f file, boot string, arena []byte, gone []interval) error {
	list, ref, err := encodeList(gone, 0)
	if err != nil {
		return err
	}
	head := header{dirty: true, slots: uint32(len(arena) / slotSize), committed: rebuiltOp, withdrawn: ref}
	if _, err := f.WriteAt(firstPage(boot, head), 0); err != nil {
		return err
	}
	if len(list) > 0 {
		if _, err := f.WriteAt(list, ref.offset()); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(arena, arenaOffset); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	_, err = repair(f, head)
	return err
}

// encodeLive makes records, which belong to no range until one is used.
func encodeLive(live []Allocation, opts Options) ([]byte, error) {
	if len(live) > maxSlots {
		return nil, fmt.Errorf("%d addresses are more than the %d that fit", len(live), maxSlots)
	}
	arena := make([]byte, slotSize*len(live))
	holders := make(map[netip.Addr]Attachment, len(live))
	positions := make(map[Attachment]int)
	for n, allocation := range live {
		if err := allocation.validate(); err != nil {
			return nil, err
		}
		a := allocation.Address.Unmap()
		switch {
		case !a.IsValid() || a.Zone() != "":
			return nil, invalidf("address %q of %s", a, allocation.Attachment)
		case allocation.Truncated:
			return nil, invalidf("container ID %s is cut", allocation.ContainerID)
		}
		if other, ok := holders[a]; ok {
			return nil, invalidf("%s is of %s and of %s", a, other, allocation.Attachment)
		}
		holders[a] = allocation.Attachment
		since := allocation.Since
		if since.IsZero() {
			since = opts.Now()
		}
		s := (*slot)(arena[slotSize*n:])
		s.setAddress(atAddress, a)
		s.setHolder(allocation.Attachment, allocation.identity(), positions[allocation.Attachment])
		positions[allocation.Attachment]++
		s.setLong(atTakenOp, rebuiltOp)
		s.setLong(atSince, uint64(since.UnixNano()))
		s.set(atState, stateTaken)
		s.seal()
	}
	return arena, nil
}
