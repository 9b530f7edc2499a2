package demand_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/demand"
)

const grace = time.Minute

// block is the i-th of 64 addresses, 62 of them for pods.
func block(i int, taken uint64, empty time.Duration) demand.Block {
	return demand.Block{
		Prefix: netip.MustParsePrefix(fmt.Sprintf("10.244.%d.%d/26", i/4, i%4*64)), Index: i, Taken: taken, Free: 62 - taken, Empty: empty,
	}
}

func withdrawn(b demand.Block) demand.Block {
	b.Withdrawn, b.Free = true, 0
	return b
}

func v6(b demand.Block) demand.Block {
	b.Prefix = netip.MustParsePrefix(fmt.Sprintf("fd00::%d:0/122", b.Index))
	return b
}

// text of a decision, in the order of what is done.
func text(d demand.Decision) string {
	var parts []string
	if len(d.Claim) > 0 {
		parts = append(parts, fmt.Sprint("claim ", d.Claim))
	}
	if len(d.Admit) > 0 {
		parts = append(parts, fmt.Sprint("admit ", d.Admit))
	}
	if len(d.Return) > 0 {
		parts = append(parts, fmt.Sprint("return ", d.Return))
	}
	if d.None() {
		parts = append(parts, "nothing")
	}
	if d.Wait > 0 {
		parts = append(parts, fmt.Sprint("again in ", d.Wait))
	}
	return strings.Join(parts, ", ")
}

