// Package yamlfile reads lists of settings from YAML files, strictly: an unknown key, a key without a value and a value of another
// type are errors with their line and key. An error has no value of the file but a size or a duration that cannot be parsed.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/watchfile"
)

// A List says what a file lists.
type List struct {
	Noun     string // for one of them; the key of the list is its plural with s
	Required string // the keys that each must have, for errors: "name and secret_files"
}

// ReadList reads a file with one key, which is a list of structs of type T with yaml tags. A key that one of them does not have is as
// in defaults. The file has one element at least.
func ReadList[T any](name string, l List, defaults T) (all []T, err error) {
	defer func() { // the parser panics on a tag in place of a list
		if recover() != nil {
			all, err = nil, errors.New("the file cannot be parsed: write plain YAML, without tags (!)")
		}
	}()
	text, err := watchfile.ReadFile(name)
	if err != nil {
		return nil, err
	}
	file := reflect.New(reflect.StructOf([]reflect.StructField{
		{Name: "List", Type: reflect.TypeFor[[]ast.Node](), Tag: reflect.StructTag(fmt.Sprintf("yaml:%q", l.Noun+"s"))},
	}))
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := decoder.Decode(file.Interface()); err != nil && !errors.Is(err, io.EOF) {
		return nil, locate(err, l.Noun+"s")
	}
	nodes := file.Elem().Field(0).Interface().([]ast.Node)
	if len(nodes) == 0 {
		return nil, fmt.Errorf("contains no %[1]ss: write a list %[1]ss: with %[2]s for each %[1]s", l.Noun, l.Required)
	}
	for i, node := range nodes {
		if node == nil {
			return nil, fmt.Errorf("%s number %d is empty: give it a %s", l.Noun, i+1, l.Required)
		}
		one := defaults
		if err := decoder.DecodeFromNode(node, &one); err != nil {
			return nil, locate(err, keys(reflect.TypeFor[T]())...)
		}
		if err := rejectEmpty(decoder, node); err != nil {
			return nil, locate(err)
		}
		all = append(all, one)
	}
	if !errors.Is(decoder.Decode(new(any)), io.EOF) {
		return nil, fmt.Errorf("contains more than one YAML document: write one list of %ss", l.Noun)
	}
	return all, nil
}

// keys returns the keys that a struct has in YAML.
func keys(t reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		if key, ok := t.Field(i).Tag.Lookup("yaml"); ok {
			all = append(all, key)
		}
	}
	return all
}

// rejectEmpty reports a key without a value: it would switch off a check that the file seems to configure. It decides on
// decoded values, in which anchors, aliases, tags and merged maps have become what they stand for.
func rejectEmpty(decoder *yaml.Decoder, element ast.Node) error {
	var values map[string]any
	if err := decoder.DecodeFromNode(element, &values); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		list, isList := values[key].([]any)
		if values[key] == nil || values[key] == "" || isList && len(list) == 0 {
			return &yaml.SyntaxError{Token: keyToken(element, key), Message: key + " is empty: give it a value, or remove the key"}
		}
	}
	return nil
}

// keyToken returns the place of a key in an element, or that of the element when the key is merged into it.
func keyToken(element ast.Node, key string) *token.Token {
	if keys, ok := element.(*ast.MappingNode); ok {
		for _, pair := range keys.Values {
			if at := pair.Key.GetToken(); at.Value == key {
				return at
			}
		}
	}
	return element.GetToken()
}

// locate returns an error of the decoder with its line and key, and without the names of Go types. known are the keys that could
// have been meant.
func locate(err error, known ...string) error {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		return err
	}
	message := strings.ReplaceAll(at.GetMessage(), "\n", " ")
	var mismatch *yaml.TypeError
	var overflow *yaml.OverflowError
	var node *yaml.UnexpectedNodeTypeError
	var unknown *yaml.UnknownFieldError
	switch {
	case errors.As(err, &unknown) && len(known) > 0:
		message += ": remove it, or write one of " + strings.Join(known, ", ")
	case errors.As(err, &mismatch):
		message = keyBefore(mismatch.Token) + " " + typeHint(mismatch.DstType)
	case errors.As(err, &overflow):
		message = keyBefore(overflow.Token) + " " + typeHint(overflow.DstType)
	case errors.As(err, &node) && node.Expected == ast.SequenceType:
		message = keyBefore(node.Token) + " must be a list: write it like [a, b]"
	case errors.As(err, &node):
		message = keyBefore(node.Token) + ": " + message
	}
	return fmt.Errorf("line %d: %s", at.GetToken().Position.Line, message)
}

// typeHint says how to write a value of a type.
func typeHint(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int:
		return "must be a whole number, like 1024"
	case reflect.Float64:
		return "must be a number, like 20"
	default:
		return "must be a text: put it in quotes when it looks like something else"
	}
}

// keyBefore returns the key of a value.
func keyBefore(value *token.Token) string {
	for at := value; at != nil && at.Prev != nil; at = at.Prev {
		if at.Type == token.MappingValueType {
			return at.Prev.Value
		}
	}
	return "the file"
}

// Invalid returns the error of an UnmarshalYAML for a value that cannot be used: with the line and the key of the value, and message,
// which names the cure.
func Invalid(value ast.Node, message string) error {
	at := value.GetToken()
	return &yaml.SyntaxError{Token: at, Message: keyBefore(at) + ": " + message}
}

// A Duration is a time.Duration in a file.
type Duration time.Duration

// UnmarshalYAML parses a duration. Its error has a place in the file.
func (d *Duration) UnmarshalYAML(node ast.Node) error {
	read, err := time.ParseDuration(node.GetToken().Value)
	if err != nil {
		return Invalid(node, fmt.Sprintf("%q is not a duration: write it like 5m or 300s", node.GetToken().Value))
	}
	*d = Duration(read)
	return nil
}

// String formats the duration as flags do.
func (d Duration) String() string { return time.Duration(d).String() }

// A ByteSize is a process.ByteSize in a file.
type ByteSize process.ByteSize

// UnmarshalYAML parses a size. Its error has a place in the file.
func (b *ByteSize) UnmarshalYAML(node ast.Node) error {
	if err := (*process.ByteSize)(b).UnmarshalText([]byte(node.GetToken().Value)); err != nil {
		return Invalid(node, err.Error())
	}
	return nil
}

// String formats the size as flags do.
func (b ByteSize) String() string { return process.ByteSize(b).String() }
