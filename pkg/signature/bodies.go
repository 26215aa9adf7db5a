package signature

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A change is a body from which a proxy, a framework or a capture can have made the given one.
type change struct {
	text string
	from func(body []byte, limit int) []byte // nil when the body cannot have been made so, or from more than limit bytes
}

// within is a function whose result is at most a few times as long as the body.
func within(f func([]byte) []byte) func([]byte, int) []byte {
	return func(body []byte, _ int) []byte { return f(body) }
}

// changes are those of any body.
var changes = []change{
	{"one without the line end at its end", within(func(b []byte) []byte { return bytes.TrimRight(b, "\r\n") })},
	{"one without the white space around it", within(bytes.TrimSpace)},
	{"one with a line end at its end", within(lineEnd)},
	{`one with \r\n at its end`, within(func(b []byte) []byte { return append(slices.Clone(b), "\r\n"...) })},
	{`one whose lines end with \n`, within(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) })},
	{`one whose lines end with \r\n`, within(func(b []byte) []byte { return crlf(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))) })},
	{"one without a byte order mark", within(func(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\uFEFF")) })},
	{"one with a byte order mark", within(func(b []byte) []byte { return append([]byte("\uFEFF"), b...) })},
	{"one without the backslashes before slashes", within(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`\/`), []byte("/")) })},
	{"one with backslashes before slashes", within(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("/"), []byte(`\/`)) })},
	{"one with characters in place of the \\u escapes of <, > and &", within(func(b []byte) []byte { return unescape(b, true) })},
	{"one with characters in place of \\u escapes", within(characters)},
	{"one with \\u escapes (lower case) in place of other characters", within(escapes)},
	{"one with \\u escapes (upper case) in place of other characters", within(func(b []byte) []byte { return escape(b, "\\u%04X") })},
	{"what it is compressed from (gzip)", unzip},
	{"what it is the base64 of", within(unbase64)},
	{"one that was not encoded as UTF-8 a second time", within(fromUTF8OfUTF8)},
	{"what it is the JSON string of", within(func(b []byte) []byte {
		var text string
		if json.Unmarshal(b, &text) != nil {
			return nil
		}
		return []byte(text)
	})},
}

// layouts are those of compact JSON.
var layouts = []change{
	{"the same JSON without white space", within(slices.Clone[[]byte])},
	{"the same JSON indented with two spaces", indented("  ")},
	{"the same JSON indented with four spaces", indented("    ")},
	{"the same JSON indented with tabs", indented("\t")},
	{"the same JSON with a space after each comma and colon, as Python writes it", within(spaced)},
}

// layoutChanges are those of JSON in one of the layouts.
var layoutChanges = []change{
	{"", within(slices.Clone[[]byte])},
	{`, its lines with \r\n`, within(crlf)},
	{" and with a line end at its end", within(lineEnd)},
	{", with characters in place of \\u escapes", within(characters)},
	{", with \\u escapes in place of other characters", within(escapes)},
}

// bodies returns the bodies that the given one may have been, each once, and what each is. Those over limit bytes are left out.
func bodies(body []byte, limit int) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		seed := maphash.MakeSeed()
		seen := map[uint64]bool{maphash.Bytes(seed, body): true}
		next := func(text string, b []byte) bool {
			if b == nil || len(b) > limit || seen[maphash.Bytes(seed, b)] {
				return true
			}
			seen[maphash.Bytes(seed, b)] = true
			return yield(text, b)
		}
		for _, c := range changes {
			if !next(c.text, c.from(body, limit)) {
				return
			}
		}
		var compact bytes.Buffer
		if json.Compact(&compact, body) != nil {
			return
		}
		for _, l := range layouts {
			b := l.from(compact.Bytes(), limit)
			for _, c := range layoutChanges {
				if b != nil && !next(l.text+c.text, c.from(b, limit)) {
					return
				}
			}
		}
	}
}

func lineEnd(b []byte) []byte { return append(slices.Clone(b), '\n') }

func crlf(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }

func characters(b []byte) []byte { return unescape(b, false) }

func escapes(b []byte) []byte { return escape(b, "\\u%04x") }

func unzip(b []byte, limit int) []byte {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	plain, err := io.ReadAll(io.LimitReader(z, int64(limit)+1))
	if err != nil || len(plain) > limit {
		return nil
	}
	return plain
}

func unbase64(b []byte) []byte {
	plain, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(b)))
	if err != nil {
		return nil
	}
	return plain
}

// indented returns a function that indents compact JSON, unless it becomes longer than its limit: of deeply nested JSON the
// indentation is many times as long as the text.
func indented(unit string) func([]byte, int) []byte {
	return func(compact []byte, limit int) []byte {
		size, depth, inString, escaped := 0, 0, false, false
		for _, c := range compact {
			size++
			switch {
			case escaped:
				escaped = false
			case inString && c == '\\':
				escaped = true
			case c == '"':
				inString = !inString
			case inString:
			case c == '{', c == '[':
				depth++
				size += 1 + depth*len(unit)
			case c == '}', c == ']':
				depth--
				size += 1 + depth*len(unit)
			case c == ',':
				size += 1 + depth*len(unit)
			case c == ':':
				size++
			}
			if size > limit {
				return nil
			}
		}
		var out bytes.Buffer
		_ = json.Indent(&out, compact, "", unit) // it is valid
		return out.Bytes()
	}
}

// spaced returns compact JSON with a space after each comma and colon outside of strings.
func spaced(compact []byte) []byte {
	out := make([]byte, 0, len(compact)+len(compact)/8)
	inString, escaped := false, false
	for _, c := range compact {
		out = append(out, c)
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case !inString && (c == ',' || c == ':'):
			out = append(out, ' ')
		}
	}
	return out
}

var unicodeEscape = regexp.MustCompile(`\\u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|[0-9a-fA-F]{4})`)

// unescape replaces the escapes of printable characters, or only those of <, > and &.
func unescape(body []byte, html bool) []byte {
	return unicodeEscape.ReplaceAllFunc(body, func(e []byte) []byte {
		n, _ := strconv.ParseUint(string(e[2:6]), 16, 32)
		r := rune(n)
		if len(e) > 6 {
			low, _ := strconv.ParseUint(string(e[8:]), 16, 32)
			r = utf16.DecodeRune(r, rune(low))
		}
		if html && !strings.ContainsRune("<>&", r) || r < ' ' || r == '"' || r == '\\' || utf16.IsSurrogate(r) {
			return e
		}
		return []byte(string(r))
	})
}

// escape replaces the characters that are not ASCII by escapes.
func escape(body []byte, format string) []byte {
	if !utf8.Valid(body) {
		return body
	}
	var out bytes.Buffer
	for _, r := range string(body) {
		switch {
		case r < utf8.RuneSelf:
			out.WriteByte(byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, format+format, high, low)
		default:
			fmt.Fprintf(&out, format, r)
		}
	}
	return out.Bytes()
}

// fromUTF8OfUTF8 undoes that UTF-8 was read as Latin-1 and written as UTF-8 again; it returns nil for other bodies.
func fromUTF8OfUTF8(body []byte) []byte {
	if !utf8.Valid(body) {
		return nil
	}
	out := make([]byte, 0, len(body))
	for _, r := range string(body) {
		if r > 0xff {
			return nil
		}
		out = append(out, byte(r))
	}
	return out
}
