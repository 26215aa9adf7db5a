//go:build mutants

// Package mutants removes one mechanism of Headgate at a time and checks that a test fails without it. A mutant whose test
// passes shows that no test covers a promise. It changes no file: go build reads the changed sources through an overlay.
package mutants

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A mutant is Headgate without one mechanism.
type mutant struct {
	promise int    // of docs/design.md
	without string // the mechanism that is removed: "without …"
	in      string // the declaration that is changed: "package name", the package as a path from the root of the repository
	change  change
	test    string // the test that must fail: "package TestName" or "package TestName/pattern of its subtest"
}

// mutants is the whole table. Each file table_*_test.go has the mutants of some packages.
var mutants = slices.Concat(ingressMutants, streamMutants, signatureMutants, claimsMutants, workersMutants, plansMutants, auditMutants, relayMutants)

const (
	root = "../.."
	// maxTime is the time limit of a test of the unchanged code. With a mutant, a test may wait for something that never
	// happens: its limit is baseTime and timeFactor times what it took before.
	maxTime    = 3 * time.Minute
	baseTime   = 10 * time.Second
	timeFactor = 5
)

// durations has how long each test of the unchanged code took, by mutant.test.
var durations sync.Map

func (m mutant) limit() time.Duration {
	if d, ok := durations.Load(m.test); ok {
		return baseTime + timeFactor*d.(time.Duration)
	}
	return maxTime
}

// TestMain runs four tests at once, since most of them wait most of the time.
func TestMain(tests *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(tests.Run())
}

func TestMutants(t *testing.T) {
	for _, m := range mutants {
		if _, err := m.mutated(nil); err != nil {
			t.Fatalf("without %s: %v; go test -tags mutants ./test/mutants -run TestMutantsApply lists all", m.without, err)
		}
	}
	dir := t.TempDir()

	t.Run("unchanged", func(t *testing.T) {
		for _, pkg := range packages() {
			t.Run(pkg, func(t *testing.T) {
				t.Parallel()
				passes(t, dir, pkg)
			})
		}
	})
	if t.Failed() {
		t.Fatal("tests of the unchanged code fail")
	}

	var killed, tried atomic.Int64
	t.Run("without", func(t *testing.T) {
		for n, m := range mutants {
			t.Run(m.without, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				result := m.try(t, dir, n)
				if !t.Failed() && !t.Skipped() {
					killed.Add(1)
				}
				printLine("%2d of %d  %s  promise %d  %4.0f s  without %s  (%s)", tried.Add(1), len(mutants), result, m.promise, time.Since(began).Seconds(), m.without, m.test)
			})
		}
	})
	printLine("%d of %d mutants killed", killed.Load(), tried.Load())
}

var output sync.Mutex

func printLine(format string, args ...any) {
	output.Lock()
	defer output.Unlock()
	fmt.Printf(format+"\n", args...)
}

// try builds the test of a mutant, runs it and returns the result in one word: killed when the test fails, and timeout when
// it reaches its time limit, which counts as killed.
func (m mutant) try(t *testing.T, dir string, n int) string {
	f, err := m.mutated(nil)
	if err != nil {
		t.Fatal(err)
	}
	original, err := filepath.Abs(filepath.Join(root, f.name))
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(dir, fmt.Sprintf("mutant-%d.go", n))
	overlay := filepath.Join(dir, fmt.Sprintf("mutant-%d.json", n))
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(changed, f.text, 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		t.Fatal(err)
	}
	// The environment reaches a test that builds programs too: it builds them with the mutant.
	flags := "GOFLAGS=" + strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay)
	pkg, test := m.where()
	bin, err := build(pkg, filepath.Join(dir, fmt.Sprintf("mutant-%d.test", n)), flags)
	if err != nil {
		t.Errorf("the mutant does not compile: %v", err)
		return "BROKEN  "
	}
	defer os.Remove(bin)
	out, err := run(pkg, bin, test, m.limit(), flags)
	name, _, _ := strings.Cut(test, "/")
	switch {
	case bytes.Contains(out, []byte("--- SKIP: "+name)):
		t.Skipf("%s was skipped:\n%s", m.test, out)
		return "SKIPPED "
	case err == nil:
		t.Errorf("%s passes without %[3]s: promise %[2]d has no test that fails", m.test, m.promise, m.without)
		return "SURVIVED"
	case !bytes.Contains(out, []byte("--- FAIL: "+name)) && !bytes.Contains(out, []byte("panic: ")):
		t.Errorf("the test binary ends (%v), but %s does not fail:\n%s", err, m.test, out)
		return "BROKEN  "
	}
	if bytes.Contains(out, []byte("panic: test timed out")) {
		return "timeout "
	}
	return "killed  "
}

// mutated returns the changed file. texts replaces files of the package before the change, by name.
func (m mutant) mutated(texts map[string][]byte) (*file, error) {
	dir, name, _ := strings.Cut(m.in, " ")
	s, err := load(dir, texts)
	if err != nil {
		return nil, err
	}
	return s.apply(name, m.change)
}

// where returns the package of the test and its name.
func (m mutant) where() (pkg, test string) {
	pkg, test, _ = strings.Cut(m.test, " ")
	return pkg, test
}

// packages returns the packages of all tests.
func packages() []string {
	var all []string
	for _, m := range mutants {
		pkg, _ := m.where()
		all = append(all, pkg)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// passes checks that the tests of a package in the table pass with the unchanged code.
func passes(t *testing.T, dir, pkg string) {
	began := time.Now()
	var tests []string
	for _, m := range mutants {
		if p, test := m.where(); p == pkg && !slices.Contains(tests, test) {
			tests = append(tests, test)
		}
	}
	bin, err := build(pkg, filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-")+".test"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(bin)
	for _, test := range tests {
		began := time.Now()
		out, err := run(pkg, bin, test, maxTime)
		durations.Store(pkg+" "+test, time.Since(began))
		name, _, _ := strings.Cut(test, "/")
		switch {
		case err != nil:
			t.Errorf("%s: %v\n%s", test, err, out)
		case bytes.Contains(out, []byte("--- SKIP: "+name)): // the mutant reports it
		case !bytes.Contains(out, []byte("--- PASS: "+name)):
			t.Errorf("%s: the package has no such test", test)
		}
	}
	printLine("%d tests of %s pass  %.0f s", len(tests), pkg, time.Since(began).Seconds())
}

// build builds the test binary of a package.
func build(pkg, bin string, environment ...string) (string, error) {
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-tags", "faults", "-o", bin, "./"+pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), environment...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c ./%s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}

// run runs one test of a package. The test panics at its time limit.
func run(pkg, bin, test string, limit time.Duration, environment ...string) ([]byte, error) {
	name, sub, _ := strings.Cut(test, "/")
	pattern := "^" + name + "$"
	if sub != "" {
		pattern += "/" + sub
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-test.run", pattern, "-test.v", "-test.failfast", "-test.timeout", limit.String())
	cmd.Dir = filepath.Join(root, pkg)
	cmd.Env = append(os.Environ(), environment...)
	return cmd.CombinedOutput()
}
