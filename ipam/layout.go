package ipam

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"net/netip"
	"time"
)

// The file: a header of one page, two copies of the list of what is withdrawn,
// two tables of chain heads, and an arena of slots that only grows. A slot is an address's record or a range's. Slots are
// numbered from 1, so that a 0 ends a chain and a hole in the file is an empty
// table. No slot crosses a page, so the kernel copies each write of one whole.
const (
	headerSize  = 4096
	bucketCount = 1 << 16
	tableSize   = 4 * bucketCount
	arenaOffset = headerSize + 2*listSize + 2*tableSize
	slotSize    = 256
	maxSlots    = 1 << 20

	magic   = "ovl-ipam"
	version = 2
	maxBoot = 64

	// The header's two parts are in sectors of their own: what names the boot is
	// never rewritten with other bytes in that boot, so no power failure tears it.
	staticSize    = 96
	dynamicOffset = 512
	dynamicSize   = 40
)

// table is where a table of chain heads begins, and tells the two apart.
type table int64

const (
	byKey     table = headerSize + 2*listSize // taken records and ranges, by identity
	byAddress table = byKey + tableSize       // all records, by address
)

func (t table) offset(bucket uint32) int64 { return int64(t) + 4*int64(bucket) }

func slotOffset(i uint32) int64 { return arenaOffset + slotSize*int64(i-1) }

var le = binary.LittleEndian //nolint:gochecknoglobals // a constant in all but the language

// checksum uses the polynomial whose tables cost a process that never computes
// one nothing.
func checksum(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

// header is the part of the header that operations change.
type header struct {
	dirty     bool
	slots     uint32 // in the arena; what lies beyond was never published
	committed uint64 // the number of the last operation
	orphans   uint32 // records that belong to no range
	ranges    uint32 // the newest range; others follow by its link
	taken     uint32
	withdrawn listRef
}

func (h header) encode() []byte {
	b := make([]byte, dynamicSize)
	if h.dirty {
		b[0] = 1
	}
	b[1] = h.withdrawn.copy
	le.PutUint16(b[2:], h.withdrawn.count)
	le.PutUint32(b[4:], h.slots)
	le.PutUint64(b[8:], h.committed)
	le.PutUint32(b[16:], h.orphans)
	le.PutUint32(b[20:], h.ranges)
	le.PutUint32(b[24:], h.taken)
	le.PutUint32(b[28:], h.withdrawn.sum)
	le.PutUint32(b[dynamicSize-4:], checksum(b[:dynamicSize-4]))
	return b
}

func decodeHeader(b []byte) (header, error) {
	if checksum(b[:dynamicSize-4]) != le.Uint32(b[dynamicSize-4:]) {
		return header{}, corruptf("checksum of the header")
	}
	h := header{
		dirty: b[0] != 0, slots: le.Uint32(b[4:]), committed: le.Uint64(b[8:]),
		orphans: le.Uint32(b[16:]), ranges: le.Uint32(b[20:]), taken: le.Uint32(b[24:]),
		withdrawn: listRef{copy: b[1], count: le.Uint16(b[2:]), sum: le.Uint32(b[28:])},
	}
	if h.slots > maxSlots {
		return header{}, corruptf("header counts %d slots, more than %d", h.slots, maxSlots)
	}
	if h.withdrawn.copy > 1 || h.withdrawn.count > MaxWithdrawn {
		return header{}, corruptf("header counts %d withdrawn ranges in copy %d", h.withdrawn.count, h.withdrawn.copy)
	}
	return h, nil
}

// started says that an empty ledger was begun here, and not ended.
func (h header) started() bool { return h.dirty && h.slots == 0 && h.committed == 0 }

// fits says whether a file of that size can be the header's. What an operation
// that didn't end has appended lies beyond.
func (h header) fits(size int64) error {
	want := slotOffset(h.slots + 1)
	if h.started() || size == want || (h.dirty && size > want) {
		return nil
	}
	return corruptf("file has %d bytes; %d slots make %d", size, h.slots, want)
}

// encodeStatic is what names the file, its form and its boot.
func encodeStatic(boot string) []byte {
	b := make([]byte, staticSize)
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], slotSize)
	le.PutUint32(b[16:], bucketCount)
	le.PutUint32(b[20:], uint32(len(boot)))
	copy(b[24:24+maxBoot], boot)
	le.PutUint32(b[staticSize-4:], checksum(b[:staticSize-4]))
	return b
}

// sameBoot reads the static part. The form matters only within one boot: a
// ledger of a past one isn't believed whatever its form is.
func sameBoot(b []byte, boot string) (bool, error) {
	want := encodeStatic(boot)
	if bytes.Equal(b, want) {
		return true, nil
	}
	switch {
	case string(b[:8]) != magic:
		return false, corruptf("magic is %q", b[:8])
	case checksum(b[:staticSize-4]) != le.Uint32(b[staticSize-4:]):
		return false, corruptf("checksum of the first sector")
	case !bytes.Equal(b[20:24+maxBoot], want[20:24+maxBoot]):
		return false, nil
	case le.Uint32(b[8:]) != version:
		return false, corruptf("version is %d, known is %d", le.Uint32(b[8:]), version)
	}
	return false, corruptf("slots of %d bytes and %d buckets", le.Uint32(b[12:]), le.Uint32(b[16:]))
}

