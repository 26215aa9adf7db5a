//go:build mutants

package mutants

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// A change edits one declaration. It finds the place by a pattern: an expression, a statement, a field of a composite
// literal ("Name: x") or an element of one ("{a, b}"). As in patterns of gofmt -r, a single lower-case letter matches any
// expression, so that a pattern needs no names of local variables. A pattern that is one longer name matches each use of
// that name. A change returns an error unless it finds exactly one place.
type change func(*declaration, bindings) ([]edit, error)

// An edit replaces the text between two offsets.
type edit struct {
	from, to int
	text     string
}

// bindings are the expressions that the letters of a pattern matched.
type bindings map[string]ast.Expr

// swap replaces the match of a pattern by text, in which the letters of the pattern stand for what they matched.
func swap(pattern, text string) change {
	return func(d *declaration, given bindings) ([]edit, error) {
		return d.one(pattern, given, d.itself, func(at ast.Node, b bindings) edit {
			by := d.expand(text, b)
			if e, err := parser.ParseExpr(text); err == nil {
				if _, ok := e.(*ast.BinaryExpr); ok {
					by = "(" + by + ")"
				}
			}
			return edit{d.offset(at.Pos()), d.offset(at.End()), by}
		})
	}
}

// drop removes the innermost statement, case or field of a literal that contains the match of a pattern.
func drop(pattern string) change {
	return func(d *declaration, given bindings) ([]edit, error) {
		return d.one(pattern, given, d.element, func(at ast.Node, _ bindings) edit {
			to := d.offset(at.End())
			switch at.(type) {
			case *ast.KeyValueExpr:
				return edit{d.offset(at.Pos()), to + strings.Index(string(d.file.text[to:]), ",") + 1, ""}
			case *ast.CaseClause, *ast.CommClause:
				return edit{d.offset(at.Pos()), to, ""}
			}
			return edit{d.offset(at.Pos()), to, d.uses(at.Pos(), at.End())}
		})
	}
}

// hollow removes the body of the innermost if or case that contains the match of a pattern.
func hollow(pattern string) change {
	return func(d *declaration, given bindings) ([]edit, error) {
		return d.one(pattern, given, d.branch, func(at ast.Node, _ bindings) edit {
			switch at := at.(type) {
			case *ast.IfStmt:
				return edit{d.offset(at.Body.Lbrace) + 1, d.offset(at.Body.Rbrace), d.uses(at.Body.Pos(), at.Body.End())}
			case *ast.CaseClause:
				return edit{d.offset(at.Colon) + 1, d.offset(at.End()), d.uses(at.Colon, at.End())}
			}
			panic("not a branch")
		})
	}
}

// always makes the condition that contains the match of a pattern true, in an if or a case.
func always(pattern string) change { return condition(pattern, " || true") }

// never makes the condition that contains the match of a pattern false, in an if or a case.
func never(pattern string) change { return condition(pattern, " && false") }

func condition(pattern, more string) change {
	return func(d *declaration, given bindings) ([]edit, error) {
		return d.one(pattern, given, d.condition, func(at ast.Node, _ bindings) edit {
			return edit{d.offset(at.Pos()), d.offset(at.End()), "(" + d.source(at) + ")" + more}
		})
	}
}

// before inserts a statement before the one that contains the match of a pattern.
func before(pattern, statement string) change {
	return func(d *declaration, given bindings) ([]edit, error) {
		return d.one(pattern, given, d.element, func(at ast.Node, b bindings) edit {
			return edit{d.offset(at.Pos()), d.offset(at.Pos()), d.expand(statement, b) + "\n"}
		})
	}
}

// move moves the statement that contains the match of pattern before the one that contains the match of where.
func move(pattern, where string) change {
	return func(d *declaration, given bindings) ([]edit, error) {
		var text string
		cut, err := d.one(pattern, given, d.element, func(at ast.Node, _ bindings) edit {
			text = d.source(at)
			return edit{d.offset(at.Pos()), d.offset(at.End()), ""}
		})
		if err != nil {
			return nil, err
		}
		put, err := d.one(where, given, d.element, func(at ast.Node, _ bindings) edit {
			return edit{d.offset(at.Pos()), d.offset(at.Pos()), text + "\n"}
		})
		return append(cut, put...), err
	}
}

// given binds letters by a pattern that matches elsewhere in the declaration, and makes the change with them.
func given(pattern string, c change) change {
	return func(d *declaration, _ bindings) ([]edit, error) {
		var known bindings
		if _, err := d.one(pattern, nil, d.itself, func(_ ast.Node, b bindings) edit { known = b; return edit{} }); err != nil {
			return nil, err
		}
		return c(d, known)
	}
}

