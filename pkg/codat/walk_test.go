package codat

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// The walk is unexported, and is what stands between a stranger's bytes and an index out
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
