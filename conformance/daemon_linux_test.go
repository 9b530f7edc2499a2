package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// needsReady is a plugin that attaches nothing before its daemon is ready.
const needsReady = `cat >/dev/null
case $CNI_COMMAND in
ADD) if [ -e /run/ready ]; then echo '{"ips": []}'; else echo '{"code": 11, "msg": "no daemon"}'; exit 1; fi ;;
esac
`

// daemonBench makes a bench of a target with a daemon.
func daemonBench(t *testing.T, daemon, plugin string) (*bench, error) {
	t.Helper()
	dir := t.TempDir()
	script(t, dir, "one", plugin)
	p, err := read(Target{Conflist: []byte(`{"name": "n", "plugins": [{"type": "one"}]}`), Bin: []string{dir}, Daemon: daemon})
	if err != nil {
		t.Fatal(err)
	}
	p.convergence = 2 * time.Second
	node := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	b, err := newBench(t.Context(), p, "1.1.0", node, site{index: 3})
	if err == nil {
		t.Cleanup(func() {
			if err := b.close(); err != nil {
				t.Error(err)
			}
		})
	}
	return b, err
}

// TestDaemonReady: a daemon is waited for, one that does its work and ends also.
func TestDaemonReady(t *testing.T) {
	t.Parallel()
	for _, daemon := range []string{
		"sleep 0.3; touch /run/ready; exec sleep 60",
		"touch /run/ready",
		`[ "$(command -v one)" = "${PATH##*:}/one" ] && touch /run/ready`,
		`[ "$NODE$INDEX" = n13 ] && [ "$(hostname)" = n1 ] && [ -d "$SHARED" ] && touch /run/ready`,
	} {
		if _, err := daemonBench(t, daemon, needsReady); err != nil {
			t.Errorf("%s: %v", daemon, err)
		}
	}
}

// TestDaemonNeverReady: a target whose daemon isn't ready can't be tested, and
// the end of the daemon's log tells why. One that has failed isn't waited for.
func TestDaemonNeverReady(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		daemon string
		atOnce bool
		says   []string
	}{
		{"echo what is wrong; exec sleep 60", false, []string{"2s after", "what is wrong", "no daemon"}},
		{"seq 100000; exec sleep 60", false, []string{"\n    100000"}},
		{"echo what is wrong >&2; exit 3", true, []string{"exit status 3", "what is wrong"}},
		{"exit 0", false, []string{"2s after"}},
	} {
		begun := time.Now()
		_, err := daemonBench(t, c.daemon, needsReady)
		if !errors.Is(err, ErrTarget) {
			t.Errorf("%s: %v", c.daemon, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: the error lacks %q: %v", c.daemon, text, err)
			}
		}
		if len(err.Error()) > 20000 {
			t.Errorf("%s: the error has %d bytes", c.daemon, len(err.Error()))
		}
		if took := time.Since(begun); took > 1500*time.Millisecond && c.atOnce {
			t.Errorf("%s: it took %s", c.daemon, took)
		}
		violation, violated := errors.AsType[*Violation](orViolated(err))
		if !violated || strings.Contains(violation.Text, "\n") || violation.Exchange == nil {
			t.Errorf("%s: where it is what is checked: %+v", c.daemon, violation)
		}
	}
}

// TestDaemonStops: nothing of a daemon goes on, whatever it has done to get
// away.
func TestDaemonStops(t *testing.T) {
	t.Parallel()
	b, err := daemonBench(t, "setsid sh -c 'touch /run/ready; sleep 60 & sleep 60' & setsid sleep 60 & sleep 60", needsReady)
	if err != nil {
		t.Fatal(err)
	}
	all, err := b.machine.processes()
	if err != nil || len(all) < 4 {
		t.Fatalf("%d processes, %v", len(all), err)
	}
	if err := b.stopDaemon(); err != nil {
		t.Fatal(err)
	}
	for pid := range all {
		if status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status")); err == nil && !strings.Contains(string(status), "zombie") {
			t.Errorf("it goes on: %s", status)
		}
	}
	if left, err := b.machine.processes(); err != nil || len(left) > 0 {
		t.Errorf("%d go on, %v", len(left), err)
	}
	if err := b.startDaemon(t.Context()); err != nil {
		t.Errorf("it can't be started again: %v", err)
	}
}

// TestFailedCallTellsOfDaemon: who reads that a plugin failed sees what the
// daemon has said.
func TestFailedCallTellsOfDaemon(t *testing.T) {
	t.Parallel()
	b, err := daemonBench(t, "touch /run/ready; echo I am here; exec sleep 60", needsReady+"[ $CNI_COMMAND != CHECK ]")
	if err != nil {
		t.Fatal(err)
	}
	a, err := b.prepare()
	if err != nil {
		t.Fatal(err)
	}
	if x := b.all(t.Context(), "CHECK", a); !strings.Contains(x.String(), "I am here") {
		t.Errorf("it failed without the daemon's log: %s", x)
	}
	if x := b.add(t.Context(), a); x.Status != 0 || x.Log != "" {
		t.Errorf("it succeeded: %s", x)
	}
}