// nth makes a change in the nth of several places, from 1.
func nth(n int, c change) change {
	return func(d *declaration, given bindings) ([]edit, error) {
		chosen := *d
		chosen.nth = n
		return c(&chosen, given)
	}
}

// A goPackage has the files of a package without its tests.
type goPackage struct {
	dir    string // from the root of the repository
	files  []*file
	info   types.Info
	errors []error // why it does not compile
}

type file struct {
	name string // from the root of the repository
	text []byte
	ast  *ast.File
}

// load reads and checks the package in a directory. texts replaces files by name.
func load(dir string, texts map[string][]byte) (*goPackage, error) {
	s := &goPackage{dir: dir}
	names, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f := &file{name: path.Join(dir, filepath.Base(name))}
		f.text = texts[f.name]
		if f.text == nil {
			if f.text, err = os.ReadFile(name); err != nil {
				return nil, err
			}
		}
		if f.ast, err = parser.ParseFile(fset, f.name, f.text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return nil, err
		}
		s.files = append(s.files, f)
	}
	if len(s.files) == 0 {
		return nil, fmt.Errorf("%s has no Go files: name the package that has the function", dir)
	}
	s.check()
	return s, nil
}

// check resolves the names and types of a package.
func (s *goPackage) check() {
	s.info = types.Info{
		Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}, Implicits: map[ast.Node]types.Object{},
	}
	config := types.Config{
		Importer: imports,
		Error:    func(err error) { s.errors = append(s.errors, err) },
	}
	var all []*ast.File
	for _, f := range s.files {
		all = append(all, f.ast)
	}
	checking.Lock()
	defer checking.Unlock()
	_, _ = config.Check(s.dir, fset, all, &s.info) // the errors are in s.errors
}

// exports returns the export data files of all packages that the mutants need, by import path.
var exports = sync.OnceValues(func() (map[string]string, error) {
	args := []string{"list", "-pgo=off", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}
	for _, m := range mutants {
		dir, _, _ := strings.Cut(m.in, " ")
		args = append(args, "./"+dir)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[name] = file
	}
	return files, nil
})

// Imported packages are read once.
var (
	fset     = token.NewFileSet()
	imports  = importer.ForCompiler(fset, "gc", export)
	checking sync.Mutex // imports is not safe for concurrent use
)

func export(path string) (io.ReadCloser, error) {
	files, err := exports()
	if err != nil {
		return nil, err
	}
	return os.Open(files[path])
}

// A declaration is a function, method, variable, constant or type that is changed.
type declaration struct {
	*goPackage
	file *file
	name string
	node ast.Node
	nth  int // which of several places; 0 if there must be one
}

// declaration finds "function", "Type.method" or the name of what is declared at package level.
func (s *goPackage) declaration(name string) (*declaration, error) {
	var found []*declaration
	for _, f := range s.files {
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if nameOf(d) == name {
					found = append(found, &declaration{goPackage: s, file: f, name: name, node: d})
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if slices.Contains(namesOf(spec), name) {
						found = append(found, &declaration{goPackage: s, file: f, name: name, node: spec})
					}
				}
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%s declares no %s: give the name that it has now", s.dir, name)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%s declares %s %d times, in %s and %s", s.dir, name, len(found), found[0].file.name, found[1].file.name)
}

// nameOf returns "function" or "Type.method".
func nameOf(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	t := d.Recv.List[0].Type
	for {
		switch u := t.(type) {
		case *ast.StarExpr:
			t = u.X
		case *ast.IndexExpr:
			t = u.X
		case *ast.IndexListExpr:
			t = u.X
		case *ast.Ident:
			return u.Name + "." + d.Name.Name
		default:
			return d.Name.Name
		}
	}
}

func namesOf(spec ast.Spec) []string {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		return []string{spec.Name.Name}
	case *ast.ValueSpec:
		var names []string
		for _, n := range spec.Names {
			names = append(names, n.Name)
		}
		return names
	}
	return nil
}

func (s *goPackage) offset(p token.Pos) int { return fset.Position(p).Offset }

// source returns the text of a node.
func (d *declaration) source(n ast.Node) string {
	return string(d.file.text[d.offset(n.Pos()):d.offset(n.End())])
}

