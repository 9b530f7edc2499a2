package blocks_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// A sequence that failed is run again by its seed and with one sequence.
var (
	modelSeed      = flag.Uint64("model.seed", 0, "seed of the first sequence of the cluster; 0 is a random one")
	modelSequences = flag.Int("model.sequences", 10000, "how many sequences of the cluster to run")
	modelSteps     = flag.Int("model.steps", 60, "how many steps a sequence has")
)

// healed is the part of the sequences that end with everything being healed,
// which takes longer than all the rest.
const healed = 8

// worlds are those that the sequences take turns in.
func worlds() []world {
	return []world{
		apart(0, 0), astray(), apart(9*time.Minute, lease.DefaultFence-10*time.Minute), astray(), apart(0, lease.DefaultFence-2*time.Second),
	}
}

// violation ends a sequence.
type violation struct{ error }

// sequence runs one sequence; the error has all that happened in it.
func sequence(dir string, seed uint64) (err error) {
	random := rand.New(rand.NewPCG(seed, 0))
	all := worlds()
	var lines []string
	c := newCluster(all[seed%uint64(len(all))], dir, random.IntN)
	defer func() {
		if p := recover(); p != nil {
			v, ok := p.(violation)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("%s\n%s\n%w\nrepeat with -run=TestClusterSequences -model.sequences=1 -model.seed=%d",
				c.world.name, strings.Join(lines, "\n"), v.error, seed)
		}
	}()
	c.note = func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	c.fatalf = func(format string, args ...any) { panic(violation{fmt.Errorf(format, args...)}) }
	choices := operations()
	for range *modelSteps {
		c.at += time.Millisecond
		choices[random.IntN(len(choices))](c, c.any())
		c.check()
	}
	if seed/uint64(len(all))%healed == 0 {
		c.heal()
	}
	return nil
}

// TestClusterSequences runs random sequences over several nodes: no address is
// ever of two pods, whatever fails, and when nothing fails any more all is as it
// should be.
func TestClusterSequences(t *testing.T) {
	t.Parallel()
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	t.Logf("the first seed is %d", seed)
	dir := fastDir(t)
	began := time.Now()
	var next, ran atomic.Int64
	var workers sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for n := next.Add(1); n <= int64(*modelSequences) && !t.Failed(); n = next.Add(1) {
				own := filepath.Join(dir, fmt.Sprint(worker))
				err := os.Mkdir(own, 0o700)
				if err == nil {
					err = sequence(own, seed+uint64(n-1))
				}
				if err != nil {
					t.Error(err)
				}
				_ = os.RemoveAll(own)
				ran.Add(1)
			}
		})
	}
	workers.Wait()
	t.Logf("%d sequences of %d steps in %s", ran.Load(), *modelSteps, time.Since(began).Round(time.Millisecond))
}

// fastDir is a directory in memory where there is one: every new ledger is synced
// once.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "blocks-") //nolint:usetesting // t.TempDir is on the disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