func TestDecide(t *testing.T) {
	t.Parallel()
	full := func(i int) demand.Block { return block(i, 62, 0) }
	huge := demand.Block{Prefix: netip.MustParsePrefix("fd00::/64"), Taken: 5, Free: math.MaxUint64}
	for name, test := range map[string]struct {
		blocks []demand.Block
		want   string
	}{
		"none":                                 {nil, "nothing"},
		"an empty one":                         {[]demand.Block{block(0, 0, time.Hour)}, "nothing"},
		"a quarter free":                       {[]demand.Block{block(0, 47, 0)}, "nothing"},
		"less than a quarter free":             {[]demand.Block{block(0, 48, 0)}, "claim [IPv4]"},
		"full":                                 {[]demand.Block{full(0), full(1)}, "claim [IPv4]"},
		"full, and an empty one":               {[]demand.Block{full(0), block(1, 0, time.Hour)}, "nothing"},
		"the free ones of all count":           {[]demand.Block{block(0, 54, 0), block(1, 54, 0)}, "nothing"},
		"a family alone":                       {[]demand.Block{block(0, 5, 0), v6(full(0))}, "claim [IPv6]"},
		"both families":                        {[]demand.Block{full(0), v6(full(0))}, "claim [IPv4 IPv6]"},
		"an empty one too many":                {[]demand.Block{block(0, 20, 0), block(1, 0, grace)}, "return [10.244.0.64/26]"},
		"within its grace":                     {[]demand.Block{block(0, 20, 0), block(1, 0, grace-time.Second)}, "nothing, again in 1s"},
		"the longest empty of those within it": {[]demand.Block{block(0, 20, 0), block(1, 0, 10*time.Second), block(2, 0, 5*time.Second)}, "nothing, again in 50s"},
		"needed, within its grace":             {[]demand.Block{block(0, 50, 0), block(1, 0, 10*time.Second)}, "nothing"},
		"one at a time, the last first":        {[]demand.Block{block(0, 20, 0), block(1, 0, grace), block(2, 0, grace)}, "return [10.244.0.128/26]"},
		"the first stays":                      {[]demand.Block{block(0, 0, time.Hour), block(1, 5, 0)}, "nothing"},
		"one that would soon be wanted again":  {[]demand.Block{block(0, 35, 0), block(1, 0, grace)}, "nothing"},
		"a withdrawn one is given back":        {[]demand.Block{block(0, 5, 0), withdrawn(block(1, 0, 0))}, "return [10.244.0.64/26]"},
		"a withdrawn one is used again":        {[]demand.Block{full(0), withdrawn(block(1, 0, 0))}, "admit [10.244.0.64/26]"},
		"of two withdrawn ones":                {[]demand.Block{full(0), withdrawn(block(1, 0, 0)), withdrawn(block(2, 0, 0))}, "admit [10.244.0.64/26], return [10.244.0.128/26]"},
		"of the other family another one is given back": {[]demand.Block{withdrawn(block(0, 0, 0)), v6(block(0, 5, 0)), v6(block(1, 0, grace))},
			"admit [10.244.0.0/26], return [fd00::1:0/122]"},
		"the first, withdrawn":                  {[]demand.Block{withdrawn(block(0, 0, 0)), block(1, 5, 0)}, "admit [10.244.0.0/26]"},
		"more than can be counted":              {[]demand.Block{huge}, "nothing"},
		"more than can be counted, twice":       {[]demand.Block{huge, {Prefix: netip.MustParsePrefix("fd00:0:0:1::/64"), Index: 1, Free: math.MaxUint64, Empty: grace}}, "nothing"},
		"the smallest blocks, one address free": {[]demand.Block{{Prefix: netip.MustParsePrefix("10.0.0.0/30"), Taken: 1, Free: 1}}, "nothing"},
		"a small one beside a large one, which would be wanted again": {[]demand.Block{block(0, 50, 0),
			{Prefix: netip.MustParsePrefix("10.9.0.0/29"), Index: 1, Free: 6, Empty: time.Hour}}, "nothing"},
		"the smallest blocks, full": {[]demand.Block{{Prefix: netip.MustParsePrefix("10.0.0.0/30"), Taken: 2}}, "claim [IPv4]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := text(demand.Decide(test.blocks, demand.Policy{Grace: grace})); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestDecideFixed(t *testing.T) {
	t.Parallel()
	blocks := []demand.Block{block(0, 62, 0), withdrawn(block(1, 0, 0)), block(2, 0, time.Hour)}
	if got := text(demand.Decide(blocks, demand.Policy{Grace: grace, Fixed: true})); got != "admit [10.244.0.64/26]" {
		t.Errorf("got %s", got)
	}
}

// TestSettles: whatever a node has, following the decisions comes to an end, with
// enough that is free, no more than needed, and the first block kept.
func TestSettles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		var blocks []demand.Block
		for i := range 1 + r.IntN(6) {
			b := block(i, r.Uint64N(63)*r.Uint64N(2), time.Hour)
			if b.Taken == 0 && r.IntN(4) == 0 {
				b = withdrawn(b)
			}
			blocks = append(blocks, b)
		}
		steps := 0
		for ; steps < 50; steps++ {
			d := demand.Decide(blocks, demand.Policy{Grace: grace})
			if d.None() {
				break
			}
			blocks = follow(t, blocks, &d)
		}
		var free uint64
		for _, b := range blocks {
			free += b.Free
		}
		if steps == 50 || free < 15 || blocks[0].Index != 0 {
			t.Fatalf("seed %d: %d steps, %d free in %+v", seed, steps, free, blocks)
		}
	}
}

func follow(t *testing.T, blocks []demand.Block, d *demand.Decision) []demand.Block {
	t.Helper()
	next := 0
	var kept []demand.Block
	for _, b := range blocks {
		next = max(next, b.Index+1)
		for _, p := range d.Admit {
			if b.Prefix == p {
				b = block(b.Index, 0, 0)
			}
		}
		returned := false
		for _, p := range d.Return {
			returned = returned || b.Prefix == p
		}
		if returned && b.Taken > 0 {
			t.Fatalf("a block in use is given back: %+v", b)
		}
		if !returned {
			kept = append(kept, b)
		}
	}
	for range d.Claim {
		kept = append(kept, block(next, 0, 0))
	}
	return kept
}
