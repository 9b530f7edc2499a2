package ipam

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/filelock"
)

// Options of a ledger. The zero value is what most want.
type Options struct {
	// BootID names the boot of the machine; "" asks the system. A ledger of another
	// boot is started anew.
	BootID string
	// Cooldown is how long a released address isn't given out again while there is
	// another one. 0 is no time: the order, least recently released first, is then
	// all that keeps them apart.
	Cooldown time.Duration
	// LockWait is the longest wait for other processes, 10 s if 0. The deadline of
	// an operation's context may be nearer.
	LockWait time.Duration
	// Now is the clock, time.Now if nil.
	Now func() time.Time
	// Live, if not nil, lists the addresses in use when there is no ledger, so that
	// one that was lost is restored before it gives its first address. An attachment
	// whose address isn't known, listed with the zero Addr, keeps it from that: the
	// address could be any. It is called with the ledger locked and must not use it.
	Live func(context.Context) ([]Allocation, error)

	wrap func(file) file // lets tests come between
}

const defaultLockWait = 10 * time.Second

// withDefaults fills in what isn't set.
func (o Options) withDefaults() (Options, error) {
	if o.BootID == "" {
		id, err := BootID()
		if err != nil {
			return o, fmt.Errorf("read boot ID: %w", err)
		}
		o.BootID = id
	}
	if len(o.BootID) > maxBoot {
		return o, fmt.Errorf("boot ID %q has more than %d bytes", o.BootID, maxBoot)
	}
	if o.LockWait <= 0 {
		o.LockWait = defaultLockWait
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.wrap == nil {
		o.wrap = func(f file) file { return f }
	}
	return o, nil
}

// Ledger is the node's record of which attachment holds which address of one
// network. Its methods may be called concurrently, from any number of goroutines
// and processes.
type Ledger struct {
	path string
	opts Options
	// turn has the one place for the operation in progress; the fields below are
	// its own.
	turn   chan struct{}
	disk   *os.File
	closed bool
}

// OpenLedger opens the ledger at path, or makes an empty one. It reads nothing:
// what is wrong with the content is told by the first operation.
func OpenLedger(path string, opts Options) (*Ledger, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	l := &Ledger{path: path, opts: opts, turn: make(chan struct{}, 1)}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	return l, nil
}

// Close waits for the operation in progress and closes the file. Later
// operations fail with os.ErrClosed.
func (l *Ledger) Close() error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.closed = true
	if err := l.shut(); err != nil {
		return fmt.Errorf("close ledger %s: %w", l.path, err)
	}
	return nil
}

func (l *Ledger) open() error {
	disk, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return plain(err)
	}
	info, err := disk.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return errors.Join(plain(err), disk.Close())
	}
	l.disk = disk
	return nil
}

// shut closes the file, which also unlocks it.
func (l *Ledger) shut() error {
	if l.disk == nil {
		return nil
	}
	disk := l.disk
	l.disk = nil
	return disk.Close()
}

// plain takes the path out of an error: those returned to callers begin with it.
func plain(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", pathErr.Op, pathErr.Err)
	}
	return err
}

// do runs one operation under the lock. What fn changes is written when it
// returns nil, and forgotten otherwise.
func (l *Ledger) do(ctx context.Context, verb string, fn func(*tx) error) error {
	err := l.exclusively(ctx, func() error {
		f := l.opts.wrap(diskFile{l.disk})
		head, err := readHeader(f, l.opts.BootID)
		if err != nil {
			return err
		}
		t := newTx(f, head)
		if err := fn(t); err != nil {
			return err
		}
		return t.commit()
	})
	if err != nil {
		return fmt.Errorf("%s ledger %s: %w", verb, l.path, err)
	}
	return nil
}

// exclusively runs fn while nobody else has the file that the path names.
func (l *Ledger) exclusively(ctx context.Context, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, l.opts.LockWait)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return lockedError(ctx)
	}
	defer func() { <-l.turn }()
	if l.closed {
		return os.ErrClosed
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	err := fn()
	if unlockErr := filelock.Release(l.disk); unlockErr != nil {
		err = errors.Join(err, fmt.Errorf("unlock: %w", unlockErr), l.shut())
	}
	return err
}

