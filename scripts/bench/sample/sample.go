// Package sample is the statistics of a comparison: percentiles, and the ratio
// of two series whose values were measured in turns. It is pure.
package sample

import (
	"math"
	"slices"
)

// Percentile returns the value below which p percent of the values are, between
// neighbours in proportion. It is NaN for no values.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := p / 100 * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Median returns the middle value.
func Median(values []float64) float64 { return Percentile(values, 50) }

// Ratio compares a series with a reference.
type Ratio struct {
	// OfMedians is the ratio of the two medians.
	OfMedians float64 `json:"ratioOfMedians"`
	// OfPairs is the median of the ratios of values measured in one round.
	// What changes slowly on the machine changes both, and cancels out.
	OfPairs float64 `json:"medianOfRatios"`
	// Low and High bound the true median of ratios with a confidence of
	// 95 percent. With too few rounds for that they are the extremes.
	Low  float64 `json:"low95"`
	High float64 `json:"high95"`
}

// Compare compares values with those of a reference; values[i] and reference[i]
// are of one round. What has no partner is left out of the pairs.
func Compare(values, reference []float64) Ratio {
	ratios := make([]float64, min(len(values), len(reference)))
	for i := range ratios {
		ratios[i] = values[i] / reference[i]
	}
	low, high := interval(ratios)
	return Ratio{
		OfMedians: Median(values) / Median(reference),
		OfPairs:   Median(ratios),
		Low:       low,
		High:      high,
	}
}

// interval returns the order statistics between which the median lies with a
// confidence of 95 percent, whatever the distribution.
func interval(values []float64) (low, high float64) {
	n := len(values)
	if n == 0 {
		return math.NaN(), math.NaN()
	}
	const normal95 = 1.96
	sorted := slices.Sorted(slices.Values(values))
	// The number of values below the median is binomial with p = 1/2.
	rank := int(math.Floor((float64(n) - normal95*math.Sqrt(float64(n))) / 2))
	rank = max(rank, 1)
	return sorted[rank-1], sorted[n-rank]
}
