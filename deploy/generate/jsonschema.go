package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/codat/schema"
)

// A jsonSchema is a JSON Schema. Those of records are of the draft 2020-12, those in the AsyncAPI document of draft 7.
type jsonSchema struct {
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
	AnyOf                []*jsonSchema `json:"anyOf,omitempty"`
	Properties           schemas       `json:"properties,omitempty"`
	Required             []string      `json:"required,omitempty"`
	Items                *jsonSchema   `json:"items,omitempty"`
	AdditionalProperties *jsonSchema   `json:"additionalProperties,omitempty"`
	Deprecated           bool          `json:"deprecated,omitempty"`
	Defs                 schemas       `json:"$defs,omitempty"`
}

// A named schema is one of schemas.
type named struct {
	name   string
	schema *jsonSchema
}

// schemas are a JSON object of schemas, in their order.
type schemas []named

// MarshalJSON writes the object.
func (s schemas) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, n := range s {
		name, err := json.Marshal(n.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(n.schema)
		if err != nil {
			return nil, err
		}
		b.WriteByte("{,"[min(i, 1)])
		b.Write(append(append(name, ':'), value...))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// A schemaWriter makes JSON Schemas of shapes. Each Go type of an object is a schema of its own, to which the others refer.
// None forbids a further member, and none a further value of an enumeration: both come without notice.
type schemaWriter struct {
	refs     string // what a reference to a schema of its own begins with
	comments comments
	// lenient says that every member may be absent or null, as in bodies of Codat.
	lenient bool

	own schemas
}

// write returns the schema of a shape. It refers to the schema of its own of an object.
func (w *schemaWriter) write(s *schema.Shape) *jsonSchema {
	switch s.Kind {
	case schema.Object:
		name := typeName(s.Type)
		w.define(name, s)
		return &jsonSchema{Ref: w.refs + name}
	case schema.Map:
		return &jsonSchema{Type: w.types("object"), AdditionalProperties: w.nullable(w.write(s.Element))}
	case schema.Array:
		return &jsonSchema{Type: w.types("array"), Items: w.nullable(w.write(s.Element))}
	case schema.String:
		return w.text(s)
	case schema.Bytes:
		return &jsonSchema{Type: w.types("string"), ContentEncoding: "base64"}
	case schema.Time:
		return &jsonSchema{Type: w.types("string"), Format: "date-time"}
	case schema.CodatTime: // a format would refuse the dates without a zone
		return &jsonSchema{Type: w.types("string"), Examples: []string{"2026-02-03T10:15:30.1234567Z"}}
	case schema.Number:
		return &jsonSchema{Type: w.types("number", "string")}
	case schema.Integer:
		return &jsonSchema{Type: w.types("integer")}
	case schema.Boolean:
		return &jsonSchema{Type: w.types("boolean")}
	}
	return &jsonSchema{}
}

// text returns the schema of a text, which of an enumeration lists the values that are known.
func (w *schemaWriter) text(s *schema.Shape) *jsonSchema {
	values := s.Values
	if len(values) == 0 {
		values = w.comments.values[goName(s.Type)]
	}
	if len(values) == 0 {
		return &jsonSchema{Type: w.types("string")}
	}
	return &jsonSchema{AnyOf: []*jsonSchema{{Type: "string", Enum: values}, {Type: w.types("string")}}}
}

// types is the member type of a schema.
func (w *schemaWriter) types(names ...string) any {
	if w.lenient {
		names = append(names, "null")
	}
	if len(names) == 1 {
		return names[0]
	}
	return names
}

// nullable returns a schema that also takes null, where null is possible.
func (w *schemaWriter) nullable(s *jsonSchema) *jsonSchema {
	if !w.lenient || s.Ref == "" {
		return s
	}
	return &jsonSchema{AnyOf: []*jsonSchema{s, {Type: "null"}}}
}

// define adds the schema of an object to those of their own, unless it is there.
func (w *schemaWriter) define(name string, s *schema.Shape) {
	if slices.ContainsFunc(w.own, func(n named) bool { return n.name == name }) {
		return
	}
	object := &jsonSchema{Type: "object"}
	w.own = append(w.own, named{name, object})
	if s.Type != nil {
		object.Description = w.comments.texts[goName(s.Type)]
	}
	w.addMembers(object, s)
}

// addMembers adds the members of a shape to the schema of an object.
func (w *schemaWriter) addMembers(object *jsonSchema, s *schema.Shape) {
	for _, m := range s.Members {
		member := w.nullable(w.write(m.Shape))
		if s.Type != nil {
			member.Description = w.comments.field(s.Type, m.Field)
		}
		member.Deprecated = m.Former
		if !w.lenient && !m.Optional {
			object.Required = append(object.Required, m.Name)
			if m.Shape.Kind == schema.Array || m.Shape.Kind == schema.Map {
				member.Type = []string{member.Type.(string), "null"} // what encoding/json makes of nil
			}
		}
		object.Properties = append(object.Properties, named{m.Name, member})
	}
}

// encodeJSON returns indented JSON without escapes for HTML.
func encodeJSON(v any) ([]byte, error) {
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
