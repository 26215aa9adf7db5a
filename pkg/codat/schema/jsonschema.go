package schema

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
)

// A JSONSchema is a JSON Schema, of the members that draft 7 and draft 2020-12 have both.
type JSONSchema struct {
	Schema               string        `json:"$schema,omitempty"`
	ID                   string        `json:"$id,omitempty"`
	Ref                  string        `json:"$ref,omitempty"`
	Title                string        `json:"title,omitempty"`
	Description          string        `json:"description,omitempty"`
	Type                 any           `json:"type,omitempty"` // a string, or several
	Format               string        `json:"format,omitempty"`
	ContentEncoding      string        `json:"contentEncoding,omitempty"`
	Enum                 []string      `json:"enum,omitempty"`
	Examples             []string      `json:"examples,omitempty"`
	AnyOf                []*JSONSchema `json:"anyOf,omitempty"`
	Properties           Schemas       `json:"properties,omitempty"`
	Required             []string      `json:"required,omitempty"`
	Items                *JSONSchema   `json:"items,omitempty"`
	AdditionalProperties *JSONSchema   `json:"additionalProperties,omitempty"`
	Deprecated           bool          `json:"deprecated,omitempty"`
	Defs                 Schemas       `json:"$defs,omitempty"`
}

// A Named schema is one of Schemas.
type Named struct {
	Name   string
	Schema *JSONSchema
}

// Schemas are a JSON object of schemas, in their order.
type Schemas []Named

// MarshalJSON writes the object.
func (s Schemas) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, n := range s {
		name, err := json.Marshal(n.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(n.Schema)
		if err != nil {
			return nil, err
		}
		b.WriteByte("{,"[min(i, 1)])
		b.Write(append(append(name, ':'), value...))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// A Writer makes JSON Schemas of shapes. Each Go type of an object is a schema of its own, to which the others refer.
// None forbids a further member, and none a further value of an enumeration: both come without notice.
type Writer struct {
	Refs     string // what a reference to a schema of its own begins with, such as #/$defs/
	Comments Comments
	// Lenient says that every member may be absent or null, as in bodies of Codat.
	Lenient bool
	// Own are the schemas of objects.
	Own Schemas

	defined map[string]reflect.Type // of Own, by their names
}

// Write returns the schema of a shape. It refers to the schema of its own of an object.
func (w *Writer) Write(s *Shape) *JSONSchema {
	switch s.Kind {
	case Object:
		return &JSONSchema{Ref: w.Refs + w.Define(w.name(s.Type), s)}
	case Map:
		return &JSONSchema{Type: w.types("object"), AdditionalProperties: w.nullable(w.Write(s.Element))}
	case Array:
		return &JSONSchema{Type: w.types("array"), Items: w.nullable(w.Write(s.Element))}
	case String:
		return w.text(s)
	case Bytes:
		return &JSONSchema{Type: w.types("string"), ContentEncoding: "base64"}
	case Time:
		return &JSONSchema{Type: w.types("string"), Format: "date-time"}
	case CodatTime: // a format would refuse the dates without a zone
		return &JSONSchema{Type: w.types("string"), Examples: []string{"2026-02-03T10:15:30.1234567Z"}}
	case Number:
		return &JSONSchema{Type: w.types("number", "string")}
	case Integer:
		return &JSONSchema{Type: w.types("integer")}
	case Boolean:
		return &JSONSchema{Type: w.types("boolean")}
	}
	return &JSONSchema{}
}

// text returns the schema of a text, which of an enumeration lists the values that are known.
func (w *Writer) text(s *Shape) *JSONSchema {
	values := s.Values
	if len(values) == 0 {
		values = w.Comments.values[goName(s.Type)]
	}
	if len(values) == 0 {
		return &JSONSchema{Type: w.types("string")}
	}
	return &JSONSchema{AnyOf: []*JSONSchema{{Type: "string", Enum: values}, {Type: w.types("string")}}}
}

// types is the member type of a schema.
func (w *Writer) types(names ...string) any {
	if w.Lenient {
		names = append(names, "null")
	}
	if len(names) == 1 {
		return names[0]
	}
	return names
}

// nullable returns a schema that also takes null, where null is possible.
func (w *Writer) nullable(s *JSONSchema) *JSONSchema {
	if !w.Lenient || s.Ref == "" {
		return s
	}
	return &JSONSchema{AnyOf: []*JSONSchema{s, {Type: "null"}}}
}

// name returns the name of the schema of a Go type: without its package, unless a type of another package has it.
func (w *Writer) name(t reflect.Type) string {
	name := TypeName(t)
	if other, taken := w.defined[name]; taken && other != t {
		return strings.ReplaceAll(goName(t), ".", "")
	}
	return name
}

// Define adds the schema of an object to Own under a name, unless it is there, and returns the name.
func (w *Writer) Define(name string, s *Shape) string {
	if w.defined == nil {
		w.defined = map[string]reflect.Type{}
	}
	if _, known := w.defined[name]; known {
		return name
	}
	w.defined[name] = s.Type
	object := &JSONSchema{Type: "object"}
	w.Own = append(w.Own, Named{name, object})
	if s.Type != nil {
		object.Description = w.Comments.texts[goName(s.Type)]
	}
	w.addMembers(object, s)
	return name
}

// addMembers adds the members of a shape to the schema of an object.
func (w *Writer) addMembers(object *JSONSchema, s *Shape) {
	for _, m := range s.Members {
		member := w.nullable(w.Write(m.Shape))
		if s.Type != nil {
			member.Description = w.Comments.field(s.Type, m.Field)
		}
		member.Deprecated = m.Former
		if !w.Lenient && !m.Optional {
			object.Required = append(object.Required, m.Name)
			if m.Shape.Kind == Array || m.Shape.Kind == Map {
				member.Type = []string{member.Type.(string), "null"} // what encoding/json makes of nil
			}
		}
		object.Properties = append(object.Properties, Named{m.Name, member})
	}
}

// EncodeJSON returns indented JSON without escapes for HTML.
func EncodeJSON(v any) ([]byte, error) {
	var compact, text bytes.Buffer
	e := json.NewEncoder(&compact)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	err := json.Indent(&text, compact.Bytes(), "", "  ")
	// MarshalJSON escapes in spite of SetEscapeHTML.
	return []byte(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(text.String())), err
}
