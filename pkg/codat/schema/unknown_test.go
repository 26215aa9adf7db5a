package schema_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/codat/schema"
)

// shapeOf returns the shape of an event type.
func shapeOf(t testing.TB, typ string) *schema.Shape {
	t.Helper()
	entry, ok := codat.TypeOf(typ)
	if !ok {
		t.Fatalf("the catalog has no %s", typ)
	}
	return schema.OfEvent(entry)
}

func TestUnknown_FindsNamesAndValues(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 100)
	for _, test := range []struct {
		name, typ, body string
		want            []schema.Finding
	}{
		{"nothing", "connection.connected", `{"id":"1","payload":{"connection":{"status":"Linked","connectionInfo":{"any":1}}}}`, nil},
		{"a name at the top", "connection.connected", `{"version":2}`, []schema.Finding{{Field: "version"}}},
		{"a name in the payload", "connection.connected", `{"payload":{"connection":{"region":{"email":"x"}}}}`, []schema.Finding{{Field: "payload.connection.region"}}},
		{"a name in an array, twice", "read.completed", `{"payload":{"dataTypes":[{"size":1},{"size":2}]}}`, []schema.Finding{{Field: "payload.dataTypes[].size"}}},
		{"a value", "connection.connected", `{"payload":{"connection":{"status":"Sleeping"}}}`, []schema.Finding{{Field: "payload.connection.status", Value: true}}},
		{"a value that is empty or null", "connection.connected", `{"payload":{"connection":{"status":"","sourceType":null}}}`, nil},
		{"tags are the client's", "connection.connected", `{"payload":{"referenceCompany":{"tags":{"any":"x"}}}}`, nil},
		{"names in another case", "PushOperationStatusChanged", `{"companyId":"c","Data":{"PushOperationKey":"k","STATUS":"Failed"}}`, nil},
		{"a member of a rule", "PushOperationStatusChanged", `{"Data":{"why":1}}`, []schema.Finding{{Field: "Data.why"}}},
		{"an embedded member of a rule", "SyncFailed", `{"Data":{"syncId":"1","FailureStage":"x"}}`, nil},
		{"another JSON type", "connection.connected", `{"payload":{"connection":[{"a":1}],"referenceCompany":7}}`, nil},
		{"a payload that was never documented", "payables.bill.created", `{"payload":{"any":1}}`, nil},
		{"a product's read", "heron.read.completed", `{"payload":{"dataTypes":[{"status":"Brewing"}]}}`, []schema.Finding{{Field: "payload.dataTypes[].status", Value: true}}},
		{"characters of a name", "connection.connected", `{"a b.\u001b[31m\u00e9":1,"":2}`, []schema.Finding{{Field: `""`}, {Field: `"a b.\x1b[31m\u00e9"`}}},
		{"a long name", "connection.connected", `{"` + long + `":1}`, []schema.Finding{{Field: long[:64] + "..."}}},
		{"a number of any size", "client.rateLimit.reached", `{"payload":{"dailyQuota":1e999,"left":1}}`, []schema.Finding{{Field: "payload.left"}}},
		{"no JSON", "connection.connected", `{"version":`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, nilIfEmpty(shapeOf(t, test.typ).Unknown([]byte(test.body)))); diff != "" {
				t.Errorf("Unknown differs (-want +got):\n%s", diff)
			}
		})
	}
}

func nilIfEmpty(all []schema.Finding) []schema.Finding {
	if len(all) == 0 {
		return nil
	}
	return all
}

func TestUnknown_IsBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `"n%d":1,`, i)
	}
	if got := len(shapeOf(t, "company.created").Unknown([]byte("{" + b.String() + `"id":"1"}`))); got != 50 {
		t.Errorf("Unknown finds %d names; want 50", got)
	}
}

// The types know every example but those that contradict Codat's schemas.
func TestUnknown_KnowsTheExamples(t *testing.T) {
	t.Parallel()
	known := map[string][]schema.Finding{
		"trap/read-completed-success": {
			{Field: "payload.dataTypes[].modifiedRecords"}, {Field: "payload.dataTypes[].status", Value: true},
		},
		"trap/source-account-without-id": {{Field: "payload.sourceAccount.accountType", Value: true}},
	}
	for _, e := range examples.All() {
		if e.Type == "" {
			continue
		}
		got := nilIfEmpty(shapeOf(t, e.Type).Unknown(e.Body))
		if diff := cmp.Diff(known[e.Name], got); diff != "" {
			t.Errorf("Unknown(%s) differs (-want +got):\n%s", e.Name, diff)
		}
	}
}

func TestOf_TypeThatContainsItself(t *testing.T) {
	t.Parallel()
	type node struct {
		Next  *node  `json:"next,omitempty"`
		Nodes []node `json:"nodes"`
	}
	got := schema.Of(reflect.TypeFor[node]()).Unknown([]byte(`{"next":{"next":{"x":1}},"nodes":[{"nodes":[{"y":1}]}]}`))
	if diff := cmp.Diff([]schema.Finding{{Field: "next.next.x"}, {Field: "nodes[].nodes[].y"}}, got); diff != "" {
		t.Errorf("Unknown differs (-want +got):\n%s", diff)
	}
}

func FuzzUnknown(f *testing.F) {
	for _, e := range examples.All() {
		f.Add(e.Body)
	}
	for _, body := range []string{"", "[]", "null", `{"a":{"b":[[[{"c":1}]]]}}`, `{"\ud800":1,"\u0000":2}`, `{"payload":{"payload":{"payload":1}}}`} {
		f.Add([]byte(body))
	}
	var shapes []*schema.Shape
	for _, t := range codat.Catalog() {
		shapes = append(shapes, schema.OfEvent(t))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, shape := range shapes {
			found := shape.Unknown(body)
			if len(found) > 50 || !slices.IsSortedFunc(found, func(a, b schema.Finding) int { return strings.Compare(a.Field, b.Field) }) {
				t.Fatalf("%d findings, or not sorted", len(found))
			}
			for _, one := range found {
				if one.Field == "" || len(one.Field) > 203 || strings.ContainsFunc(one.Field, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Fatalf("Field = %q; want 1 to 203 characters that are printable", one.Field)
				}
			}
		}
	})
}
