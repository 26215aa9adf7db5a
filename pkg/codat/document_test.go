package codat

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/codat/examples"
)

// Whatever encoding/json takes for a document, and nothing else, is one: all that walks over a body relies on it.
func FuzzDocument(f *testing.F) {
	for _, s := range []string{
		``, ` `, `{}`, ` {} `, `[]`, `[ ]`, `{ }`, `null`, `true`, `false`, `nul`, `""`, `"`, `"\"`, `"\u00e9"`, `"\u00g0"`, `"\u00`, `"\x"`,
		"\"\x1f\"", "\"\x7f\xff\"", `0`, `-0`, `-`, `01`, `1.`, `.1`, `1.5e+7`, `1e`, `1E-`, `-1.0E9`, `1 1`, `{"a":1}x`, `{"a":1,}`, `{,}`,
		`{"a"}`, `{"a":}`, `{"a" : 1 , "b":[1,2,{"c":[]}]}`, `{1:2}`, `{"a":1 "b":2}`, `[1,]`, `[,1]`, `[1 2]`, `[`, `{`, `[}`, `{]`, `[{]}`,
		`{"a":[}]`, "\ufeff{}", "{\"a\"\n:\t1\r}", `[[[[]]]]`, `{"a":{"b":{}}}`, `[]]`, `{}}`, `{"a":1`, `{"a`, `{"a":tru}`, `[nulll]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		end, ok := document(b, maxDepth)
		if whole := ok && blank(b, end) == len(b); whole != json.Valid(b) {
			t.Fatalf("document(%q) = %d, %v; want what encoding/json says: %v", b, end, ok, json.Valid(b))
		}
		if ok && !json.Valid(b[:end]) {
			t.Fatalf("document(%q) = %d, which encoding/json refuses", b, end)
		}
		_, err := object(b, func(_, _ []byte) {})
		if top := bytes.TrimLeft(b, " \t\r\n"); (err == nil) != (json.Valid(b) && top[0] == '{') {
			t.Fatalf("object(%q) = %v; encoding/json: %v", b, err, json.Valid(b))
		}
		if !ok {
			var first json.RawMessage
			if json.NewDecoder(bytes.NewReader(b)).Decode(&first) == nil {
				t.Fatalf("document(%q) = none; encoding/json reads %q", b, first)
			}
		}
	})
}

func TestDocumentIsAsDeepAsEncodingJSONAllows(t *testing.T) {
	for _, depth := range []int{1, 7, 8, 9, maxDepth - 1, maxDepth, maxDepth + 1} {
		for _, one := range []struct{ open, end string }{{"[", "]"}, {`{"a":`, "}"}, {`[{"a":`, "}]"}} {
			n := depth / len(one.end)
			b := []byte(strings.Repeat(one.open, n) + "1" + strings.Repeat(one.end, n))
			if _, ok := document(b, maxDepth); ok != json.Valid(b) {
				t.Errorf("document(%d times %s) = %v; want %v", n, one.open, ok, !ok)
			}
			if _, err := object(b, func(_, _ []byte) {}); b[0] == '{' && (err == nil) != json.Valid(b) {
				t.Errorf("object(%d times %s) = %v; want what encoding/json says", n, one.open, err)
			}
		}
	}
}

// Every byte of every example is taken out, doubled and replaced.
func TestDocumentOfBrokenExamples(t *testing.T) {
	bodies := 0
	for _, e := range examples.All() {
		bodies++
		for i := range e.Body {
			for _, b := range [][]byte{
				append(append([]byte{}, e.Body[:i]...), e.Body[i+1:]...),
				append(append([]byte{}, e.Body[:i+1]...), e.Body[i:]...),
				append(append(append([]byte{}, e.Body[:i]...), '"'), e.Body[i+1:]...),
				e.Body[:i],
			} {
				end, ok := document(b, maxDepth)
				if whole := ok && blank(b, end) == len(b); whole != json.Valid(b) {
					t.Fatalf("document(%q) = %d, %v; want %v", b, end, ok, json.Valid(b))
				}
			}
		}
	}
	if bodies == 0 {
		t.Fatal("there is no example")
	}
}
