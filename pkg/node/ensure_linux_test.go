package node_test

// Without a daemon: many plugins at once, and a state that got lost.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// Tests with other processes run the test binary again, as a plugin that wants
// the node's state; the variable has the node's configuration.
const roleVariable = "OVERLAY_NODE_TEST_CONFIG"

func TestMain(m *testing.M) {
	text := os.Getenv(roleVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := ensureAndPrint([]byte(text)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ensureAndPrint(text []byte) error {
	var c config.Node
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	s := spec()
	state, err := node.Ensure(context.Background(), &c, &s, (&journal{}).logger())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(state)
}

// alone is a node without a daemon.
type alone struct {
	config.Node
	host *lab.Node
	log  *journal
}

func newAlone(t testing.TB) *alone {
	t.Helper()
	h := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	return &alone{
		Node: config.Node{Name: "n1", RunDir: h.RunDir(), DataDir: filepath.Join(h.Dir(), "data"), Firewall: firewall.Auto},
		host: h, log: &journal{},
	}
}

func (a *alone) ensure(t testing.TB) (state *nodestate.State) {
	t.Helper()
	s := spec()
	err := a.host.Do(func() (err error) {
		state, err = node.Ensure(t.Context(), &a.Node, &s, a.log.logger())
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return state
}

// countSyncs counts, until it is asked, how often the state is written.
func (a *alone) countSyncs(t testing.TB) func() int {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(a.RunDir)
	}
	if err != nil {
		t.Fatal(err)
	}
	count, done := 0, make(chan struct{})
	marker := filepath.Join(a.RunDir, "marker")
	go func() {
		defer close(done)
		for e := range w.Events {
			if e.Name == nodestate.Path(a.RunDir, "pods") && e.Has(fsnotify.Create) {
				count++
			}
			if e.Name == marker {
				return
			}
		}
	}()
	return func() int {
		t.Helper()
		if err := os.WriteFile(marker, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the watcher doesn't come to an end")
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		return count
	}
}

func TestEnsureAtOnce(t *testing.T) {
	t.Parallel()
	const many = 16
	ways := map[string]func(t *testing.T, a *alone) []*nodestate.State{
		"goroutines": func(t *testing.T, a *alone) []*nodestate.State {
			states := make([]*nodestate.State, many)
			var work sync.WaitGroup
			for i := range states {
				work.Go(func() { states[i] = a.ensure(t) })
			}
			work.Wait()
			return states
		},
		"processes": func(t *testing.T, a *alone) []*nodestate.State {
			text, err := json.Marshal(a.Node)
			if err != nil {
				t.Fatal(err)
			}
			states := make([]*nodestate.State, many)
			var work sync.WaitGroup
			for i := range states {
				work.Go(func() {
					c := a.host.Command(t.Context(), os.Args[0])
					c.Env = append(os.Environ(), roleVariable+"="+string(text))
					out, err := c.Output()
					if err == nil {
						err = json.Unmarshal(out, &states[i])
					}
					if err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				})
			}
			work.Wait()
			return states
		},
	}
	for name, run := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAlone(t)
			synced := a.countSyncs(t)
			states := run(t, a)
			if n := synced(); n != 1 {
				t.Errorf("synced %d times", n)
			}
			for _, s := range states[1:] {
				if !reflect.DeepEqual(s, states[0]) {
					t.Errorf("%+v\n%+v", s, states[0])
				}
			}
			if states[0] == nil || len(states[0].VTEP.Blocks) != 2 {
				t.Errorf("state %+v", states[0])
			}
		})
	}
}

func TestEnsureAgain(t *testing.T) {
	t.Parallel()
	a := newAlone(t)
	first := a.ensure(t)
	tests := []struct {
		name   string
		change func() error
		syncs  int
	}{
		{"nothing lost", func() error { return nil }, 0},
		{"state lost", func() error { return nodestate.Remove(a.RunDir, "pods") }, 1},
		{"state cut off", func() error { return os.Truncate(nodestate.Path(a.RunDir, "pods"), 100) }, 1},
		{"state of another version", func() error {
			return os.WriteFile(nodestate.Path(a.RunDir, "pods"), []byte(`{"version": 2}`), 0o600)
		}, 1},
		{"device lost", func() error { return a.host.Command(t.Context(), "ip", "link", "delete", "ovx4096").Run() }, 1},
		{"everything in /run lost", func() error { return a.host.Reset() }, 1},
		{"nothing lost since", func() error { return nil }, 0},
	}
	for _, tt := range tests {
		if err := tt.change(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		synced := a.countSyncs(t)
		again := a.ensure(t)
		if n := synced(); n != tt.syncs {
			t.Errorf("%s: synced %d times, want %d", tt.name, n, tt.syncs)
		}
		if !reflect.DeepEqual(again, first) {
			t.Errorf("%s: %+v, first %+v", tt.name, again, first)
		}
		if out, err := a.host.Command(t.Context(), "ip", "link", "show", "ovx4096").CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", tt.name, err, out)
		}
		if err := os.Remove(filepath.Join(a.RunDir, "marker")); err != nil {
			t.Error(err)
		}
	}
}

// Another node that joins in the same store makes the state old.
func TestEnsureSeesNewPeers(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Topology{})
	dir := t.TempDir()
	nodes := [2]*alone{}
	for n := range nodes {
		h := labtest.Node(t, l, fmt.Sprintf("n%d", n), "a")
		nodes[n] = &alone{
			Node: config.Node{Name: h.Name(), RunDir: h.RunDir(), DataDir: dir, Firewall: firewall.Auto},
			host: h, log: &journal{},
		}
		nodes[n].ensure(t)
	}
	for _, a := range nodes {
		a.ensure(t)
	}
	for _, to := range nodes[1].ensure(t).VTEP.Addresses() {
		if _, err := nodes[0].host.Ping(t.Context(), to); err != nil {
			t.Error(err)
		}
	}
}
