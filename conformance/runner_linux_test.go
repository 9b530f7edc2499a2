package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNotRoot: what is missing is said before anything is tried.
func TestNotRoot(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread, which alone is another user's, ends
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			result <- fmt.Errorf("become another user: %w", errno)
			return
		}
		_, err := Run(t.Context(), Target{}, Options{})
		result <- err
	}()
	if err := <-result; err == nil || !strings.Contains(err.Error(), "needs root") {
		t.Errorf("%v", err)
	}
}

// TestInterrupted: a plugin that is killed because the run is interrupted has
// broken nothing, also when no other clause is to come.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	began := filepath.Join(dir, "began")
	if err := unix.Mkfifo(began, 0o600); err != nil {
		t.Fatal(err)
	}
	// The DEL of what was never added hangs, once.
	script(t, dir, "one", `in=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}';;
ADD) echo '{"cniVersion": "1.1.0"}';;
DEL) case $in in *prevResult*) exit 0;; esac
	mkdir `+dir+`/once || exit 0
	echo >`+began+`
	exec sleep 1000;;
esac`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		if f, err := os.Open(began); err == nil { // waits for the plugin
			_ = f.Close()
		}
		cancel()
	}()
	target := Target{Conflist: []byte(`{"name": "n", "plugins": [{"type": "one"}]}`), Bin: []string{dir}}
	report, err := Run(ctx, target, Options{Clauses: []string{"2.4-del-07"}})
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("%+v, %v", report, err)
	}
}
