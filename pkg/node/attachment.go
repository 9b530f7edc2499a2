package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/pkg/filelock"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
)

// ErrBusy says that another call for an attachment hasn't ended.
var ErrBusy = errors.New("attachment is busy")

// Exclusively keeps ADD and DEL of one attachment, and whoever frees what it
// leaked, from running at the same time. The specification leaves that to the
// runtime, but one that was killed and restarted may have left an ADD behind
// that still runs: its address would be freed by the DEL, and used by the ADD
// all the same. The error wraps ErrBusy when ctx ends first.
//
// The locks are a fixed number of files, so that none need ever be removed;
// attachments that share one wait for each other, which does no harm.
func Exclusively(ctx context.Context, runDir string, a intent.Attachment, fn func() error) (err error) {
	dir := filepath.Join(runDir, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("lock attachment: %w", err)
	}
	sum := sha256.Sum256([]byte(a.HostInterface()))
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%02x%x", sum[0], sum[1]&0x3)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock attachment: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := filelock.Wait(ctx, f, filelock.Exclusive); err != nil {
		return fmt.Errorf("%w: another call for %s hasn't ended: %w", ErrBusy, a.HostInterface(), err)
	}
	return fn()
}
