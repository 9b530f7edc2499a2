package ipam

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The test binary runs itself as the processes that share a ledger: with these
// variables it is one of them.
const (
	envRole = "IPAM_TEST_ROLE"
	envPath = "IPAM_TEST_LEDGER"
	envSeed = "IPAM_TEST_SEED"
)

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv(envRole)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := role(os.Getenv(envPath)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var roles = map[string]func(path string) error{"churn": churn, "take": takeMany, "disk": onSmallDisk}

func self(role, path string, seed int) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envRole+"="+role, envPath+"="+path, envSeed+"="+strconv.Itoa(seed))
	return cmd
}

// killSets are small enough that addresses are given again all the time.
var killSets = []RangeSet{{between("fd00::1", "fd00::28")}, {between("10.0.0.1", "10.0.0.28")}}

const churnPods = 12

// churn allocates and releases until it is killed, and says so byte by byte.
func churn(path string) error {
	seed, err := strconv.Atoi(os.Getenv(envSeed))
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	ctx := context.Background()
	for {
		l, err := OpenLedger(path, Options{})
		if err != nil {
			return err
		}
		a := pod(random.IntN(churnPods))
		if random.IntN(2) == 0 {
			_, err = l.Allocate(ctx, Request{Attachment: a, Sets: killSets})
		} else {
			_, err = l.Release(ctx, a)
		}
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
		if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
			return err
		}
	}
}

// Processes are killed at random instants, beside another that goes on. After
// each kill the ledger is whole, and nobody has half of what was requested.
func TestKilledProcesses(t *testing.T) {
	t.Parallel()
	const kills = 150
	path := filepath.Join(t.TempDir(), "ledger")
	l, err := OpenLedger(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, stop := context.WithCancel(context.Background())
	var beside sync.WaitGroup
	beside.Go(func() {
		other, err := OpenLedger(path, Options{})
		if err != nil {
			t.Error(err)
			return
		}
		defer other.Close()
		for n := 0; ctx.Err() == nil; n++ {
			a := Attachment{fmt.Sprint("beside-", n%3), "eth0"}
			got, err := other.Allocate(context.Background(), Request{Attachment: a, Sets: killSets})
			if err != nil || len(got) != 2 {
				t.Error(got, err)
				return
			}
			if freed, err := other.Release(context.Background(), a); err != nil || len(freed) != 2 {
				t.Error(freed, err)
				return
			}
		}
	})
	marked := 0
	for n := range kills {
		killOne(t, path, n)
		if dirtyNow(t, path) {
			marked++
		}
		checkWhole(t, l)
	}
	stop()
	beside.Wait()
	if _, err := l.Retain(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	for n := range 28 { // nothing leaked: every address can be had
		allocate(t, l, ask(pod(n), killSets[1]...))
	}
	_, err = l.Allocate(context.Background(), ask(pod(28), killSets[1]...))
	wantErr(t, err, ErrFull)
	verify(t, l)
	t.Logf("%d kills, of which %d were seen to leave an operation undone", kills, marked)
}

// killOne starts a process, lets it do some operations and kills it.
func killOne(t *testing.T, path string, seed int) {
	t.Helper()
	cmd := self("churn", path, seed)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1+rand.IntN(30))); err != nil {
		t.Fatal(err, complaint.String())
	}
	for until := time.Now().Add(rand.N(200 * time.Microsecond)); time.Now().Before(until); {
		// An instant of its own, finer than a timer's.
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || complaint.Len() > 0 {
		t.Fatal(err, complaint.String())
	}
}

// dirtyNow reads the mark while others work, so it may be theirs too.
func dirtyNow(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var mark [1]byte
	if _, err := f.ReadAt(mark[:], dynamicOffset); err != nil {
		t.Fatal(err)
	}
	return mark[0] != 0
}

// checkWhole wants each attachment to hold two addresses.
func checkWhole(t *testing.T, l *Ledger) {
	t.Helper()
	verify(t, l)
	all, err := l.All(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	held := map[Attachment]int{}
	seen := map[netip.Addr]bool{}
	for _, allocation := range all {
		if seen[allocation.Address] {
			t.Fatalf("%s is held twice", allocation.Address)
		}
		seen[allocation.Address] = true
		held[allocation.Attachment]++
	}
	for a, n := range held {
		if n != 2 {
			t.Fatalf("%s holds %d addresses", a, n)
		}
	}
}

const perProcess, processes = 100, 16

// takeMany takes addresses, opening the ledger for each, and prints
// them.
func takeMany(path string) error {
	for n := range perProcess {
		l, err := OpenLedger(path, Options{LockWait: time.Minute})
		if err != nil {
			return err
		}
		a := Attachment{fmt.Sprintf("%s-%d", os.Getenv(envSeed), n), "eth0"}
		got, err := l.Allocate(context.Background(), ask(a, between("10.0.0.1", "10.0.6.64")))
		if err = errors.Join(err, l.Close()); err != nil {
			return err
		}
		fmt.Println(got[0])
	}
	return nil
}

func TestProcessesShareALedger(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger")
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := map[string]int{}
	began := time.Now()
	for n := range processes {
		all.Go(func() {
			cmd := self("take", path, n)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
				if other, twice := seen[lines.Text()]; twice {
					t.Errorf("%s was given to processes %d and %d", lines.Text(), other, n)
				}
				seen[lines.Text()] = n
			}
		})
	}
	all.Wait()
	if len(seen) != processes*perProcess {
		t.Fatalf("%d addresses were given", len(seen))
	}
	t.Logf("%.0f operations a second, opening included", processes*perProcess/time.Since(began).Seconds())
	l, err := OpenLedger(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	verify(t, l)
	_, err = l.Allocate(context.Background(), ask(pod(1), between("10.0.0.1", "10.0.6.64")))
	wantErr(t, err, ErrFull)
}

// 64 goroutines, half of them with a ledger of their own, the rest sharing one.
func TestGoroutinesShareALedger(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "ledger")
	shared := open(t, path, Options{LockWait: time.Minute})
	r := between("10.0.0.1", "10.0.0.80")
	var owners sync.Map
	var all sync.WaitGroup
	for n := range 64 {
		l := shared
		if n%2 == 0 {
			l = open(t, path, Options{LockWait: time.Minute})
		}
		all.Go(func() {
			for range 30 {
				got, err := l.Allocate(ctx, ask(pod(n), r))
				if err != nil {
					t.Error(err)
					return
				}
				if other, held := owners.LoadOrStore(got[0], n); held {
					t.Errorf("%s was given to %d and %d", got[0], other, n)
				}
				owners.Delete(got[0])
				if freed, err := l.Release(ctx, pod(n)); err != nil || len(freed) != 1 || freed[0] != got[0] {
					t.Error(freed, err)
					return
				}
			}
		})
	}
	all.Wait()
	verify(t, shared)
}
