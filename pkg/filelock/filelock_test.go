package filelock_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/filelock"
)

// held names the file that this process shall lock, when it is a test's helper.
const held = "FILELOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(held); path != "" {
		os.Exit(hold(path))
	}
	os.Exit(m.Run())
}

// hold locks a file, says so, and keeps the lock until it is killed.
func hold(path string) int {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 1
	}
	if locked, err := filelock.Try(f, filelock.Exclusive); err != nil || !locked {
		return 2
	}
	if _, err := os.Stdout.WriteString("locked\n"); err != nil {
		return 3
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // for ever: nothing comes
	if err := f.Close(); err != nil {
		return 4
	}
	return 0
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func try(t *testing.T, f *os.File, mode filelock.Mode) bool {
	t.Helper()
	locked, err := filelock.Try(f, mode)
	if err != nil {
		t.Fatal(err)
	}
	return locked
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestModes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		first, second filelock.Mode
		both          bool
	}{
		{"two readers", filelock.Shared, filelock.Shared, true},
		{"a writer after a reader", filelock.Shared, filelock.Exclusive, false},
		{"a reader after a writer", filelock.Exclusive, filelock.Shared, false},
		{"two writers", filelock.Exclusive, filelock.Exclusive, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "lock")
			a, b := open(t, path), open(t, path)
			if !try(t, a, test.first) {
				t.Fatal("a free file can't be locked")
			}
			if try(t, b, test.second) != test.both {
				t.Errorf("both: want %t", test.both)
			}
			if err := filelock.Release(a); err != nil {
				t.Fatal(err)
			}
			if !try(t, b, test.second) {
				t.Error("the lock wasn't given back")
			}
		})
	}
}

func TestClosingUnlocks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	a, b := open(t, path), open(t, path)
	if !try(t, a, filelock.Exclusive) || try(t, b, filelock.Exclusive) {
		t.Fatal("the lock is wrong")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if !try(t, b, filelock.Exclusive) {
		t.Error("it is locked still")
	}
	if _, err := filelock.Try(a, filelock.Exclusive); err == nil {
		t.Error("a closed file was locked")
	}
	if err := filelock.Wait(t.Context(), a, filelock.Exclusive); err == nil {
		t.Error("a closed file was locked")
	}
}

func TestWaitGivesUp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	a, b := open(t, path), open(t, path)
	if !try(t, a, filelock.Exclusive) {
		t.Fatal("a free file can't be locked")
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(within(t))
	ended := make(chan error, 1)
	go func() { ended <- filelock.Wait(ctx, b, filelock.Shared) }()
	cancel(enough)
	if err := <-ended; !errors.Is(err, enough) {
		t.Errorf("got %v, want the cause", err)
	}
}

// counted counts how often it is waited for.
type counted struct {
	context.Context
	pauses int
}

func (c *counted) Done() <-chan struct{} {
	c.pauses++
	return c.Context.Done()
}

// TestWaitLeavesTheProcessor: waiting for long costs little, however many wait.
// The holder may need what they would use up by trying: with a hundred processes
// that try every millisecond two processors have time for nothing else.
func TestWaitLeavesTheProcessor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	a, b := open(t, path), open(t, path)
	if !try(t, a, filelock.Exclusive) {
		t.Fatal("a free file can't be locked")
	}
	synctest.Test(t, func(t *testing.T) {
		const patience = 10 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c := &counted{Context: ctx}
		if err := filelock.Wait(c, b, filelock.Exclusive); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the cause", err)
		}
		if most := int(patience / (20 * time.Millisecond)); c.pauses > most {
			t.Errorf("it tried %d times in %s, want at most %d", c.pauses, patience, most)
		}
	})
}

// TestWaitIsNotLate: who waits notices soon that the lock is free, as measured by
// the time waited.
func TestWaitIsNotLate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	a, b := open(t, path), open(t, path)
	for held := 100 * time.Microsecond; held < 20*time.Second; held += held / 2 {
		if !try(t, a, filelock.Exclusive) {
			t.Fatal("a free file can't be locked")
		}
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			time.AfterFunc(held, func() {
				if err := filelock.Release(a); err != nil {
					t.Error(err)
				}
			})
			if err := filelock.Wait(t.Context(), b, filelock.Exclusive); err != nil {
				t.Fatal(err)
			}
			late := time.Since(began) - held
			if most := min(max(held/16, time.Millisecond), 50*time.Millisecond); late > most {
				t.Errorf("it got a lock that was held for %s %s late, want at most %s", held, late, most)
			}
		})
		if err := filelock.Release(b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWaitTakesTurns: many that want the lock get it, one at a time.
func TestWaitTakesTurns(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	const holders, turns = 8, 20
	inside := make(chan struct{}, 1) // room for one
	ended := make(chan error, holders)
	for range holders {
		f := open(t, path)
		go func() {
			for range turns {
				if err := filelock.Wait(within(t), f, filelock.Exclusive); err != nil {
					ended <- err
					return
				}
				select {
				case inside <- struct{}{}:
				default:
					ended <- errors.New("two hold the lock")
					return
				}
				<-inside
				if err := filelock.Release(f); err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
	}
	for range holders {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestKilledHolder: the lock of a process that is killed is free.
func TestKilledHolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	holder := exec.CommandContext(within(t), os.Args[0])
	holder.Env = append(os.Environ(), held+"="+path)
	if _, err := holder.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "locked\n" {
		t.Fatal(line, err)
	}
	f := open(t, path)
	if try(t, f, filelock.Shared) {
		t.Error("another process holds the lock, and yet it was given")
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := filelock.Wait(within(t), f, filelock.Exclusive); err != nil {
		t.Error(err)
	}
	_ = holder.Wait() // killed
}
