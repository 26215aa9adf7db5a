package load

import (
	"math"
	"slices"
)

// Quantile returns the nearest rank of ascending values: the smallest one that at least the part q of them does not
// exceed. It returns 0 for no values.
func Quantile[T any](ascending []T, q float64) T {
	var none T
	if len(ascending) == 0 {
		return none
	}
	rank := int(math.Ceil(q * float64(len(ascending))))
	return ascending[min(max(rank, 1), len(ascending))-1]
}

// Median is the middle of values in any order, the mean of the two in the middle when their number is even. Values that
// are no number do not count; it is NaN when nothing is left.
func Median(values []float64) float64 {
	var sorted []float64
	for _, v := range values {
		if !math.IsNaN(v) {
			sorted = append(sorted, v)
		}
	}
	slices.Sort(sorted)
	n := len(sorted)
	if n == 0 {
		return math.NaN()
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Ratio is the median of a[i]/b[i]: what was measured in one round is compared with what was measured beside it, so
// that a machine whose speed drifts does not spoil the comparison. It is NaN when there is no pair.
func Ratio(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return Median(ratios)
}
