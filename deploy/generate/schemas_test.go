package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/codat/schema"
	"github.com/headgate/headgate/pkg/stream"
)

// parseJSON decodes JSON with its numbers as they are written.
func parseJSON(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// readAsyncAPI returns the document as committed.
func readAsyncAPI(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, asyncAPIFile))
	if err != nil {
		t.Fatal(err)
	}
	if text, err = yaml.YAMLToJSON(text); err != nil {
		t.Fatal(err)
	}
	return parseJSON(t, text).(map[string]any)
}

// at returns what a reference within a document leads to.
func at(document any, ref string) (any, bool) {
	pointer, ok := strings.CutPrefix(ref, "#/")
	for _, name := range strings.Split(pointer, "/") {
		object, isObject := document.(map[string]any)
		if document, ok = object[name]; !ok || !isObject {
			return nil, false
		}
	}
	return document, ok
}

// each calls f with every object in a document, and its path.
func each(path string, v any, f func(path string, object map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(path, v)
		for name, value := range v {
			each(path+"/"+name, value, f)
		}
	case []any:
		for i, element := range v {
			each(path+"/"+strconv.Itoa(i), element, f)
		}
	}
}

// compile compiles a schema of a document.
func compile(t *testing.T, document any, ref string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	if err := c.AddResource("file:///document.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("file:///document.json" + ref)
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	return s
}

// form is the schema of the parts of AsyncAPI 3.0 that the document has, after its specification. It forbids others.
const form = `{
  "type": "object",
  "required": ["asyncapi", "info", "channels", "operations", "components"],
  "additionalProperties": false,
  "properties": {
    "asyncapi": {"const": "3.0.0"},
    "info": {"type": "object", "required": ["title", "version"], "additionalProperties": {"type": "string"}},
    "defaultContentType": {"const": "application/json"},
    "servers": {"type": "object", "additionalProperties": {
      "type": "object", "required": ["host", "protocol"], "additionalProperties": {"type": "string"}}},
    "channels": {"$ref": "#/$defs/named", "additionalProperties": {
      "type": "object", "required": ["address", "messages"], "additionalProperties": false,
      "properties": {
        "address": {"type": "string"}, "description": {"type": "string"},
        "messages": {"$ref": "#/$defs/named", "additionalProperties": {"$ref": "#/$defs/reference"}, "minProperties": 1},
        "parameters": {"$ref": "#/$defs/named", "additionalProperties": {
          "type": "object", "additionalProperties": false,
          "properties": {"description": {"type": "string"}, "examples": {"type": "array", "items": {"type": "string"}}}}}
      }}},
    "operations": {"$ref": "#/$defs/named", "additionalProperties": {
      "type": "object", "required": ["action", "channel"], "additionalProperties": false,
      "properties": {
        "action": {"enum": ["send", "receive"]}, "channel": {"$ref": "#/$defs/reference"},
        "messages": {"type": "array", "items": {"$ref": "#/$defs/reference"}},
        "bindings": {"type": "object", "additionalProperties": false, "properties": {"nats": {
          "type": "object", "additionalProperties": false,
          "properties": {"queue": {"type": "string", "maxLength": 255}, "bindingVersion": {"const": "0.1.0"}}}}}
      }}},
    "components": {"type": "object", "additionalProperties": false, "properties": {
      "schemas": {"$ref": "#/$defs/named", "additionalProperties": {"$ref": "http://json-schema.org/draft-07/schema#"}},
      "messages": {"$ref": "#/$defs/named", "additionalProperties": {
        "type": "object", "additionalProperties": false,
        "properties": {
          "name": {"type": "string"}, "summary": {"type": "string"}, "contentType": {"type": "string"},
          "headers": {"$ref": "#/$defs/reference"}, "payload": {"$ref": "#/$defs/reference"}}}}
    }}
  },
  "$defs": {
    "named": {"type": "object", "propertyNames": {"pattern": "^[A-Za-z0-9_.-]+$"}},
    "reference": {"type": "object", "required": ["$ref"], "additionalProperties": false, "properties": {"$ref": {"type": "string"}}}
  }
}`

func TestAsyncAPI_HasTheFormOfItsSpecification(t *testing.T) {
	t.Parallel()
	document := readAsyncAPI(t)
	c := jsonschema.NewCompiler()
	if err := c.AddResource("file:///form.json", parseJSON(t, []byte(form))); err != nil {
		t.Fatal(err)
	}
	want, err := c.Compile("file:///form.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := want.Validate(document); err != nil {
		t.Errorf("the document is not AsyncAPI 3.0: %v", err)
	}
	each("", document, func(path string, object map[string]any) {
		if ref, ok := object["$ref"].(string); ok {
			if _, found := at(document, ref); !found {
				t.Errorf("%s refers to %s, which does not exist", path, ref)
			}
		}
	})
	parameter := regexp.MustCompile(`\{(\w+)\}`)
	for id, v := range document["channels"].(map[string]any) {
		channel := v.(map[string]any)
		var names []string
		for _, m := range parameter.FindAllStringSubmatch(channel["address"].(string), -1) {
			names = append(names, m[1])
		}
		parameters, _ := channel["parameters"].(map[string]any)
		if got := slices.Sorted(maps.Keys(parameters)); !slices.Equal(got, names) {
			t.Errorf("channel %s has the parameters %q and the address %s", id, got, channel["address"])
		}
		operation, ok := at(document, "#/operations/receive."+id)
		if !ok || operation.(map[string]any)["action"] != "receive" {
			t.Errorf("channel %s has no operation that receives", id)
		}
	}
}

// payloadOf returns the schema of the message of a type, through the only channel whose address the subject fits.
func payloadOf(t *testing.T, document map[string]any, typ codat.Type) *jsonschema.Schema {
	t.Helper()
	var found *jsonschema.Schema
	for id, v := range document["channels"].(map[string]any) {
		for name := range v.(map[string]any)["messages"].(map[string]any) {
			m, _ := at(document, "#/components/messages/"+name)
			message := m.(map[string]any)
			if message["name"] != typ.Name {
				continue
			}
			address := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(v.(map[string]any)["address"].(string), "*")
			if subject := string(source) + ".events." + typ.Name; !codat.Pattern(address).Covers(codat.Pattern(subject)) {
				t.Errorf("channel %s has the address %s and a message of %s", id, address, subject)
			}
			if found != nil {
				t.Errorf("%s is a message of two channels", typ.Name)
			}
			found = compile(t, document, message["payload"].(map[string]any)["$ref"].(string))
		}
	}
	if found == nil {
		t.Fatalf("no channel has a message of %s", typ.Name)
	}
	return found
}

func TestAsyncAPI_TakesEveryExampleAndRefusesOtherTypes(t *testing.T) {
	t.Parallel()
	document := readAsyncAPI(t)
	valid := map[string]*jsonschema.Schema{}
	for _, typ := range codat.Catalog() {
		valid[typ.Name] = payloadOf(t, document, typ)
	}
	for _, e := range examples.All() {
		name := e.Type
		if name == "" { // bank feeds before 2025, the only example without a type
			name = string(codat.SourceAccountConnected)
		}
		typ, ok := codat.TypeOf(name)
		if !ok {
			t.Fatalf("%s is of no type in the catalog", e.Name)
		}
		s := valid[typ.Name]
		body := parseJSON(t, e.Body)
		if err := s.Validate(body); err != nil {
			t.Errorf("%s: %v; want no error", e.Name, err)
		}
		mutate(schema.OfEvent(typ), "", body, func(path string, set func(any), wrong, other any) {
			set(wrong)
			if err := s.Validate(body); err == nil {
				t.Errorf("%s with %s = %v: no error; want one, of another JSON type", e.Name, path, wrong)
			}
			if other != nil {
				set(other)
				if err := s.Validate(body); err != nil {
					t.Errorf("%s with %s = %v: %v; want no error", e.Name, path, other, err)
				}
			}
		})
		body.(map[string]any)["newMember"] = map[string]any{"a": true}
		if err := s.Validate(body); err != nil {
			t.Errorf("%s with a new member: %v; want no error", e.Name, err)
		}
	}
}

// mutate calls f for each value in v whose JSON type its shape knows. set replaces the value: by wrong, which is of another
// JSON type, or by other, a text that no enumeration has yet (nil where it is no text). After f, the value is as before.
func mutate(s *schema.Shape, path string, v any, f func(path string, set func(any), wrong, other any)) {
	visit := func(shape *schema.Shape, path string, value any, set func(any)) {
		switch shape.Kind {
		case schema.Any:
			return
		case schema.Boolean:
			f(path, set, "text", nil)
		case schema.String:
			f(path, set, true, "NewValue")
		default:
			f(path, set, true, nil)
		}
		set(value)
		mutate(shape, path, value, f)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, m := range s.Members {
			if value, ok := v[m.Name]; ok {
				visit(m.Shape, path+"."+m.Name, value, func(to any) { v[m.Name] = to })
			}
		}
		if s.Kind == schema.Map {
			for name, value := range v {
				visit(s.Element, path+"."+name, value, func(to any) { v[name] = to })
			}
		}
	case []any:
		for i, value := range v {
			if s.Kind == schema.Array {
				visit(s.Element, fmt.Sprintf("%s[%d]", path, i), value, func(to any) { v[i] = to })
			}
		}
	}
}

func TestAsyncAPI_HasTheHeadersOfStoredEvents(t *testing.T) {
	t.Parallel()
	document := readAsyncAPI(t)
	described, _ := at(document, "#/components/schemas/Headers/properties")
	now := time.Now()
	msg, err := source.Message(stream.Stored{
		ID: "msg_1", Timestamp: "1", Signature: "v1,x", Received: now, ContentType: "application/json",
		TraceParent: "00-11111111111111111111111111111111-2222222222222222-33",
		Head:        codat.Head{Type: "bills.write.successful", Company: "c", Connection: "k", PushOperation: "p", Generated: now},
	}, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	headers := map[string]any{}
	for name := range msg.Header {
		headers[name] = msg.Header.Get(name)
	}
	if got, want := slices.Sorted(maps.Keys(described.(map[string]any))), slices.Sorted(maps.Keys(headers)); !slices.Equal(got, want) {
		t.Errorf("the headers are %q; want those of an event, %q", got, want)
	}
	if err := compile(t, document, "#/components/schemas/Headers").Validate(headers); err != nil {
		t.Errorf("the headers of an event: %v; want no error", err)
	}
}

// Every state of pkg/state and pkg/plan is read by services, and has a schema. Its name is a constant that ends in Name.
func TestRecords_AreOfEveryStateThatServicesRead(t *testing.T) {
	t.Parallel()
	var have []string
	for _, r := range records {
		have = append(have, r.state)
	}
	for _, folder := range []string{"pkg/state", "pkg/plan"} {
		files, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has %d files, %v", folder, len(files), err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok || len(spec.Values) != 1 || !spec.Names[0].IsExported() || !strings.HasSuffix(spec.Names[0].Name, "Name") {
					return true
				}
				if literal, ok := spec.Values[0].(*ast.BasicLit); ok && !slices.Contains(have, strings.Trim(literal.Value, `"`)) {
					t.Errorf("%s: the state %s has no JSON Schema: add it to records in deploy/generate/records.go, and run make generate",
						name, literal.Value)
				}
				return true
			})
		}
	}
	there, err := filepath.Glob(filepath.Join(root, schemasFolder, "*.json"))
	// output.json is made and checked in cmd/headgate, whose types a program cannot import.
	if err != nil || len(there) != len(records)+len(reports)+1 {
		t.Errorf("%s has %d files, %v; want one of each of %d states and %d reports, and output.json", schemasFolder, len(there), err, len(records), len(reports))
	}
}