// one makes an edit at the only place in the declaration that matches a pattern, or at the nth. place returns the node to
// edit from the matching node and the nodes around it, outermost first, or nil.
func (d *declaration) one(pattern string, given bindings, place func(around []ast.Node) ast.Node, do func(ast.Node, bindings) edit) ([]edit, error) {
	want, err := parsePattern(pattern)
	if err != nil {
		return nil, err
	}
	type match struct {
		at ast.Node
		b  bindings
	}
	var matches []match
	var around []ast.Node
	ast.Inspect(d.node, func(n ast.Node) bool {
		if n == nil {
			around = around[:len(around)-1]
			return true
		}
		around = append(around, n)
		b := maps.Clone(given)
		if b == nil {
			b = bindings{}
		}
		if d.match(want, n, b) {
			if at := place(around); at != nil && !slices.ContainsFunc(matches, func(m match) bool { return m.at == at }) {
				matches = append(matches, match{at, b})
			}
		}
		return true
	})
	which := cmp.Or(d.nth, 1)
	switch {
	case len(matches) == 0:
		return nil, fmt.Errorf("%s: %s has nothing that matches %q: anchor the mutant at the code that does it now", d.file.name, d.name, pattern)
	case d.nth == 0 && len(matches) > 1:
		return nil, fmt.Errorf("%s: %s has %d matches of %q, the second in line %d: give a pattern that matches once, or use nth",
			d.file.name, d.name, len(matches), pattern, fset.Position(matches[1].at.Pos()).Line)
	case which > len(matches):
		return nil, fmt.Errorf("%s: %s has %d matches of %q, and the mutant wants number %d", d.file.name, d.name, len(matches), pattern, which)
	}
	m := matches[which-1]
	return []edit{do(m.at, m.b)}, nil
}

func (d *declaration) itself(around []ast.Node) ast.Node { return around[len(around)-1] }

// element returns the matching field of a literal, or the innermost statement of a list.
func (d *declaration) element(around []ast.Node) ast.Node {
	if field, ok := around[len(around)-1].(*ast.KeyValueExpr); ok {
		return field
	}
	for i := len(around) - 1; i > 0; i-- {
		var list []ast.Stmt
		switch parent := around[i-1].(type) {
		case *ast.BlockStmt:
			list = parent.List
		case *ast.CaseClause:
			list = parent.Body
		case *ast.CommClause:
			list = parent.Body
		}
		if s, ok := around[i].(ast.Stmt); ok && slices.Contains(list, s) {
			return s
		}
	}
	return nil
}

// branch returns the innermost if or case.
func (d *declaration) branch(around []ast.Node) ast.Node {
	for _, n := range slices.Backward(around) {
		switch n.(type) {
		case *ast.IfStmt, *ast.CaseClause:
			return n
		}
	}
	return nil
}

// condition returns the condition of the innermost if or case if the match is in it, or in the init statement of the if.
func (d *declaration) condition(around []ast.Node) ast.Node {
	for i := len(around) - 2; i >= 0; i-- {
		switch n := around[i].(type) {
		case *ast.IfStmt:
			if around[i+1] == n.Cond || around[i+1] == n.Init {
				return n.Cond
			}
			return nil
		case *ast.CaseClause:
			if e, ok := around[i+1].(ast.Expr); ok && slices.Contains(n.List, e) {
				return e
			}
			return nil
		}
	}
	return nil
}

// uses returns a statement that uses the local variables of the removed text, so that the rest still compiles.
func (d *declaration) uses(from, to token.Pos) string {
	var names []string
	inspect(d.node, func(id *ast.Ident) {
		v, ok := d.info.Uses[id].(*types.Var)
		inside := func(p token.Pos) bool { return from <= p && p < to }
		if ok && isLocal(v) && inside(id.Pos()) && !inside(v.Pos()) && !slices.Contains(names, id.Name) {
			names = append(names, id.Name)
		}
	})
	if len(names) == 0 {
		return ""
	}
	return strings.TrimSuffix(strings.Repeat("_, ", len(names)), ", ") + " = " + strings.Join(names, ", ")
}

func isLocal(v *types.Var) bool {
	return !v.IsField() && v.Parent() != nil && v.Parent() != v.Pkg().Scope()
}

func inspect(n ast.Node, do func(*ast.Ident)) {
	ast.Inspect(n, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			do(id)
		}
		return true
	})
}

// parsePattern reads an expression, a field or an element of a composite literal, or a statement.
func parsePattern(text string) (ast.Node, error) {
	if e, err := parser.ParseExpr(text); err == nil {
		return e, nil
	}
	if e, err := parser.ParseExpr("T{" + text + "}"); err == nil {
		if elements := e.(*ast.CompositeLit).Elts; len(elements) == 1 {
			return elements[0], nil
		}
	}
	f, err := parser.ParseFile(token.NewFileSet(), "", "package p; func _() {"+text+"}", parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", text, err)
	}
	if list := f.Decls[0].(*ast.FuncDecl).Body.List; len(list) == 1 {
		return list[0], nil
	}
	return nil, fmt.Errorf("pattern %q is not one expression, field, element or statement", text)
}

func isWildcard(name string) bool { return len(name) == 1 && 'a' <= name[0] && name[0] <= 'z' }