// What a slot is. Words that nothing else writes show a stray write.
const (
	stateFree     uint32 = 0x65657266 // "free"
	stateTaken    uint32 = 0x6e656b74 // "tken"
	stateActive   uint32 = 0x76746361 // "actv": a range that owns its addresses
	stateInactive uint32 = 0x74636e69 // "inct": a range that another one replaced
)

// Where a slot has what. All up to the body follows from the bodies and states
// of all slots, but for the owner, of which any value will do after a crash.
const (
	atState    = 0
	atSum      = 4  // of the body
	atKeyNext  = 8  // the chain by identity
	atAddrNext = 12 // record: the chain by address
	atPrev     = 16 // record: the one freed before it
	atNext     = 20 // record: the one freed after it
	atOwner    = 24 // record: the range that it belongs to, or 0

	atOlder     = 12 // range: the range added before it
	atHead      = 16 // range: the least recently freed record
	atTail      = 20 // range: the most recently freed record
	atHeld      = 24 // range: how many records are taken
	atFreed     = 28 // range: how many records are free
	atBody      = 32
	atKey       = 32 // both: identity
	atAddress   = 48 // record
	atTakenOp   = 64 // record: the operation that took it last
	atFreedOp   = 72 // record: the operation that freed it last
	atSince     = 80 // record: when taken
	atFreedAt   = 88 // record: when freed
	atIDLen     = 96 // record
	atIfLen     = 98
	atPosition  = 99  // record: which set of its request it came from
	atInterface = 100 // record
	atID        = 116 // record
	atElsewhere = 244 // record: 1 when somebody else makes the interface

	atFirst      = 48  // range
	atLast       = 64  // range
	atCursor     = 80  // range: the first address that may never have been given
	atCursorPrev = 96  // range: the cursor before the operation at atCursorOp
	atCursorOp   = 112 // range
	atEnd        = 120 // range: 1 when the cursor is past the last address
	atEndPrev    = 121 // range
)

// slot is a record or a range as it is in the file.
type slot [slotSize]byte

func (s *slot) word(at int) uint32        { return le.Uint32(s[at:]) }
func (s *slot) set(at int, v uint32)      { le.PutUint32(s[at:], v) }
func (s *slot) add(at int, delta int)     { s.set(at, s.word(at)+uint32(delta)) }
func (s *slot) long(at int) uint64        { return le.Uint64(s[at:]) }
func (s *slot) setLong(at int, v uint64)  { le.PutUint64(s[at:], v) }
func (s *slot) state() uint32             { return s.word(atState) }
func (s *slot) key() identity             { return identity(s[atKey:]) }
func (s *slot) address(at int) netip.Addr { return netip.AddrFrom16([16]byte(s[at:])).Unmap() }
func (s *slot) setAddress(at int, a netip.Addr) {
	raw := a.As16()
	copy(s[at:], raw[:])
}
func (s *slot) isRecord() bool   { st := s.state(); return st == stateFree || st == stateTaken }
func (s *slot) isRange() bool    { st := s.state(); return st == stateActive || st == stateInactive }
func (s *slot) bounds() interval { return interval{s.address(atFirst), s.address(atLast)} }
func (s *slot) seal()            { s.set(atSum, checksum(s[atBody:])) }

// check says what is wrong with a slot by itself.
func (s *slot) check(i uint32) error {
	if s.word(atSum) != checksum(s[atBody:]) {
		return corruptf("checksum of slot %d", i)
	}
	if !s.isRecord() && !s.isRange() {
		return corruptf("slot %d has state %#x", i, s.state())
	}
	if s.isRecord() && (s[atIfLen] > MaxInterface || le.Uint16(s[atIDLen:]) > MaxContainerID) {
		return corruptf("slot %d has a name that is too long", i)
	}
	return nil
}

// bucket is where a slot belongs in a table.
func (s *slot) bucket(t table) uint32 {
	if t == byKey {
		return s.key().bucket()
	}
	return addressBucket(s.address(atAddress))
}

// addressBucket spreads neighbours by Fibonacci hashing.
func addressBucket(a netip.Addr) uint32 {
	hi, lo := halves(a)
	return uint32(((lo ^ bits.RotateLeft64(hi, 29)) * 0x9e3779b97f4a7c15) >> 48)
}

func halves(a netip.Addr) (hi, lo uint64) {
	raw := a.As16()
	return binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])
}

// elsewhere says whether somebody else makes the holder's interface.
func (s *slot) elsewhere() bool { return s[atElsewhere] != 0 }

// setHolder writes who takes the record.
func (s *slot) setHolder(a Attachment, key identity, position int, elsewhere bool) {
	copy(s[atKey:], key[:])
	le.PutUint16(s[atIDLen:], uint16(len(a.ContainerID)))
	s[atIfLen] = byte(len(a.Interface))
	s[atPosition] = byte(min(position, 255))
	clear(s[atInterface:])
	copy(s[atInterface:atID], a.Interface)
	copy(s[atID:atID+InlineContainerID], a.ContainerID)
	if elsewhere {
		s[atElsewhere] = 1
	}
}

// allocation is what a taken record says.
func (s *slot) allocation() Allocation {
	length := int(le.Uint16(s[atIDLen:]))
	inline := min(length, InlineContainerID)
	return Allocation{
		Attachment: Attachment{
			ContainerID: string(s[atID : atID+inline]),
			Interface:   string(s[atInterface : atInterface+int(s[atIfLen])]),
		},
		Address:   s.address(atAddress),
		Since:     time.Unix(0, int64(s.long(atSince))),
		Elsewhere: s.elsewhere(),
		Truncated: length > inline,
	}
}
