// Command report reads the output of "go test -json", among other lines, and prints what a person needs: the output of
// tests that failed or were skipped, and at the end the tests that took over 2 s, slowest first, and once more the last
// lines of each test that failed. Its last line is "N passed, N failed". A skipped test counts as failed unless the file that its argument names lists it. It exits with 1
// if a test failed.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
)

// slow is the time in seconds above which a test is listed.
const slow = 2

// lastLines bounds the lines of a failed test that are printed at the end.
const lastLines = 20

// An event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type report struct {
	mayskip        map[string]bool
	output         map[string]*strings.Builder // by test, while it runs
	failing        map[string]bool             // packages with a failed test
	slow           []event
	failures       strings.Builder // the name and the last lines of each failed test
	passed, failed int
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: report SKIPS <output")
	}
	skips, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	r := &report{mayskip: map[string]bool{}, output: map[string]*strings.Builder{}, failing: map[string]bool{}}
	for line := range strings.Lines(string(skips)) {
		if name, reason, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") && strings.TrimSpace(reason) != "" {
			r.mayskip[strings.TrimSpace(name)] = true
		}
	}
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		var e event
		if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
			r.add(e)
		} else {
			fmt.Print(line)
		}
		if err != nil {
			break
		}
	}
	r.printSlow()
	fmt.Print(r.failures.String())
	fmt.Printf("%d passed, %d failed\n", r.passed, r.failed)
	if r.failed > 0 {
		os.Exit(1)
	}
}

func (r *report) add(e event) {
	name := e.Package + "." + e.Test
	switch {
	case e.Action == "build-output" || e.Action == "output" && e.Test == "":
		fmt.Print(e.Output)
	case e.Action == "output":
		if r.output[name] == nil {
			r.output[name] = new(strings.Builder)
		}
		r.output[name].WriteString(e.Output)
	case e.Action == "pass" && e.Test != "":
		r.passed++
		r.time(e)
		delete(r.output, name)
	case e.Action == "skip" && e.Test != "":
		r.print(name)
		if !r.mayskip[name] {
			fmt.Printf("FAIL: %s was skipped, and .ci/skips has no line and reason for it\n", name)
			r.failed++
		}
	case e.Action == "fail" && e.Test != "":
		r.keep(name)
		r.print(name)
		fmt.Printf("FAIL: %s\n", name)
		r.failed++
		r.failing[e.Package] = true
		r.time(e)
	case e.Action == "fail" && !r.failing[e.Package]:
		// The package did not build, panicked, or reached its time limit.
		for running := range r.output {
			if strings.HasPrefix(running, e.Package+".") {
				r.print(running)
			}
		}
		fmt.Printf("FAIL: %s\n", e.Package)
		r.failed++
	}
}

func (r *report) print(name string) {
	if output := r.output[name]; output != nil {
		fmt.Print(output.String())
		delete(r.output, name)
	}
}

// keep keeps the last lines of a failed test for the end, which is what is left of an output that is cut.
func (r *report) keep(name string) {
	fmt.Fprintf(&r.failures, "FAIL: %s\n", name)
	if output := r.output[name]; output != nil {
		lines := slices.Collect(strings.Lines(output.String()))
		for _, line := range lines[max(0, len(lines)-lastLines):] {
			r.failures.WriteString(line)
		}
	}
}

func (r *report) time(e event) {
	if e.Elapsed > slow {
		r.slow = append(r.slow, e)
	}
}

func (r *report) printSlow() {
	if len(r.slow) == 0 {
		return
	}
	slices.SortStableFunc(r.slow, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	fmt.Printf("%d tests took over %d s:\n", len(r.slow), slow)
	for _, e := range r.slow {
		fmt.Printf("%7.1f s  %s.%s\n", e.Elapsed, e.Package, e.Test)
	}
}
