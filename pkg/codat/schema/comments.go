package schema

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// Comments has what the source says of types: the comments of "codat.Company" and of its fields, "codat.Company.Name", and
// the constants of string types by the name of the type.
type Comments struct {
	texts  map[string]string
	values map[string][]string
}

// ReadComments reads the comments of packages, which are folders of the repository at root.
func ReadComments(root string, folders ...string) (Comments, error) {
	c := Comments{map[string]string{}, map[string][]string{}}
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
		if err != nil {
			return c, err
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return c, err
			}
			c.read(file)
		}
	}
	return c, nil
}

func (c Comments) read(file *ast.File) {
	for _, d := range file.Decls {
		declaration, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range declaration.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				name := file.Name.Name + "." + spec.Name.Name
				c.texts[name] = oneLine(declaration.Doc)
				if object, ok := spec.Type.(*ast.StructType); ok {
					c.readFields(name, object)
				}
			case *ast.ValueSpec:
				c.readConstant(file.Name.Name, spec)
			}
		}
	}
}

// readFields reads the Comments of fields.
func (c Comments) readFields(name string, object *ast.StructType) {
	for _, f := range object.Fields.List {
		for _, field := range f.Names {
			c.texts[name+"."+field.Name] = strings.TrimSpace(oneLine(f.Doc) + " " + oneLine(f.Comment))
		}
	}
}

func (c Comments) readConstant(pkg string, spec *ast.ValueSpec) {
	of, ok := spec.Type.(*ast.Ident)
	if !ok || len(spec.Values) != 1 {
		return
	}
	if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
		if value, err := strconv.Unquote(literal.Value); err == nil {
			c.values[pkg+"."+of.Name] = append(c.values[pkg+"."+of.Name], value)
		}
	}
}

// field returns the comment of a field, also of one of an embedded struct.
func (c Comments) field(t reflect.Type, name string) string {
	if text, ok := c.texts[goName(t)+"."+name]; ok {
		return text
	}
	for f := range t.Fields() {
		if f.Anonymous {
			if text := c.field(f.Type, name); text != "" {
				return text
			}
		}
	}
	return ""
}

// oneLine returns the text of a comment in one line.
func oneLine(g *ast.CommentGroup) string {
	return strings.Join(strings.Fields(g.Text()), " ")
}

// goName returns the name of a type with its package, without parameters: codat.Rule.
func goName(t reflect.Type) string {
	name, _, _ := strings.Cut(t.String(), "[")
	return name
}

// TypeName returns the name of a type without its package, that of a type with a parameter before the parameter's:
// RulePushOperationStatusChangedData.
func TypeName(t reflect.Type) string {
	name, parameter, _ := strings.Cut(t.Name(), "[")
	return name + strings.TrimSuffix(parameter[strings.LastIndex(parameter, ".")+1:], "]")
}