func TestRecords_SchemasTakeFilledAndEmptyRecords(t *testing.T) {
	t.Parallel()
	for _, r := range records {
		t.Run(r.state, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(root, schemasFolder, r.state+".json"))
			if err != nil {
				t.Fatal(err)
			}
			document := parseJSON(t, text)
			s := compile(t, document, "")
			empty, filled := reflect.New(r.typ), reflect.New(r.typ)
			fill(filled.Elem())
			for what, value := range map[string]reflect.Value{"an empty": empty, "a filled": filled} {
				if err := s.Validate(encoded(t, value)); err != nil {
					t.Errorf("%s record: %v; want no error", what, err)
				}
			}
			record := encoded(t, filled)
			mutate(schema.Of(r.typ), "", record, func(path string, set func(any), wrong, other any) {
				set(wrong)
				if err := s.Validate(record); err == nil {
					t.Errorf("a record with %s = %v: no error; want one, of another JSON type", path, wrong)
				}
				if other != nil {
					set(other)
					if err := s.Validate(record); err != nil {
						t.Errorf("a record with %s = %v: %v; want no error", path, other, err)
					}
				}
			})
			// Each member of the record is described: an empty schema of an object would take all.
			object, _ := at(document, "#/$defs/"+schema.TypeName(r.typ)+"/properties")
			if got, want := slices.Sorted(maps.Keys(object.(map[string]any))), slices.Sorted(maps.Keys(record.(map[string]any))); !slices.Equal(got, want) {
				t.Errorf("the schema has %q; want %q", got, want)
			}
		})
	}
}

func encoded(t *testing.T, v reflect.Value) any {
	t.Helper()
	text, err := json.Marshal(v.Interface())
	if err != nil {
		t.Fatal(err)
	}
	return parseJSON(t, text)
}

// fill gives a value to everything that a value has.
func fill(v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)))
		return
	case json.RawMessage:
		v.SetBytes([]byte(`{"any":1}`))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		name, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(name)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(name, value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64, reflect.Uint8:
		v.SetUint(7)
	}
}
