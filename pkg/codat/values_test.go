package codat_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat"
)

// enumerations are the types of the package whose values are constants in statuses.go and datatypes.go.
var enumerations = []reflect.Type{
	reflect.TypeFor[codat.PushStatus](), reflect.TypeFor[codat.WriteType](), reflect.TypeFor[codat.ConnectionStatus](),
	reflect.TypeFor[codat.SourceType](), reflect.TypeFor[codat.ConnectionErrorStatus](), reflect.TypeFor[codat.DatasetStatus](),
	reflect.TypeFor[codat.TransactionStatus](), reflect.TypeFor[codat.SourceAccountStatus](), reflect.TypeFor[codat.AccountType](),
	reflect.TypeFor[codat.RoutingType](), reflect.TypeFor[codat.DataType](),
}

func TestValues_AreTheConstants(t *testing.T) {
	t.Parallel()
	want := map[string][]string{}
	for _, name := range []string{"statuses.go", "datatypes.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Type == nil || len(spec.Values) == 0 {
				return true
			}
			literal, isLiteral := spec.Values[0].(*ast.BasicLit)
			of, isName := spec.Type.(*ast.Ident)
			if isLiteral && isName {
				value, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				want[of.Name] = append(want[of.Name], value)
			}
			return true
		})
	}
	got := map[string][]string{}
	for _, e := range enumerations {
		got[e.Name()] = slices.Clone(codat.Values(e))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Values differs from the constants (-want +got):\n%s", diff)
	}
	if got := codat.Values(reflect.TypeFor[string]()); got != nil {
		t.Errorf("Values(string) = %q; want none", got)
	}
}

func TestTypeOf_NamesAndPatterns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		typ, want  string
		payload    reflect.Type
		inEnvelope bool
	}{
		{"company.created", "company.created", reflect.TypeFor[codat.Company](), true},
		{"read.completed", "read.completed", reflect.TypeFor[codat.ReadResult](), true},
		{"heronCredit.read.completed", "*.read.completed", reflect.TypeFor[codat.ReadResult](), true},
		{"SyncFailed", "SyncFailed", reflect.TypeFor[codat.Rule[codat.SyncFailedData]](), false},
	} {
		got, ok := codat.TypeOf(test.typ)
		if !ok || got.Name != test.want || got.Payload() != test.payload || got.InEnvelope() != test.inEnvelope {
			t.Errorf("TypeOf(%s) = %s with a %v in an envelope: %v, %v; want %s with a %v in an envelope: %v",
				test.typ, got.Name, got.Payload(), got.InEnvelope(), ok, test.want, test.payload, test.inEnvelope)
		}
	}
	for _, typ := range []string{"", "teapots.write.successful", ".read.completed", "Company.Created"} {
		if got, ok := codat.TypeOf(typ); ok {
			t.Errorf("TypeOf(%q) = %s; want none", typ, got.Name)
		}
	}
}
