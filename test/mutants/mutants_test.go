//go:build mutants

// Package mutants takes out one mechanism of Headgate after another, and expects the test that stands for it to fail.
// A mutant that survives is a promise that no test keeps. The sources stay as they are: go build reads the changed ones
// through an overlay.
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
	without string // what is taken out: "without …"
	file    string // from the root of the repository
	edits   []edit
	pkg     string // of the test, from the root of the repository
	test    string // TestName, or TestName/pattern of its subtest
}

// An edit replaces a text that stands in the file exactly once.
type edit struct{ old, new string }

const (
	root = "../.."
	// most is how long a test may take as it is. On a mutant, which may leave it waiting for what never comes, it has
	// some times what it took before.
	most    = 3 * time.Minute
	atLeast = 10 * time.Second
	times   = 5
)

// took is how long each test took as it is, by package and name.
var took sync.Map

func (m mutant) limit() time.Duration {
	if d, ok := took.Load(m.pkg + "." + m.test); ok {
		return atLeast + times*d.(time.Duration)
	}
	return most
}

// TestMain lets more tests run at once than there are processors: most of them wait most of the time.
func TestMain(tests *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(tests.Run())
}

// tags are needed by packages whose tests are not run with all others.
var tags = map[string]string{"test/faults": "faults"}

func TestMutants(t *testing.T) {
	for _, m := range mutants {
		if _, err := m.mutated(); err != nil {
			t.Errorf("without %s: %v", m.without, err)
		}
	}
	if t.Failed() {
		t.FailNow() // the code has changed: the table must follow
	}
	dir := t.TempDir()

	t.Run("as it is", func(t *testing.T) {
		for _, pkg := range packages() {
			t.Run(pkg, func(t *testing.T) {
				t.Parallel()
				passes(t, dir, pkg)
			})
		}
	})
	if t.Failed() {
		t.Fatal("tests fail although nothing was taken out")
	}

	var killed, tried atomic.Int64
	t.Run("without", func(t *testing.T) {
		for n, m := range mutants {
			t.Run(m.without, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				verdict := m.try(t, dir, n)
				if !t.Failed() && !t.Skipped() {
					killed.Add(1)
				}
				say("%2d of %d  %s  promise %d  %4.0f s  without %s  (%s)", tried.Add(1), len(mutants), verdict, m.promise, time.Since(began).Seconds(), m.without, m.test)
			})
		}
	})
	say("%d of %d mutants killed", killed.Load(), tried.Load())
}

var output sync.Mutex

func say(format string, args ...any) {
	output.Lock()
	defer output.Unlock()
	fmt.Printf(format+"\n", args...)
}

// try builds the test of a mutant and runs it. It returns in a word what became of the mutant; one that was outlived
// left its test waiting, which is as good as killed.
func (m mutant) try(t *testing.T, dir string, n int) string {
	text, err := m.mutated()
	if err != nil {
		t.Fatal(err)
	}
	original, err := filepath.Abs(filepath.Join(root, m.file))
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(dir, fmt.Sprintf("mutant-%d.go", n))
	overlay := filepath.Join(dir, fmt.Sprintf("mutant-%d.json", n))
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(changed, text, 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		t.Fatal(err)
	}
	// By the environment, so that a test which builds programs builds mutants too.
	flags := "GOFLAGS=" + strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay)
	bin, err := build(m.pkg, filepath.Join(dir, fmt.Sprintf("mutant-%d.test", n)), flags)
	if err != nil {
		t.Errorf("it does not compile, and proves nothing: %v", err)
		return "BROKEN  "
	}
	defer os.Remove(bin)
	out, err := run(m.pkg, bin, m.test, m.limit(), flags)
	name, _, _ := strings.Cut(m.test, "/")
	switch {
	case bytes.Contains(out, []byte("--- SKIP: "+name)):
		t.Skipf("%s was skipped:\n%s", m.test, out)
		return "SKIPPED "
	case err == nil:
		t.Errorf("%s passes: no test keeps promise %d without %s", m.test, m.promise, m.without)
		return "SURVIVED"
	case !bytes.Contains(out, []byte("--- FAIL: "+name)) && !bytes.Contains(out, []byte("panic: ")):
		t.Errorf("it ends (%v), but not because %s fails:\n%s", err, m.test, out)
		return "BROKEN  "
	}
	if bytes.Contains(out, []byte("panic: test timed out")) {
		return "outlived"
	}
	return "killed  "
}

// mutated is the file of a mutant with its edits.
func (m mutant) mutated() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return nil, err
	}
	for _, e := range m.edits {
		if n := bytes.Count(text, []byte(e.old)); n != 1 {
			return nil, fmt.Errorf("%s has %d times, and not once:\n%s", m.file, n, e.old)
		}
		text = bytes.Replace(text, []byte(e.old), []byte(e.new), 1)
	}
	return text, nil
}

// packages are those that the mutants' tests are in.
func packages() []string {
	var all []string
	for _, m := range mutants {
		all = append(all, m.pkg)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// passes checks that all tests of a package that stand for a mechanism pass while it is there.
func passes(t *testing.T, dir, pkg string) {
	began := time.Now()
	var tests []string
	for _, m := range mutants {
		if m.pkg == pkg && !slices.Contains(tests, m.test) {
			tests = append(tests, m.test)
		}
	}
	bin, err := build(pkg, filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-")+".test"))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(bin)
	for _, test := range tests {
		began := time.Now()
		out, err := run(pkg, bin, test, most)
		took.Store(pkg+"."+test, time.Since(began))
		name, _, _ := strings.Cut(test, "/")
		switch {
		case err != nil:
			t.Errorf("%s: %v\n%s", test, err, out)
		case bytes.Contains(out, []byte("--- SKIP: "+name)): // it will be said for the mutant
		case !bytes.Contains(out, []byte("--- PASS: "+name)):
			t.Errorf("%s: there is no such test", test)
		}
	}
	say("%d tests of %s pass  %.0f s", len(tests), pkg, time.Since(began).Seconds())
}

// build builds the tests of a package.
func build(pkg, bin string, environment ...string) (string, error) {
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-tags", tags[pkg], "-o", bin, "./"+pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), environment...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c ./%s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}

// run runs one test of a package, which panics at its limit.
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
