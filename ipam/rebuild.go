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
	return RebuildFrom(ctx, path, opts, func(context.Context, Snapshot, error) ([]Allocation, error) { return live, nil })
}

// Chooser says what a new ledger holds. It is given what can be read of the old
// one, and why not all can where that is so, else nil; an error of its own leaves
// the old ledger in place.
type Chooser func(ctx context.Context, old Snapshot, damage error) ([]Allocation, error)

// RebuildFrom is Rebuild where the old ledger still has a say. The old one is
// locked while choose runs, so that nothing is taken or freed between; choose must
// not use it. An allocation of the old ledger's may be passed on as it is, also
// one whose container ID was cut.
func RebuildFrom(ctx context.Context, path string, opts Options, choose Chooser) error {
	opts.Live = nil
	l, err := OpenLedger(path, opts)
	if err != nil {
		return err
	}
	err = l.exclusively(ctx, func() error {
		old := salvage(l.opts.wrap(diskFile{l.disk}), l.opts.BootID)
		chosen, err := choose(ctx, old.snapshot(), old.damage)
		if err != nil {
			return err
		}
		return replace(l.path, l.opts, chosen, old)
	})
	if err != nil {
		err = fmt.Errorf("rebuild ledger %s: %w", path, err)
	}
	return errors.Join(err, l.Close())
}

// rebuiltOp is the operation that records of a rebuilt ledger are of.
const rebuiltOp = 1

// replace writes a ledger beside the path, which has to be locked, and renames
// it.
func replace(path string, opts Options, live []Allocation, old *remains) error {
	arena, err := encodeLive(live, old, opts)
	if err != nil {
		return err
	}
	name := path + ".new"
	disk, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, plain(err))
	}
	err = errors.Join(fill(opts.wrap(diskFile{disk}), opts.BootID, arena, old.gone), disk.Close())
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
func encodeLive(live []Allocation, old *remains, opts Options) ([]byte, error) {
	if len(live) > maxSlots {
		return nil, fmt.Errorf("%d addresses are more than the %d that fit", len(live), maxSlots)
	}
	arena := make([]byte, slotSize*len(live))
	holders := make(map[netip.Addr]Attachment, len(live))
	positions := make(map[identity]int)
	for n, allocation := range live {
		s := (*slot)(arena[slotSize*n:])
		if err := s.restore(allocation, old); err != nil {
			return nil, err
		}
		a := s.address(atAddress)
		if other, ok := holders[a]; ok {
			return nil, invalidf("%s is of %s and of %s", a, other, allocation.Attachment)
		}
		holders[a] = allocation.Attachment
		s[atPosition] = byte(min(positions[s.key()], 255))
		positions[s.key()]++
		since := allocation.Since
		if since.IsZero() {
			since = opts.Now()
		}
		s.setLong(atSince, uint64(since.UnixNano()))
		s.seal()
	}
	return arena, nil
}

// restore makes an empty slot the record of an allocation. What was cut of its
// container ID only the old ledger knows.
func (s *slot) restore(a Allocation, old *remains) error {
	address := a.Address.Unmap()
	if err := a.validate(); err != nil {
		return err
	}
	if !address.IsValid() || address.Zone() != "" {
		return invalidf("address %q of %s", address, a.Attachment)
	}
	if a.Truncated {
		was := old.held[address]
		if was == nil || !was.heldAs(a) {
			return invalidf("container ID %s is cut", a.ContainerID)
		}
		*s = slot{}
		copy(s[atKey:], was[atKey:atTakenOp])
		copy(s[atIDLen:], was[atIDLen:])
	} else {
		s.setAddress(atAddress, address)
		s.setHolder(a.Attachment, a.identity(), 0, a.Elsewhere)
	}
	s.setLong(atTakenOp, rebuiltOp)
	s.set(atState, stateTaken)
	return nil
}
