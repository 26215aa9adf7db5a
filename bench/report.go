package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/headgate/headgate/bench/load"
)

// A figure is one thing that was measured of one variant in one case, round by round.
type figure struct {
	Case    string    `json:"case"`
	Variant string    `json:"variant"`
	Name    string    `json:"name"`
	Median  float64   `json:"median"`
	Rounds  []float64 `json:"rounds"`
}

// report collects figures in the order in which they are measured first.
type report struct {
	Began   time.Time `json:"began"`
	Go      string    `json:"go"`
	CPUs    int       `json:"cpus"`
	Rounds  int       `json:"rounds"`
	Slice   string    `json:"slice"`
	Size    int       `json:"body_bytes"`
	Figures []*figure `json:"figures"`
	Targets []outcome `json:"targets"`
}

func newReport(o options) *report {
	return &report{
		Began: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), CPUs: runtime.NumCPU(),
		Rounds: o.rounds, Slice: o.slice.String(), Size: o.size,
	}
}

// add adds what was measured in one round.
func (r *report) add(in, variant, name string, value float64) {
	f := r.find(in, variant, name)
	if f == nil {
		f = &figure{Case: in, Variant: variant, Name: name}
		r.Figures = append(r.Figures, f)
	}
	f.Rounds = append(f.Rounds, value)
	f.Median = load.Median(f.Rounds)
}

func (r *report) find(in, variant, name string) *figure {
	i := slices.IndexFunc(r.Figures, func(f *figure) bool { return f.Case == in && f.Variant == variant && f.Name == name })
	if i < 0 {
		return nil
	}
	return r.Figures[i]
}

// median is NaN when nothing was measured.
func (r *report) median(in, variant, name string) float64 {
	if f := r.find(in, variant, name); f != nil {
		return f.Median
	}
	return math.NaN()
}

// most is the largest of all rounds, and NaN when nothing was measured.
func (r *report) most(in, variant, name string) float64 {
	if f := r.find(in, variant, name); f != nil {
		return slices.Max(f.Rounds)
	}
	return math.NaN()
}

// ratio compares two variants round by round.
func (r *report) ratio(in, variant, to, name string) float64 {
	a, b := r.find(in, variant, name), r.find(in, to, name)
	if a == nil || b == nil {
		return math.NaN()
	}
	return load.Ratio(a.Rounds, b.Rounds)
}

// bases are what other variants are compared with, by the first figure of a case.
var bases = []string{"plain", "bound", "bare loop", "alone"}

// print writes a table for each case, and what is asked for beside what was reached.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %d CPUs, which generator, programs and servers share; bodies of %d bytes; medians of %d rounds\n", r.Go, r.CPUs, r.Size, r.Rounds)
	for _, in := range unique(r.Figures, func(f *figure) string { return f.Case }) {
		r.table(w, in)
	}
	fmt.Fprintf(w, "\nNumbers to reach\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\twas\tmust\tstretch\t")
	for _, o := range r.judge() {
		stretch := ""
		if o.Stretch != 0 {
			stretch = short(o.Stretch)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", o.What, short(o.Was), short(o.Must), stretch, o.Verdict)
	}
	_ = t.Flush() // as for every print: nobody is left to tell
}

func (r *report) table(w io.Writer, in string) {
	var figures []*figure
	for _, f := range r.Figures {
		if f.Case == in {
			figures = append(figures, f)
		}
	}
	variants := unique(figures, func(f *figure) string { return f.Variant })
	names := unique(figures, func(f *figure) string { return f.Name })
	compared := slices.DeleteFunc(slices.Clone(bases), func(base string) bool { return len(variants) < 2 || !slices.Contains(variants, base) })

	fmt.Fprintf(w, "\n%s\n", in)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer t.Flush()
	fmt.Fprint(t, "\t")
	for i, name := range names {
		fmt.Fprintf(t, "%s\t", name)
		for _, base := range compared {
			if i == 0 {
				fmt.Fprintf(t, "/ %s\t", base)
			}
		}
	}
	fmt.Fprintln(t)
	for _, variant := range variants {
		fmt.Fprintf(t, "%s\t", variant)
		for i, name := range names {
			fmt.Fprintf(t, "%s\t", short(r.median(in, variant, name)))
			for _, base := range compared {
				if i == 0 {
					fmt.Fprintf(t, "%.2f\t", r.ratio(in, variant, base, name))
				}
			}
		}
		fmt.Fprintln(t)
	}
}

// short writes a number with about three digits.
func short(v float64) string {
	switch {
	case math.IsNaN(v):
		return ""
	case math.Abs(v) >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func unique[T any](of []T, name func(T) string) []string {
	var names []string
	for _, one := range of {
		if n := name(one); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// write writes all figures as JSON.
func (r *report) write(file string) error {
	r.Targets = r.judge()
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o600)
}
