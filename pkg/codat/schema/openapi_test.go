package schema_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat/schema"
)

// openAPI returns a file of testdata.
func openAPI(t testing.TB, name string) *schema.OpenAPI {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	o, err := schema.ParseOpenAPI(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return o
}

// differences are those of files, in a line each, and the types that only the catalog has.
func differences(t *testing.T, files ...*schema.OpenAPI) (lines, types []string) {
	t.Helper()
	all, err := schema.Compare(files...)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.In == "catalog" && d.Field == "" {
			types = append(types, d.Types...)
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %s %s, %d types from %s", d.In, d.Field, d.Value, len(d.Types), d.Types[0]))
	}
	return lines, types
}

func TestCompare_FindsEachKindOfDifference(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		file string
		want []string
		has  []string // types that are not reported
	}{
		{"openapi31.yaml", []string{
			"file:  , 1 types from teapots.boiled",
			"file: payload.perMinute , 1 types from client.rateLimit.reached",
			"catalog: payload.quotaRemaining , 1 types from client.rateLimit.reached",
			"file: payload.referenceCompany.parent , 18 types from bankAccounts.write.successful",
			"catalog: payload.status TimedOut, 18 types from bankAccounts.write.successful",
			"file: payload.type Merge, 18 types from bankAccounts.write.successful",
		}, []string{"client.rateLimit.reached", "transfers.write.successful"}},
		{"openapi30.json", []string{
			"file: payload.window , 1 types from client.rateLimit.reset",
		}, []string{"client.rateLimit.reset", "reports.creditModel.generate.successful"}},
	} {
		t.Run(test.file, func(t *testing.T) {
			lines, types := differences(t, openAPI(t, test.file))
			if diff := cmp.Diff(test.want, lines); diff != "" {
				t.Errorf("Compare differs (-want +got):\n%s", diff)
			}
			for _, typ := range test.has {
				if slices.Contains(types, typ) {
					t.Errorf("%s is reported as missing in the file", typ)
				}
			}
			for _, typ := range []string{"company.created", "bills.write.unsuccessful"} {
				if !slices.Contains(types, typ) {
					t.Errorf("%s is not reported as missing in the file", typ)
				}
			}
			for _, typ := range []string{"SyncFailed", "read.completed.successful"} { // legacy, uncertain
				if slices.Contains(types, typ) {
					t.Errorf("%s is reported as missing in the file", typ)
				}
			}
		})
	}
}

func TestCompare_TakesFilesTogether(t *testing.T) {
	t.Parallel()
	_, types := differences(t, openAPI(t, "openapi31.yaml"), openAPI(t, "openapi30.json"))
	for _, typ := range []string{"client.rateLimit.reached", "client.rateLimit.reset"} {
		if slices.Contains(types, typ) {
			t.Errorf("%s is reported as missing, and one of the files has it", typ)
		}
	}
}

func TestParseOpenAPI_RefusesOtherFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", `openapi is ""`},
		{"no YAML", "a: [", "neither YAML nor JSON"},
		{"a list", "[1]", "neither YAML nor JSON"},
		{"Swagger 2", "swagger: '2.0'", `openapi is ""`},
		{"another version", "openapi: 4.0.0", `openapi is "4.0.0"`},
		{"no webhook", "openapi: 3.1.0\npaths: {/a: {get: {}}}", "documents no webhook"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := schema.ParseOpenAPI([]byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ParseOpenAPI = %v; want an error that says %q", err, test.want)
			}
		})
	}
}

// file is an OpenAPI file with a body of company.created and other schemas.
func file(body, schemas string) string {
	return "openapi: 3.1.0\nwebhooks: {company.created: {post: {requestBody: {content: {application/json: {schema: " + body +
		"}}}}}}\ncomponents: {schemas: {" + schemas + "}}"
}

func TestCompare_IsBounded(t *testing.T) {
	t.Parallel()
	// Each schema has two references to the next one: without a bound, 2^30 schemas are read.
	var doubling []string
	for i := range 30 {
		next := fmt.Sprintf(`{$ref: "#/components/schemas/s%d"}`, i+1)
		doubling = append(doubling, fmt.Sprintf("s%d: {allOf: [%s, %s]}", i, next, next))
	}
	o, err := schema.ParseOpenAPI([]byte(file(`{$ref: "#/components/schemas/s0"}`, strings.Join(doubling, ", "))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Compare(o); err == nil || !strings.Contains(err.Error(), "company.created: its schemas refer") {
		t.Errorf("Compare = %v; want an error that names the type", err)
	}
	for name, text := range map[string]string{
		"a reference to itself":          file(`{$ref: "#/components/schemas/a"}`, `a: {$ref: "#/components/schemas/a"}`),
		"references to each other":       file(`{$ref: "#/components/schemas/a"}`, `a: {$ref: "#/components/schemas/b"}, b: {allOf: [{$ref: "#/components/schemas/a"}]}`),
		"a reference through itself":     file(`{$ref: "#/components/schemas/a/b/c"}`, `a: {$ref: "#/components/schemas/a/b/c"}`),
		"a reference that leads nowhere": file(`{$ref: "#/components/schemas/z"}`, ""),
		"a reference to another file":    file(`{$ref: "other.yaml#/a"}`, ""),
		"a member that is no schema":     file(`{properties: {payload: 7, id: [1]}}`, ""),
		"schemas within each other":      file(`{$ref: "#/components/schemas/a"}`, `a: {properties: {payload: {items: {$ref: "#/components/schemas/a"}}}}`),
	} {
		o, err := schema.ParseOpenAPI([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := schema.Compare(o); err != nil {
			t.Errorf("%s: Compare = %v", name, err)
		}
	}
}

func FuzzParseOpenAPI(f *testing.F) {
	for _, text := range []string{ // small ones: go test makes each that is interesting smaller
		file(`{$ref: "#/components/schemas/a/b/c"}`, `a: {$ref: "#/components/schemas/a/b/c"}`),
		file(`{allOf: [{properties: {id: {enum: [a]}}}]}`, `a: {properties: {eventType: {const: a.b}}}`),
		`{"openapi":"3.0.1","paths":{"/a":{"$ref":"#/a~1b"}}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := schema.ParseOpenAPI(text)
		if err != nil {
			return
		}
		_, _ = schema.Compare(o) // it ends, and its error is about the file
	})
}
