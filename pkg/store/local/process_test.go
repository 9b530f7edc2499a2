package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Tests with other processes run the test binary again, in one of these roles.

const roleVariable = "OVERLAY_STORE_TEST_ROLE"

func TestMain(m *testing.M) {
	role, dir := os.Getenv(roleVariable), os.Getenv(roleVariable+"_DIR")
	if role == "" {
		os.Exit(m.Run())
	}
	roles := map[string]func(*Store) error{"write": writeForever, "claim": claimAll, "hold": holdLock}
	s, err := Open(dir, Options{NoSync: os.Getenv(roleVariable+"_NOSYNC") != ""})
	if err == nil {
		err = roles[role](s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is another process with the store open.
type child struct {
	*exec.Cmd
	lines *bufio.Scanner
	input io.Closer
}

func startChild(t *testing.T, role, dir string, env ...string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, roleVariable+"="+role, roleVariable+"_DIR="+dir)...)
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: cmd, lines: bufio.NewScanner(output), input: input}
	t.Cleanup(c.kill)
	return c
}

// kill ends the process as the kernel's out-of-memory killer would. What it
// wrote before can still be read.
func (c *child) kill() { _ = c.Process.Kill() }

// line is the next line that the process writes; false when there is no more.
func (c *child) line() (string, bool) {
	ok := c.lines.Scan()
	return c.lines.Text(), ok
}

var childKeys = []string{"a", "a/b", "a/b/c", "d/e", "d/f/g", "h"}

// writeForever changes keys at random. It says what it will do before, and what
// came of it after; only then has a change been acknowledged.
func writeForever(s *Store) error {
	ctx := context.Background()
	for {
		key, value := childKeys[rand.IntN(len(childKeys))], strconv.Itoa(rand.Int())
		entry, err := s.Get(ctx, key)
		var revision store.Revision
		switch {
		case errors.Is(err, store.ErrNotFound):
			fmt.Println("try", key, value)
			revision, err = s.Create(ctx, key, []byte(value))
		case err == nil && rand.IntN(3) == 0:
			fmt.Println("try", key, "-")
			err = s.Delete(ctx, key, entry.Revision)
		case err == nil:
			fmt.Println("try", key, value)
			revision, err = s.Update(ctx, key, []byte(value), entry.Revision)
		}
		if err != nil {
			return err
		}
		fmt.Println("done", revision)
	}
}

const claims = 100

// claimAll creates keys that others create at the same time, and says which it
// got, beginning when its input ends.
func claimAll(s *Store) error {
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	for i := range claims {
		key := fmt.Sprintf("block/%d", i)
		_, err := s.Create(context.Background(), key, strconv.AppendInt(nil, int64(os.Getpid()), 10))
		if err == nil {
			fmt.Println(key)
		} else if !errors.Is(err, store.ErrExists) {
			return err
		}
	}
	return nil
}

// holdLock has the store locked until its input ends.
func holdLock(s *Store) error {
	release, err := s.lock.acquire(context.Background())
	if err != nil {
		return err
	}
	defer release()
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
