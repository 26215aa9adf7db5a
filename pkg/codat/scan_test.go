package codat

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
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
		_, err := object(b, func(_, rest []byte) int { return valueEnd(rest, maxDepth-1) })
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

// A string is scanned eight bytes at a time.
func TestDocument_EveryByteAtEveryPlaceOfAString(t *testing.T) {
	t.Parallel()
	for length := range 2*8 + 2 {
		for place := range length {
			for c := range 256 {
				b := []byte(`"` + strings.Repeat("x", length) + `"`)
				b[1+place] = byte(c)
				end, ok := document(b, maxDepth)
				if whole := ok && end == len(b); whole != json.Valid(b) {
					t.Fatalf("document(%q) = %d, %v; want what encoding/json says: %v", b, end, ok, json.Valid(b))
				}
			}
		}
	}
}

func TestDocument_DepthOfEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{1, 7, 8, 9, maxDepth - 1, maxDepth, maxDepth + 1} {
		for _, one := range []struct{ open, end string }{{"[", "]"}, {`{"a":`, "}"}, {`[{"a":`, "}]"}} {
			n := depth / len(one.end)
			b := []byte(strings.Repeat(one.open, n) + "1" + strings.Repeat(one.end, n))
			if _, ok := document(b, maxDepth); ok != json.Valid(b) {
				t.Errorf("document(%d times %s) = %v; want %v", n, one.open, ok, !ok)
			}
			if _, err := object(b, func(_, rest []byte) int { return valueEnd(rest, maxDepth-1) }); b[0] == '{' && (err == nil) != json.Valid(b) {
				t.Errorf("object(%d times %s) = %v; want what encoding/json says", n, one.open, err)
			}
		}
	}
}

// Every byte of every example is taken out, doubled and replaced, and every example ends at each of its bytes.
func TestDocument_BrokenExamples(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("examples/bodies/*.json") // package examples imports this one
	if err != nil || len(names) == 0 {
		t.Fatalf("the examples are %q, %v", names, err)
	}
	all := make([][]byte, len(names))
	for i, name := range names {
		if all[i], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		broken func(body []byte, i int) []byte
	}{
		{"a byte missing", func(body []byte, i int) []byte { return slices.Concat(body[:i], body[i+1:]) }},
		{"a byte twice", func(body []byte, i int) []byte { return slices.Concat(body[:i+1], body[i:]) }},
		{"a quote in place of a byte", func(body []byte, i int) []byte { return slices.Concat(body[:i], []byte{'"'}, body[i+1:]) }},
		{"an end before its end", func(body []byte, i int) []byte { return body[:i] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, body := range all {
				for i := range body {
					b := tt.broken(body, i)
					end, ok := document(b, maxDepth)
					if whole := ok && blank(b, end) == len(b); whole != json.Valid(b) {
						t.Fatalf("document(%q) = %d, %v; want %v", b, end, ok, json.Valid(b))
					}
				}
			}
		})
	}
}

// The scanner is unexported, and keeps the bytes of an unauthenticated client from an index out
// of range: it is held against encoding/json, value by value.
func FuzzWalk(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `null`, `""`, `-1.5e+7`, ` [ 1 , "a" , { } , [ ] , true , null ] `,
		`{"a":{"b":[{"c":"}"},"]",["\""]]},"\u0041":1,"a":2}`, `{"\\":"\\\\","":{"":{}}}`, "{\n}", "[\t]", `[[[]],{"x":[]}]`,
		`{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":1}`, "{\"\xff\":\"\xfe\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if json.Valid(b) && len(b) < 1<<12 {
			check(t, bytes.Trim(b, " \t\r\n"))
		}
	})
}

// check walks a value and decodes it, and compares, all the way down.
func check(t *testing.T, value []byte) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber() // a number can be too large for a float64
	begin, err := dec.Token()
	if err != nil {
		t.Fatal(err)
	}
	if want, ok := begin.(string); ok {
		if got := text(value); got != want {
			t.Fatalf("text(%s) = %q; want %q", value, got, want)
		}
	} else if got := text(value); got != "" {
		t.Fatalf("text(%s) = %q; want nothing, it is no text", value, got)
	}
	for name, got := range members(value) {
		if begin != json.Delim('{') {
			t.Fatalf("members(%s) yields something; want nothing, it is no object", value)
		}
		key, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		// Names that are not UTF-8 stay as they are: none of them is asked for.
		if want := lower(key.(string)); string(name) != want && utf8.Valid(name) {
			t.Fatalf("members(%s) yields the name %q; want %q", value, name, want)
		}
		checkNext(t, dec, got)
	}
	for got := range elements(value) {
		if begin != json.Delim('[') {
			t.Fatalf("elements(%s) yields something; want nothing, it is no array", value)
		}
		checkNext(t, dec, got)
	}
	if dec.More() {
		t.Fatalf("the walk of %s ends early", value)
	}
}

func checkNext(t *testing.T, dec *json.Decoder, got []byte) {
	t.Helper()
	var want json.RawMessage
	if err := dec.Decode(&want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the walk yields %s; want %s", got, want)
	}
	check(t, got)
}

// lower is what fold makes of a name.
func lower(name string) string {
	if len(name) > longestName {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// A payload is visited while it is checked: its depth counts as that of any other value.
func TestRead_DepthOfPayload(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{maxDepth - 3, maxDepth - 2, maxDepth - 1, maxDepth} {
		b := []byte(`{"eventType":"t","payload":{"a":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}}`)
		if _, err := Read(b); (err == nil) != json.Valid(b) {
			t.Errorf("Read() of a payload with %d arrays = %v; encoding/json: %v", depth, err, json.Valid(b))
		}
	}
}
