package codat_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat"
)

// golden is the list of types that Codat's documentation names, kept apart from the code.
func golden(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/types.txt")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// constants are the values of all constants of type Name in the source.
func constants(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "names.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if of, ok := spec.Type.(*ast.IndexExpr); !ok || of.X.(*ast.Ident).Name != "Name" {
			t.Errorf("constant %s is not of type Name; want all of names.go to be", spec.Names[0])
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
		return true
	})
	slices.Sort(values)
	return values
}

func TestCatalog_AgreesWithConstantsAndGoldenList(t *testing.T) {
	t.Parallel()
	var names []string
	var literal, pattern, legacy int
	for _, typ := range codat.Catalog() {
		names = append(names, typ.Name)
		switch {
		case typ.Legacy:
			legacy++
		case typ.Pattern:
			pattern++
		default:
			literal++
		}
	}
	if diff := cmp.Diff(golden(t), names); diff != "" {
		t.Errorf("Catalog() differs from the golden list (-want +got):\n%s", diff)
	}
	// Two names stand for all writes beside the literal ones, and are not in the catalog.
	typed := append(names, string(codat.AnyWriteSuccessful), string(codat.AnyWriteUnsuccessful))
	slices.Sort(typed)
	if diff := cmp.Diff(typed, constants(t)); diff != "" {
		t.Errorf("constants differ from the catalog (-want +got):\n%s", diff)
	}
	if literal != 64 || pattern != 3 || legacy != 17 {
		t.Errorf("Catalog() has %d literal, %d patterns, %d legacy; want 64, 3, 17", literal, pattern, legacy)
	}
}

func TestKnown_NamesAndPatterns(t *testing.T) {
	t.Parallel()
	for _, typ := range golden(t) {
		if !codat.Known(typ) {
			t.Errorf("Known(%s) = false; want true", typ)
		}
	}
	for _, test := range []struct {
		name, typ string
		want      bool
	}{
		{"a product in front of a read", "heronCredit.read.completed", true},
		{"a product in front of a successful read", "heronCredit.read.completed.successful", true},
		{"a product of two tokens fits no pattern", "heron.credit.read.completed", false},
		{"no product before the dot", ".read.completed", false},
		{"a pattern has no initial read", "heronCredit.read.completed.initial", false},
		{"a write of a data type that is new", "teapots.write.successful", false},
		{"a misspelling is not the name", "bill.write.successful", false},
		{"a rule's sentence is not the name", "Rate Limit Reset", false},
		{"another case is another name", "Company.Created", false},
		{"nothing", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := codat.Known(test.typ); got != test.want {
				t.Errorf("Known(%q) = %v; want %v", test.typ, got, test.want)
			}
		})
	}
}

func TestCatalog_ReturnsCopy(t *testing.T) {
	t.Parallel()
	clear(codat.Catalog())
	if got := codat.Catalog()[0].Name; got == "" {
		t.Error("Catalog()[0] is empty after a caller cleared its copy; want the first type")
	}
}

func TestCurrent_HasTheLiteralTypesWithASchema(t *testing.T) {
	t.Parallel()
	current := codat.Current()
	if len(current) != 61 || !slices.IsSorted(current) {
		t.Errorf("%d types, in ascending order: %v; want 61", len(current), slices.IsSorted(current))
	}
	for _, not := range []string{"*.read.completed", "read.completed.successful", "DataSyncCompleted", "read.complete"} {
		if slices.Contains(current, not) {
			t.Errorf("%s is among the current types", not)
		}
	}
}