// match reports whether a node matches a pattern, and adds to the bindings.
func (d *declaration) match(want, have ast.Node, b bindings) bool {
	if id, ok := want.(*ast.Ident); ok {
		if e, ok := have.(ast.Expr); ok && isWildcard(id.Name) {
			if before := b[id.Name]; before != nil {
				return d.source(before) == d.source(e)
			}
			b[id.Name] = e
			return true
		}
	}
	v, w := reflect.ValueOf(want), reflect.ValueOf(have)
	return v.Type() == w.Type() && d.matchFields(v.Elem(), w.Elem(), b)
}

var (
	typePos   = reflect.TypeFor[token.Pos]()
	typeNode  = reflect.TypeFor[ast.Node]()
	typeToken = reflect.TypeFor[token.Token]()
)

// matchFields compares nodes of one type by their children, tokens and names, not by their positions.
func (d *declaration) matchFields(want, have reflect.Value, b bindings) bool {
	for i := range want.NumField() {
		w, h := want.Field(i), have.Field(i)
		switch t := w.Type(); {
		case t == typePos:
		case t.Implements(typeNode):
			if w.IsNil() || h.IsNil() {
				if w.IsNil() != h.IsNil() {
					return false
				}
				continue
			}
			if !d.match(w.Interface().(ast.Node), h.Interface().(ast.Node), b) {
				return false
			}
		case t.Kind() == reflect.Slice && t.Elem().Implements(typeNode):
			if w.Len() != h.Len() {
				return false
			}
			for j := range w.Len() {
				if !d.match(w.Index(j).Interface().(ast.Node), h.Index(j).Interface().(ast.Node), b) {
					return false
				}
			}
		case t == typeToken || t.Kind() == reflect.String || t.Kind() == reflect.Bool:
			if w.Interface() != h.Interface() {
				return false
			}
		}
	}
	return true
}

// expand replaces the letters in a text by what they are bound to.
func (d *declaration) expand(text string, b bindings) string {
	var s scanner.Scanner
	fset := token.NewFileSet()
	f := fset.AddFile("", -1, len(text))
	s.Init(f, []byte(text), nil, 0)
	var out strings.Builder
	end, last := 0, token.ILLEGAL
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			break
		}
		if e := b[lit]; tok == token.IDENT && e != nil && last != token.PERIOD {
			at := f.Offset(pos)
			out.WriteString(text[end:at])
			if _, ok := e.(*ast.BinaryExpr); ok {
				out.WriteString("(" + d.source(e) + ")")
			} else {
				out.WriteString(d.source(e))
			}
			end = at + len(lit)
		}
		last = tok
	}
	return out.String() + text[end:]
}

// apply makes a change and returns the changed file, with its imports corrected.
func (s *goPackage) apply(name string, c change) (*file, error) {
	d, err := s.declaration(name)
	if err != nil {
		return nil, err
	}
	edits, err := c(d, nil)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(b.from, a.from) })
	text := string(d.file.text)
	for _, e := range edits {
		text = text[:e.from] + e.text + text[e.to:]
	}
	if text == string(d.file.text) {
		return nil, fmt.Errorf("%s: the change leaves %s as it is", d.file.name, name)
	}
	if text, err = s.fixImports(d.file.name, text); err != nil {
		return nil, err
	}
	return &file{name: d.file.name, text: []byte(text)}, nil
}

// fixImports blanks imports that the text no longer uses, and adds those that it needs and another file of the package has.
func (s *goPackage) fixImports(name, text string) (string, error) {
	parsed, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
	if err != nil {
		return "", fmt.Errorf("the change is not valid Go: %w", err)
	}
	used := map[string]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok {
				used[id.Name] = true
			}
		}
		return true
	})
	have := map[string]bool{}
	for _, i := range slices.Backward(parsed.Imports) {
		have[importName(i)] = true
		if i.Name == nil && !used[importName(i)] {
			at := fset.Position(i.Path.Pos()).Offset
			text = text[:at] + "_ " + text[at:]
		}
	}
	var missing string
	for _, f := range s.files {
		for _, i := range f.ast.Imports {
			if n := importName(i); used[n] && !have[n] {
				have[n] = true
				missing += "; import " + n + " " + i.Path.Value
			}
		}
	}
	at := fset.Position(parsed.Name.End()).Offset
	return text[:at] + missing + text[at:], nil
}

// importName returns the name of an imported package in its file.
func importName(i *ast.ImportSpec) string {
	if i.Name != nil {
		return i.Name.Name
	}
	return packageName(strings.Trim(i.Path.Value, `"`))
}

// packageName returns the name that the path of a package suggests.
func packageName(importPath string) string {
	last := path.Base(importPath)
	if dir := path.Dir(importPath); dir != "." && majorVersion.MatchString(last) {
		last = path.Base(dir)
	}
	return strings.TrimSuffix(strings.TrimPrefix(last, "go-"), ".go")
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)
