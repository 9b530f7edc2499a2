package cni_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDelDuringAdd: a DEL that comes while an ADD still runs waits for it, so
// that what it frees isn't used.
func TestDelDuringAdd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.ok("STATUS", b.conf(nil))
	bin := t.TempDir()
	b.path = append([]string{bin}, b.path...)
	started, goOn := filepath.Join(bin, "started"), filepath.Join(bin, "go-on")
	writeScript(t, filepath.Join(bin, "slow"), fmt.Sprintf(`#!/bin/sh
cat >/dev/null
[ $CNI_COMMAND = ADD ] || { echo $CNI_COMMAND >>%[1]s; exit 0; }
echo ADD >>%[1]s
while [ ! -e %[2]s ]; do sleep 0.01; done
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.244.1.9/24"}]}'
`, started, goOn))
	conf := b.conf(map[string]any{"ipam": map[string]any{"type": "slow"}})
	added, deleted := make(chan answer, 1), make(chan answer, 1)
	go func() { added <- b.run("ADD", conf) }()
	await(t, func() bool { return fileExists(started) })
	go func() { deleted <- b.run("DEL", conf) }()
	select {
	case <-deleted:
		t.Error("DEL didn't wait")
	case <-time.After(200 * time.Millisecond):
	}
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := <-added; a.status != 0 {
		t.Errorf("ADD: %s", a.stdout)
	}
	if a := <-deleted; a.status != 0 {
		t.Errorf("DEL: %s", a.stdout)
	}
	if calls := strings.Join(strings.Fields(readFile(t, started)), " "); calls != "ADD DEL" {
		t.Errorf("IPAM was called for %q", calls)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// await fails unless a condition comes true soon.
func await(t *testing.T, condition func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it didn't happen")
		}
	}
}
