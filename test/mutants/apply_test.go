//go:build mutants

package mutants

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMutantsApply checks in seconds that each mutant applies and compiles, and that its test exists. It runs no test.
func TestMutantsApply(t *testing.T) {
	for _, m := range mutants {
		if err := applies(m, nil); err != nil {
			t.Errorf("without %s: %v", m.without, err)
		}
		if err := isThere(m.where()); err != nil {
			t.Errorf("without %s: %v", m.without, err)
		}
	}
}

// A mutant applies after every receiver, parameter and local variable of its package was renamed.
func TestMutantsApply_AfterRenameOfLocalVariables(t *testing.T) {
	renamed := map[string]map[string][]byte{}
	for _, m := range mutants {
		dir, _, _ := strings.Cut(m.in, " ")
		if renamed[dir] == nil {
			s, err := load(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			renamed[dir] = renameLocals(s)
		}
		if err := applies(m, renamed[dir]); err != nil {
			t.Errorf("without %s: %v", m.without, err)
		}
	}
}

// applies checks that a mutant can be made, and that its package compiles.
func applies(m mutant, texts map[string][]byte) error {
	dir, _, _ := strings.Cut(m.in, " ")
	f, err := m.mutated(texts)
	if err != nil {
		return err
	}
	all := map[string][]byte{f.name: f.text}
	for name, text := range texts {
		if name != f.name {
			all[name] = text
		}
	}
	s, err := load(dir, all)
	if err != nil {
		return err
	}
	if len(s.errors) > 0 {
		return fmt.Errorf("%s: it does not compile: %w", m.in, errors.Join(s.errors...))
	}
	return nil
}

// isThere checks that the package has the test.
func isThere(pkg, test string) error {
	name, _, _ := strings.Cut(test, "/")
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		return err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if bytes.Contains(text, []byte("\nfunc "+name+"(")) {
			return nil
		}
	}
	return fmt.Errorf("%s has no test %s: give the name that it has now", pkg, name)
}

// renameLocals returns the files of a package with other names for what functions declare.
func renameLocals(s *goPackage) map[string][]byte {
	implicit := map[types.Object]bool{} // the variables of type switches, which have one declaration and several objects
	for _, o := range s.info.Implicits {
		implicit[o] = true
	}
	texts := map[string][]byte{}
	for _, f := range s.files {
		var ends []int
		inspect(f.ast, func(id *ast.Ident) {
			o := s.info.Defs[id]
			if o == nil {
				o = s.info.Uses[id]
			}
			if v, ok := o.(*types.Var); ok && isLocal(v) && !implicit[v] && id.Name != "_" {
				ends = append(ends, s.offset(id.End()))
			}
		})
		slices.Sort(ends)
		text := slices.Clone(f.text)
		for _, end := range slices.Backward(slices.Compact(ends)) {
			text = slices.Insert(text, end, []byte("Renamed")...)
		}
		texts[f.name] = text
	}
	return texts
}

const sample = `package p

import "fmt"

type T struct{ n, max int }

func (t *T) add(by int, log func(string)) error {
	sum := t.n + by
	if sum > t.max {
		return fmt.Errorf("%d is too much", sum)
	}
	switch {
	case by == 0:
		log("nothing")
		return nil
	case by < 0:
		log("less")
	}
	t.n = sum
	log("done")
	return nil
}

var limits = []T{{n: 1, max: 10}, {n: 2, max: 20}}
`

func TestChange(t *testing.T) {
	tests := []struct {
		name      string
		in        string
		change    change
		old, made string // of the sample
	}{
		{"swap an expression", "T.add", swap("a > t.max", "a > 2*t.max"), "if sum > t.max", "if (sum > 2*t.max)"},
		{"swap a statement", "T.add", swap("t.n = x", "t.n = 7"), "t.n = sum", "t.n = 7"},
		{"swap an element", "limits", swap("{n: 2, max: x}", "{n: 3, max: x}"), "{n: 2, max: 20}", "{n: 3, max: 20}"},
		{"swap a field", "limits", nth(2, swap("max: x", "max: 0")), "max: 20", "max: 0"},
		{"drop a statement, and keep what it uses in use", "T.add", drop("t.n = x"), "t.n = sum", "_, _ = t, sum"},
		{"drop an if by its condition", "T.add", drop("a > t.max"), "if sum > t.max {\n\t\treturn fmt.Errorf(\"%d is too much\", sum)\n\t}", "_, _ = sum, t"},
		{"drop a case by its condition", "T.add", drop("b < 0"), "case by < 0:\n\t\tlog(\"less\")", ""},
		{"drop a field", "limits", nth(1, drop("n: x")), "{n: 1, max", "{ max"},
		{"hollow an if", "T.add", hollow("fmt.Errorf(f, x)"), "{\n\t\treturn fmt.Errorf(\"%d is too much\", sum)\n\t}", "{_ = sum}"},
		{"hollow a case", "T.add", hollow("b == 0"), "case by == 0:\n\t\tlog(\"nothing\")\n\t\treturn nil", "case by == 0:_ = log"},
		{"never", "T.add", never("max"), "if sum > t.max", "if (sum > t.max) && false"},
		{"always", "T.add", always("b < 0"), "case by < 0", "case (by < 0) || true"},
		{"before", "T.add", before("t.n = x", "t.max = x"), "t.n = sum", "t.max = sum\nt.n = sum"},
		{"move", "T.add", move(`l("done")`, "s > t.max"), "if sum > t.max", "log(\"done\")\nif sum > t.max"},
		{"given", "T.add", given("s := t.n + b", swap(`l("less")`, "t.n = b")), "log(\"less\")", "t.n = by"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := parseSample(t)
			f, err := s.apply(tt.in, tt.change)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Replace(sample, tt.old, tt.made, 1)
			got := strings.Replace(string(f.text), `import _ "fmt"`, `import "fmt"`, 1)
			if tt.name == "move" {
				want = strings.Replace(want, "\t"+`log("done")`+"\n\treturn", "\t\n\treturn", 1)
			}
			if want == sample || got != want {
				t.Errorf("apply() =\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestChange_RefusesNoneOrSeveralMatches(t *testing.T) {
	tests := []struct {
		name, in string
		change   change
		says     string
	}{
		{"no declaration", "T.sub", drop("x"), "p declares no T.sub"},
		{"no place", "T.add", drop("x.Close()"), `T.add has nothing that matches "x.Close()"`},
		{"several places", "T.add", drop("return nil"), `T.add has 2 matches of "return nil", the second in line 21`},
		{"fewer places", "T.add", nth(3, drop("return nil")), `T.add has 2 matches of "return nil", and the mutant wants number 3`},
		{"no condition", "T.add", never("t.n = x"), `nothing that matches "t.n = x"`},
		{"no pattern", "T.add", drop("if {"), `pattern "if {"`},
		{"no change", "T.add", swap("t.n = x", "t.n = x"), "the change leaves T.add as it is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseSample(t).apply(tt.in, tt.change)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error = %v; want %q in it", err, tt.says)
			}
		})
	}
}

func parseSample(t *testing.T) *goPackage {
	t.Helper()
	s := &goPackage{dir: "p"}
	parsed, err := parser.ParseFile(fset, "p/p.go", sample, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	s.files = []*file{{name: "p/p.go", text: []byte(sample), ast: parsed}}
	s.check()
	return s
}
