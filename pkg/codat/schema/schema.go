// Package schema says what the JSON of events and records may be. It follows from their Go types. It makes JSON Schemas of
// them for services in other languages, finds in a body what the types do not know, and compares the types with an OpenAPI
// file of Codat's.
package schema

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
)

// A Kind is what a JSON value is.
type Kind int

// The kinds of values.
const (
	Any       Kind = iota
	Object         // with Members
	Map            // an object whose names can be any, with values of Element
	Array          // of Element
	String         // one of Values, or another text, where Values are known
	Bytes          // a string in base64
	Time           // a string in RFC 3339
	CodatTime      // a string in one of the forms that codat.Time reads
	Number         // a number of any size, or its text
	Integer
	Boolean
)

// A Shape is what the JSON of a Go type may be. Do not change one.
type Shape struct {
	Kind    Kind
	Type    reflect.Type // the Go type; nil for the body of an event
	Members []Member
	Element *Shape
	Values  []string // documented values of an enumeration
}

// A Member is a member of an object.
type Member struct {
	Name     string
	Field    string // of the Go type
	Shape    *Shape
	Optional bool // it is absent when it has no value
	Former   bool // no current schema of Codat's has it, and bodies may still have it
}

// Of returns the shape of a Go type whose JSON encoding/json writes by the tags of its fields.
func Of(t reflect.Type) *Shape { return shapes{}.of(t) }

// OfEvent returns the shape of a body of an event type.
func OfEvent(t codat.Type) *Shape {
	payload := Of(t.Payload())
	if !t.InEnvelope() {
		return payload
	}
	text := &Shape{Kind: String, Type: reflect.TypeFor[string]()}
	return &Shape{Kind: Object, Members: []Member{
		{Name: "id", Shape: text, Optional: true},
		{Name: "eventType", Shape: text, Optional: true},
		{Name: "type", Shape: text, Optional: true, Former: true}, // in place of eventType in examples of 2024
		{Name: "generatedDate", Shape: &Shape{Kind: CodatTime, Type: reflect.TypeFor[codat.Time]()}, Optional: true},
		{Name: "payload", Shape: payload, Optional: true},
	}}
}

// shapes has the shapes that were begun, so that a type may contain itself.
type shapes map[reflect.Type]*Shape

func (s shapes) of(t reflect.Type) *Shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if begun := s[t]; begun != nil {
		return begun
	}
	shape := &Shape{Type: t}
	s[t] = shape
	switch t {
	case reflect.TypeFor[json.RawMessage]():
		return shape
	case reflect.TypeFor[codat.Time]():
		shape.Kind = CodatTime
		return shape
	case reflect.TypeFor[time.Time]():
		shape.Kind = Time
		return shape
	case reflect.TypeFor[json.Number]():
		shape.Kind = Number
		return shape
	case reflect.TypeFor[[]byte]():
		shape.Kind = Bytes
		return shape
	}
	switch t.Kind() {
	case reflect.String:
		shape.Kind, shape.Values = String, codat.Values(t)
	case reflect.Bool:
		shape.Kind = Boolean
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		shape.Kind = Integer
	case reflect.Slice, reflect.Array:
		shape.Kind, shape.Element = Array, s.of(t.Elem())
	case reflect.Map:
		shape.Kind, shape.Element = Map, s.of(t.Elem())
	case reflect.Struct:
		shape.Kind, shape.Members = Object, s.members(t)
	}
	return shape
}

// members returns the members that the fields of a struct become, those of an embedded struct in its place.
func (s shapes) members(t reflect.Type) []Member {
	var all []Member
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			all = append(all, s.members(f.Type)...)
			continue
		case !f.IsExported() || name == "-":
			continue
		case name == "":
			name = f.Name
		}
		all = append(all, Member{
			Name: name, Field: f.Name, Shape: s.of(f.Type),
			Optional: strings.Contains(options, "omit"),
			Former:   f.Tag.Get("codat") == "former",
		})
	}
	return all
}
