package headgate_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The limits of a production function.
const (
	maxFunctionLines = 60
	maxParameters    = 5
)

// files returns the Go files of the repository, relative to its root, without testdata.
func files(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == ".git") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, ".go") {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// production reports whether a Go file belongs to a program: tests, benchmarks and the packages that serve them do
// not.
func production(name string) bool {
	folder := filepath.ToSlash(filepath.Dir(name))
	return !strings.HasSuffix(name, "_test.go") && !forTests(folder) &&
		!strings.HasPrefix(folder, "bench") && !strings.HasPrefix(folder, "deploy/check")
}

func TestFunctions_AreShortWithFewParameters(t *testing.T) {
	t.Parallel()
	set := token.NewFileSet()
	for _, name := range files(t) {
		if !production(name) {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			f, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1
			if n := f.Type.Params.NumFields(); lines > maxFunctionLines || n > maxParameters {
				t.Errorf("%s: %s has %d lines and %d parameters: divide it, or give it a struct; the limits are %d and %d",
					set.Position(f.Pos()), f.Name.Name, lines, n, maxFunctionLines, maxParameters)
			}
		}
	}
}

// The expressions are in two parts so that this file does not match.
var unwanted = regexp.MustCompile(`(?i)\b(who` + `ever|stran` + `ger|cro` + `wd|gue` + `st|gla` + `nce|de` + `ed|` +
	`(?-i:(are|is) no` + `ne)|is no (time|size|name|setting))\b`)

func TestWords_AreThoseOfTheField(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Concat(files(t), pages, docs) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range unwanted.FindAllIndex(text, -1) {
			t.Errorf("%s:%d: write %q in the words of the documentation of Go and NATS",
				name, 1+bytes.Count(text[:m[0]], []byte("\n")), text[m[0]:m[1]])
		}
	}
}
