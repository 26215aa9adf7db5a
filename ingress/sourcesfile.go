package ingress

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

// readSourcesFile reads the file of sources. A setting that a source does not have is as in defaults. An error names the
// line and the key, and never a value but a size or a duration that cannot be parsed.
func readSourcesFile(name string, defaults sourceSettings) (all []sourceSettings, err error) {
	defer func() { // the parser panics on a tag in place of a list
		if recover() != nil {
			all, err = nil, errors.New("the file cannot be parsed: write plain YAML, without tags (!)")
		}
	}()
	text, err := watchfile.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var file struct {
		Sources []ast.Node `yaml:"sources"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, locate(err)
	}
	if len(file.Sources) == 0 {
		return nil, errors.New("contains no sources: write a list sources: with name and secret_files for each source")
	}
	for i, node := range file.Sources {
		if node == nil {
			return nil, fmt.Errorf("source number %d is empty: give it a name and secret_files", i+1)
		}
		one := defaults
		if err := decoder.DecodeFromNode(node, &one); err != nil {
			return nil, locate(err)
		}
		if err := rejectEmpty(decoder, node); err != nil {
			return nil, locate(err)
		}
		all = append(all, one)
	}
	if !errors.Is(decoder.Decode(new(any)), io.EOF) {
		return nil, errors.New("contains more than one YAML document: write one list of sources")
	}
	return all, nil
}

// rejectEmpty reports a key without a value: it would switch off a check that the file seems to configure. It decides on
// decoded values, in which anchors, aliases, tags and merged maps have become what they stand for.
func rejectEmpty(decoder *yaml.Decoder, source ast.Node) error {
	var values map[string]any
	if err := decoder.DecodeFromNode(source, &values); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		list, isList := values[key].([]any)
		if values[key] == nil || values[key] == "" || isList && len(list) == 0 {
			return &yaml.SyntaxError{Token: keyToken(source, key), Message: key + " is empty: give it a value, or remove the key"}
		}
	}
	return nil
}

// keyToken returns the place of a key in a source, or that of the source when the key is merged into it.
func keyToken(source ast.Node, key string) *token.Token {
	if keys, ok := source.(*ast.MappingNode); ok {
		for _, pair := range keys.Values {
			if at := pair.Key.GetToken(); at.Value == key {
				return at
			}
		}
	}
	return source.GetToken()
}

// locate returns an error of the decoder with its line and key, and without the names of Go types.
func locate(err error) error {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		return err
	}
	message := strings.ReplaceAll(at.GetMessage(), "\n", " ")
	var mismatch *yaml.TypeError
	var overflow *yaml.OverflowError
	var node *yaml.UnexpectedNodeTypeError
	switch {
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

// A duration is a time.Duration in the file of sources.
type duration time.Duration

// UnmarshalYAML parses a duration. Its error has a place in the file.
func (d *duration) UnmarshalYAML(node ast.Node) error {
	at := node.GetToken()
	read, err := time.ParseDuration(at.Value)
	if err != nil {
		return &yaml.SyntaxError{Token: at, Message: fmt.Sprintf("%s: %q is not a duration: write it like 5m or 300s", keyBefore(at), at.Value)}
	}
	*d = duration(read)
	return nil
}

// String formats the duration as flags do.
func (d duration) String() string { return time.Duration(d).String() }

// A byteSize is a process.ByteSize in the file of sources.
type byteSize process.ByteSize

// UnmarshalYAML parses a size. Its error has a place in the file.
func (b *byteSize) UnmarshalYAML(node ast.Node) error {
	at := node.GetToken()
	if err := (*process.ByteSize)(b).UnmarshalText([]byte(at.Value)); err != nil {
		return &yaml.SyntaxError{Token: at, Message: keyBefore(at) + ": " + err.Error()}
	}
	return nil
}

// String formats the size as flags do.
func (b byteSize) String() string { return process.ByteSize(b).String() }
