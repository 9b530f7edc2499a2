package lab

// The errors that callers tell apart.

import "errors"

var (
	// ErrDown says that a host is powered off, a pod deleted or the lab closed.
	ErrDown = errors.New("host is down")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("name is taken")
	// ErrUnknownSegment says that the topology has no segment of that name.
	ErrUnknownSegment = errors.New("unknown segment")
	// ErrThreadLost says that the calling goroutine's thread could not be
	// brought back to the network namespace it came from. The goroutine stays
	// locked to the thread and has to end; the runtime never gives the thread
	// to another goroutine.
	ErrThreadLost = errors.New("thread is lost in another network namespace")
)
