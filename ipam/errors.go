package ipam

import (
	"errors"
	"fmt"
)

// What can be wrong, for errors.Is. The errors returned wrap these and name the
// file, the addresses and the holders concerned.
var (
	// ErrFull says that a set of ranges has no free address.
	ErrFull = errors.New("no free address")
	// ErrTaken says that a fixed address is held by another attachment.
	ErrTaken = errors.New("address is taken")
	// ErrHeld says that the attachment holds addresses already, and that these
	// are not what is requested, or not as requested. Release them first.
	ErrHeld = errors.New("attachment holds other addresses")
	// ErrOutsideRange says that a fixed address lies in none of the ranges, or is
	// excluded.
	ErrOutsideRange = errors.New("address is outside the ranges")
	// ErrInvalid says that a request makes no sense, whatever the ledger holds.
	ErrInvalid = errors.New("invalid request")
	// ErrWithdrawn says that an address may not be given until it is admitted, and,
	// beside ErrFull, that this is so for at least a part of the set.
	ErrWithdrawn = errors.New("withdrawn")
	// ErrInUse says that addresses can't be withdrawn because some are held.
	ErrInUse = errors.New("addresses are in use")
	// ErrTooMany says that more than MaxWithdrawn separate ranges would be withdrawn.
	ErrTooMany = errors.New("too many withdrawn ranges")
	// ErrLocked says that another process held the ledger for longer than the
	// caller would wait.
	ErrLocked = errors.New("ledger is locked")
	// ErrCorrupt says that the file isn't a ledger that can be believed. Rebuild
	// replaces it.
	ErrCorrupt = errors.New("ledger is corrupt")
)

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
