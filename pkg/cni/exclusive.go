package cni

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

// exclusively keeps ADD and DEL of one attachment from running at the same
// time. The specification leaves that to the runtime, but one that was killed
// and restarted may have left an ADD behind that still runs: its address would
// be freed by the DEL, and used by the ADD all the same.
//
// The locks are a fixed number of files, so that none need ever be removed;
// attachments that share one wait for each other, which does no harm.
func exclusively(ctx context.Context, dir string, a intent.Attachment, fn func() error) (err error) {
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
		return fmt.Errorf("%w: another call for %s hasn't ended: %w", errBusy, a.HostInterface(), err)
	}
	return fn()
}

// errBusy: see exclusively.
var errBusy = errors.New("attachment is busy")
