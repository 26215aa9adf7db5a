// Command report reads the output of "go test -json" among other lines, and prints it for people: what failed with
// all that it said, what was skipped, and what was slow. Its last line is "N passed, N failed". A skipped test that
// the file named by its argument does not list has failed. It exits 1 when something failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
)

// slow is the time in seconds from which on a test that passed is mentioned.
const slow = 10

// An event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type report struct {
	mayskip        map[string]bool
	said           map[string]*strings.Builder // by test, while it runs
	failing        map[string]bool             // packages with a failed test
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
	r := &report{mayskip: map[string]bool{}, said: map[string]*strings.Builder{}, failing: map[string]bool{}}
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
		if r.said[name] == nil {
			r.said[name] = new(strings.Builder)
		}
		r.said[name].WriteString(e.Output)
	case e.Action == "pass" && e.Test != "":
		r.passed++
		if e.Elapsed >= slow {
			fmt.Printf("slow: %s (%.0f s)\n", name, e.Elapsed)
		}
		delete(r.said, name)
	case e.Action == "skip" && e.Test != "":
		r.print(name)
		if !r.mayskip[name] {
			fmt.Printf("FAIL: %s was skipped, and .ci/skips has no line and reason for it\n", name)
			r.failed++
		}
	case e.Action == "fail" && e.Test != "":
		r.print(name)
		fmt.Printf("FAIL: %s\n", name)
		r.failed++
		r.failing[e.Package] = true
	case e.Action == "fail" && !r.failing[e.Package]:
		// It did not build, or it panicked or ran out of time outside of a test.
		for running := range r.said {
			if strings.HasPrefix(running, e.Package+".") {
				r.print(running)
			}
		}
		fmt.Printf("FAIL: %s\n", e.Package)
		r.failed++
	}
}

func (r *report) print(name string) {
	if said := r.said[name]; said != nil {
		fmt.Print(said.String())
		delete(r.said, name)
	}
}
