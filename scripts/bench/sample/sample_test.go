package sample_test

import (
	"math"
	"testing"

	"github.com/overlay-cni/overlay-cni/scripts/bench/sample"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values  []float64
		p, want float64
	}{
		"none":              {nil, 50, math.NaN()},
		"one":               {[]float64{7}, 99, 7},
		"odd median":        {[]float64{9, 1, 5}, 50, 5},
		"even median":       {[]float64{4, 1, 2, 3}, 50, 2.5},
		"first":             {[]float64{3, 1, 2}, 0, 1},
		"last":              {[]float64{3, 1, 2}, 100, 3},
		"between, weighted": {[]float64{0, 10}, 99, 9.9},
	} {
		if got := sample.Percentile(c.values, c.p); !same(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestPercentileLeavesOrder(t *testing.T) {
	t.Parallel()
	values := []float64{3, 1, 2}
	sample.Median(values)
	if values[0] != 3 || values[1] != 1 || values[2] != 2 {
		t.Errorf("the rounds are in another order now: %v", values)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	// The machine gets ten times slower on the way: pairs don't mind.
	reference := []float64{1, 2, 4, 8, 10}
	values := []float64{0.5, 1, 2, 4, 5}
	got := sample.Compare(values, reference)
	want := sample.Ratio{OfMedians: 0.5, OfPairs: 0.5, Low: 0.5, High: 0.5}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestCompareWithoutPartner(t *testing.T) {
	t.Parallel()
	got := sample.Compare([]float64{2, 2, 100}, []float64{1, 1})
	if got.OfPairs != 2 || got.High != 2 {
		t.Errorf("%+v, want pairs of 2", got)
	}
}

func TestIntervalOfMedian(t *testing.T) {
	t.Parallel()
	ones, ratios := make([]float64, 100), make([]float64, 100)
	for i := range ratios {
		ones[i], ratios[i] = 1, float64(i+1)
	}
	// Of 100 values the 40th and the 61st (binomial distribution tables).
	got := sample.Compare(ratios, ones)
	if got.Low != 40 || got.High != 61 {
		t.Errorf("%v-%v, want 40-61", got.Low, got.High)
	}
	few := sample.Compare([]float64{1, 2, 3}, []float64{1, 1, 1})
	if few.Low != 1 || few.High != 3 {
		t.Errorf("of three values %v-%v, want the extremes", few.Low, few.High)
	}
}

func same(a, b float64) bool { return math.Abs(a-b) < 1e-9 || (math.IsNaN(a) && math.IsNaN(b)) }
