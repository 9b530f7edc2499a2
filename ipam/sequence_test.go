package ipam

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A sequence that failed is run again by its seed and with one sequence.
var (
	modelSeed      = flag.Uint64("model.seed", 0, "seed of the first sequence beside the model; 0 is a random one")
	modelSequences = flag.Int("model.sequences", 10500, "how many sequences to run beside the model")
)

const maxSteps = 20

// trace is what a sequence did, and how to repeat it.
type trace struct {
	seed  uint64
	lines []string
}

func (r *trace) note(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

// failure ends a sequence.
type failure struct{ error }

// sequence runs one sequence in memory, and says how many steps it had.
func sequence(path string, seed uint64) (steps int, err error) {
	random := rand.New(rand.NewPCG(seed, 0))
	r := &trace{seed: seed}
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(failure)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("%s\n%w\nrepeat with -run=%s -model.sequences=1 -model.seed=%d",
				strings.Join(r.lines, "\n"), f.error, "TestSequencesMatchModel", seed)
		}
	}()
	x, err := newMachine(path, newMemory(nil), func(_ string, n int) int { return random.IntN(n) })
	if err != nil {
		return 0, err
	}
	defer x.close()
	x.note = r.note
	x.fatalf = func(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }
	for all := x.steps(); steps < 1+int(seed%maxSteps); steps++ {
		all[random.IntN(len(all))].do()
		x.check()
	}
	return steps, nil
}

// At least ten thousand sequences in memory: no two hold an address, the ledger
// is the model's, and whole, after each step.
func TestSequencesMatchModel(t *testing.T) {
	t.Parallel()
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	t.Logf("the first seed is %d", seed)
	dir := t.TempDir()
	began := time.Now()
	var next, ran, steps atomic.Int64
	var workers sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			path := filepath.Join(dir, fmt.Sprint(worker))
			for n := next.Add(1); n <= int64(*modelSequences) && !t.Failed(); n = next.Add(1) {
				did, err := sequence(path, seed+uint64(n-1))
				if err != nil {
					t.Error(err)
				}
				ran.Add(1)
				steps.Add(int64(did))
			}
		})
	}
	workers.Wait()
	t.Logf("%d sequences of %d steps in all, in %s", ran.Load(), steps.Load(), time.Since(began).Round(time.Millisecond))
}

// The same on the disk, with fewer sequences; what fails is made short.
func TestLedgerMatchesModel(t *testing.T) {
	dir := t.TempDir()
	var runs atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }
		x, err := newMachine(filepath.Join(dir, fmt.Sprint(runs.Add(1))), nil, draw)
		if err != nil {
			t.Fatal(err)
		}
		defer x.close()
		actions := map[string]func(*rapid.T){}
		with := func(do func()) func(*rapid.T) {
			return func(inner *rapid.T) { t, x.fatalf = inner, inner.Fatalf; do() }
		}
		for _, step := range x.steps() {
			actions[step.name] = with(step.do)
		}
		actions[""] = with(x.check)
		t.Repeat(actions)
	})
}
