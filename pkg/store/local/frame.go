package local

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
)

// Every file that changes is one frame: the CRC-32 (IEEE) of all that follows it in
// eight hexadecimal digits, a space, and the body. A frame that was cut off,
// extended or altered is told from a whole one, and stays readable with cat.

const checksumLength = 8

var errChecksum = errors.New("checksum does not match the contents")

// seal puts the checksum of a body before it.
func seal(body []byte) []byte {
	return append(fmt.Appendf(nil, "%0*x ", checksumLength, checksum(body)), body...)
}

// unseal returns the body of a frame whose checksum holds.
func unseal(frame []byte) ([]byte, error) {
	if len(frame) <= checksumLength || frame[checksumLength] != ' ' {
		return nil, errors.New("no checksum at the start")
	}
	body := frame[checksumLength+1:]
	if !slices.Equal(frame, seal(body)) {
		return nil, errChecksum
	}
	return body, nil
}

func checksum(body []byte) uint32 {
	return crc32.ChecksumIEEE(body)
}

// parseRevision reads a revision as it is written: decimal digits without
// anything superfluous.
func parseRevision(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse revision: %w", err)
	}
	if n < 0 || strconv.FormatInt(n, 10) != text {
		return 0, fmt.Errorf("parse revision: %q is not how a revision is written", text)
	}
	return n, nil
}
