package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

const (
	// MaxContainerID is the length in bytes of the longest container ID accepted.
	MaxContainerID = 1024
	// InlineContainerID is how many bytes of a container ID the ledger can give
	// back. A longer one is told from all others by its hash, and is returned cut.
	InlineContainerID = 128
	// MaxInterface is the length of the longest interface name, as in the kernel
	// and in CNI.
	MaxInterface = 15
)

// Attachment is a container's interface: what holds addresses.
type Attachment struct {
	ContainerID string
	Interface   string
}

// String names the attachment for errors and logs.
func (a Attachment) String() string {
	return fmt.Sprintf("container %s interface %s", a.ContainerID, a.Interface)
}

// Allocation is an address and who holds it.
type Allocation struct {
	Attachment
	Address netip.Addr
	// Since is when the address was taken.
	Since time.Time
	// Elsewhere is as requested.
	Elsewhere bool
	// Truncated says that ContainerID is only the first InlineContainerID bytes.
	Truncated bool
}

// identity is what an attachment or a range is found by. 128 bits of SHA-256
// don't collide.
type identity [16]byte

func (k identity) bucket() uint32 { return binary.LittleEndian.Uint32(k[:]) % bucketCount }

func (a Attachment) identity() identity {
	var buf [8 + MaxContainerID + MaxInterface]byte
	text := append(buf[:0], "attach:"...)
	text = append(text, byte(len(a.Interface))) // so that the two can't be cut differently
	text = append(text, a.Interface...)
	text = append(text, a.ContainerID...)
	sum := sha256.Sum256(text)
	return identity(sum[:16])
}

func (a Attachment) validate() error {
	switch {
	case a.ContainerID == "":
		return invalidf("container ID is empty")
	case len(a.ContainerID) > MaxContainerID:
		return invalidf("container ID has %d bytes, more than %d", len(a.ContainerID), MaxContainerID)
	case a.Interface == "":
		return invalidf("interface name is empty")
	case len(a.Interface) > MaxInterface:
		return invalidf("interface name %q has more than %d bytes", a.Interface, MaxInterface)
	}
	return nil
}
