package load_test

import (
	"math"
	"testing"

	"github.com/headgate/headgate/bench/load"
)

func TestQuantile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	tests := []struct {
		name   string
		values []int
		q      float64
		want   int
	}{
		{"the median of a hundred is the fiftieth", hundred, 0.5, 50},
		{"one in a hundred is above the 99th percentile", hundred, 0.99, 99},
		{"too few for a tail leave the greatest", hundred, 0.999, 100},
		{"all are at most the greatest", hundred, 1, 100},
		{"the least is at 0", hundred, 0, 1},
		{"one is every quantile", []int{7}, 0.99, 7},
		{"none have none", nil, 0.5, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := load.Quantile(tt.values, tt.q); got != tt.want {
				t.Errorf("Quantile(…, %v) = %d; want %d", tt.q, got, tt.want)
			}
		})
	}
}

func TestMedian(t *testing.T) {
	none := math.NaN()
	tests := []struct {
		name   string
		values []float64
		want   float64
	}{
		{"the middle of an odd number", []float64{9, 1, 5}, 5},
		{"the mean of the two in the middle", []float64{4, 1, 9, 2}, 3},
		{"one outlier changes nothing", []float64{1, 2, 1e9}, 2},
		{"what is no number does not count", []float64{none, 3, none}, 3},
		{"nothing has none", nil, none},
		{"nothing but no numbers has none", []float64{none}, none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := load.Median(tt.values); !same(got, tt.want) {
				t.Errorf("Median(%v) = %v; want %v", tt.values, got, tt.want)
			}
		})
	}
}

func TestRatio(t *testing.T) {
	none := math.NaN()
	tests := []struct {
		name string
		a, b []float64
		want float64
	}{
		{"a machine that slows down does not change it", []float64{200, 20, 2}, []float64{100, 10, 1}, 2},
		{"it is of each round, and not of the medians", []float64{10, 1, 30}, []float64{1, 10, 30}, 1},
		{"a round that one has not does not count", []float64{2, 9}, []float64{1}, 2},
		{"nothing is no base", []float64{1, 6}, []float64{0, 2}, 3},
		{"no pair has none", []float64{1}, nil, none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := load.Ratio(tt.a, tt.b); !same(got, tt.want) {
				t.Errorf("Ratio(%v, %v) = %v; want %v", tt.a, tt.b, got, tt.want)
			}
		})
	}
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }
