package blocks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// ledgerPause is how long changes of the ledger are collected before it is
// looked at.
const ledgerPause = 20 * time.Millisecond

// Watch calls changed when so many addresses were taken, or freed, that the
// node needs another block, or one less. The kernel tells of the ledger's writes,
// so ADDs and DELs tell nobody.
func (k *Keeper) Watch(ctx context.Context, ledger string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch ledger: %w", err)
	}
	defer func() { _ = w.Close() }()
	dir := filepath.Dir(ledger)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("watch ledger: %w", err)
	}
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch ledger %s: %w", ledger, err)
	}
	written := true // what was taken before we watched counts as well
	look := time.NewTimer(ledgerPause)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-w.Errors:
			return fmt.Errorf("watch ledger %s: %w", ledger, err)
		case e := <-w.Events:
			if !written && e.Name == ledger {
				written = true
				look.Reset(ledgerPause)
			}
		case <-look.C:
			written = false
			if again := k.rouse(ctx, changed); again > 0 {
				look.Reset(again)
			}
		}
	}
}

// rouse calls changed if a sync would get the node another block, or rid of one,
// and returns when to look again, 0 for when the ledger is written. A claim that
// was refused a moment ago isn't made again: the store's changes bring the next
// try, or time.
func (k *Keeper) rouse(ctx context.Context, changed func()) time.Duration {
	k.mu.Lock()
	own, refused := k.own, k.refused
	k.mu.Unlock()
	if len(own) == 0 {
		return 0
	}
	if left := refusedPause - k.now().Sub(refused); left > 0 {
		return left
	}
	d, err := k.Look(ctx, own)
	if err != nil {
		k.Log.Warn("look at ledger", "error", err)
	}
	if !d.None() {
		changed()
	}
	return d.Wait
}
