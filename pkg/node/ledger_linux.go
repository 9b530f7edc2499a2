package node

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

// watchLedger calls changed when so many addresses were taken, or freed, that the
// node needs another block, or one less. The kernel tells of the ledger's writes,
// so ADDs and DELs tell nobody.
func (n *Network) watchLedger(ctx context.Context, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch ledger: %w", err)
	}
	defer func() { _ = w.Close() }()
	dir := filepath.Dir(n.Ledger)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("watch ledger: %w", err)
	}
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch ledger %s: %w", n.Ledger, err)
	}
	written := true // what was taken before we watched counts as well
	look := time.NewTimer(ledgerPause)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-w.Errors:
			return fmt.Errorf("watch ledger %s: %w", n.Ledger, err)
		case e := <-w.Events:
			if !written && e.Name == n.Ledger {
				written = true
				look.Reset(ledgerPause)
			}
		case <-look.C:
			written = false
			if again := n.rouse(ctx, changed); again > 0 {
				look.Reset(again)
			}
		}
	}
}

// rouse calls changed if a sync would get the node another block, or rid of one,
// and returns when to look again, 0 for when the ledger is written. A claim that
// was refused a moment ago isn't made again: the store's changes bring the next
// try, or time.
func (n *Network) rouse(ctx context.Context, changed func()) time.Duration {
	n.blocks.mu.Lock()
	own, refused := n.blocks.own, n.blocks.refused
	n.blocks.mu.Unlock()
	if len(own) == 0 {
		return 0
	}
	if left := refusedPause - time.Since(refused); left > 0 {
		return left
	}
	d, err := n.look(ctx, own)
	if err != nil {
		n.Log.Warn("look at ledger", "network", n.Spec.Name, "error", err)
	}
	if !d.None() {
		changed()
	}
	return d.Wait
}