// lock locks the file that the path names. The one that is open may have been
// replaced or removed while this process waited, in which case the new one is
// opened and waited for.
func (l *Ledger) lock(ctx context.Context) error {
	for {
		if l.disk == nil {
			if err := l.open(); err != nil {
				return err
			}
		}
		if err := filelock.Wait(ctx, l.disk, filelock.Exclusive); err != nil {
			if ctx.Err() != nil {
				return lockedError(ctx)
			}
			return plain(err)
		}
		current, err := l.current(ctx)
		if err == nil && current {
			return nil
		}
		if err = errors.Join(err, l.shut()); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return lockedError(ctx)
		}
	}
}

// current says whether the locked file is the one that the path names. It may
// cease to be so here, when a lost ledger is restored.
func (l *Ledger) current(ctx context.Context) (bool, error) {
	info, err := stillNamed(l.disk, l.path)
	if err != nil || info == nil {
		return false, err
	}
	if info.Size() != 0 || l.opts.Live == nil {
		return true, nil
	}
	live, err := l.opts.Live(ctx)
	if err != nil {
		return false, fmt.Errorf("list live attachments: %w", err)
	}
	if len(live) == 0 {
		return true, nil
	}
	for _, a := range live {
		if !a.Address.IsValid() {
			return false, corruptf("it is lost, and which address %s has isn't known; delete that container", a.Attachment)
		}
	}
	return false, replace(l.path, l.opts, live, &remains{})
}

// stillNamed is what an open file is if the path names it, else nil.
func stillNamed(disk *os.File, path string) (fs.FileInfo, error) {
	have, err := disk.Stat()
	if err != nil {
		return nil, plain(err)
	}
	named, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // documented: no other file is meant
	case err != nil:
		return nil, plain(err)
	case !os.SameFile(have, named):
		return nil, nil //nolint:nilnil // documented
	}
	return have, nil
}

// readHeader reads the header of a locked file, and makes the file usable first
// if it is empty, of another boot, or was left by a process that died.
func readHeader(f file, boot string) (header, error) {
	size, err := f.Size()
	if err != nil {
		return header{}, fmt.Errorf("read size: %w", err)
	}
	if size == 0 {
		return start(f, boot)
	}
	if size < headerSize {
		return header{}, corruptf("file has %d bytes, less than a header", size)
	}
	var b [dynamicOffset + dynamicSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return header{}, fmt.Errorf("read header: %w", err)
	}
	same, err := sameBoot(b[:staticSize], boot)
	if err != nil {
		return header{}, err
	}
	if !same {
		return start(f, boot)
	}
	head, err := decodeHeader(b[dynamicOffset:])
	if err != nil {
		return header{}, err
	}
	if err := head.fits(size); err != nil {
		return header{}, err
	}
	switch {
	case head.started():
		return clearFile(f, head)
	case head.dirty:
		return repair(f, head)
	}
	return head, nil
}

// start makes an empty ledger of a file. Its first page is one write: before it
// the file is what it was, after it a ledger of this boot that is to be cleared.
// That page is synced, as the next boot has to find there that it isn't of it.
func start(f file, boot string) (header, error) {
	head := header{dirty: true} // and of no operation: only a start leaves that
	if _, err := f.WriteAt(firstPage(boot, head), 0); err != nil {
		return header{}, fmt.Errorf("write header: %w", err)
	}
	if err := f.Sync(); err != nil {
		return header{}, fmt.Errorf("sync header: %w", err)
	}
	return clearFile(f, head)
}

func firstPage(boot string, head header) []byte {
	b := make([]byte, headerSize)
	copy(b, encodeStatic(boot))
	copy(b[dynamicOffset:], head.encode())
	return b
}

// clearFile ends the start of an empty ledger: tables without heads are a hole.
func clearFile(f file, head header) (header, error) {
	for _, size := range []int64{headerSize, arenaOffset} {
		if err := f.Truncate(size); err != nil {
			return header{}, fmt.Errorf("truncate: %w", err)
		}
	}
	head = header{committed: head.committed + 1}
	if _, err := f.WriteAt(head.encode(), dynamicOffset); err != nil {
		return header{}, fmt.Errorf("write header: %w", err)
	}
	return head, nil
}

func lockedError(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrLocked, context.Cause(ctx))
}
