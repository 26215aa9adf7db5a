package codat

import (
	"bytes"
	"encoding/json"
	"iter"
	"unicode/utf8"
)

// This file walks JSON that is known to be valid. It exists because Read stands in front
// of every event and needs ten texts of it: walking finds them without decoding the rest,
// in a fraction of the time and memory that encoding/json takes. Nothing here recurses,
// and all of it is undefined for JSON that json.Valid refuses.

// members yields the names, in lower case, and the values of the members of an object;
// nothing if value is no object. A name is good until the next one is yielded.
func members(value []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		if len(value) == 0 || value[0] != '{' {
			return
		}
		var lower [longestName]byte
		for i := space(value, 1); value[i] != '}'; {
			end := skip(value, i)
			name := fold(lower[:0], value[i:end])
			i = space(value, space(value, end)+1)
			end = skip(value, i)
			if !yield(name, value[i:end]) {
				return
			}
			if i = space(value, end); value[i] == ',' {
				i = space(value, i+1)
			}
		}
	}
}

// elements yields the elements of an array; nothing if value is no array.
func elements(value []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if len(value) == 0 || value[0] != '[' {
			return
		}
		for i := space(value, 1); value[i] != ']'; {
			end := skip(value, i)
			if !yield(value[i:end]) {
				return
			}
			if i = space(value, end); value[i] == ',' {
				i = space(value, i+1)
			}
		}
	}
}

// member returns the last text among the members of an object that have the given name,
// which must be in lower case; nil if there is none.
func member(value []byte, name string) []byte {
	var found []byte
	for n, v := range members(value) {
		if string(n) == name {
			keep(&found, v, '"')
		}
	}
	return found
}

// keep remembers value if it is of the kind that begins with the byte given.
func keep(in *[]byte, value []byte, begin byte) {
	if value[0] == begin {
		*in = value
	}
}

// text returns the text of a JSON string, "" for anything else.
func text(value []byte) string {
	if len(value) < 2 || value[0] != '"' {
		return ""
	}
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	_ = json.Unmarshal(value, &s) // of valid JSON that is a string: it cannot fail
	return s
}

// longestName is more than the length of any name that is asked for; longer ones fold
// to nothing.
const longestName = 24

// fold appends a name, a JSON string, to buf with its ASCII letters in lower case.
func fold(buf, value []byte) []byte {
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') >= 0 {
		inner = []byte(text(value))
	}
	if len(inner) > longestName {
		return nil
	}
	for _, c := range inner {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf = append(buf, c)
	}
	return buf
}

// space returns the index of the first byte from i on that is not white space.
func space(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t' {
		i++
	}
	return i
}

// skip returns the index behind the value that begins at i, inside an object or array.
func skip(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; ; {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	}
	for ; ; i++ {
		switch b[i] {
		case ',', '}', ']', ' ', '\n', '\r', '\t':
			return i
		}
	}
}

// skipString returns the index behind the string that begins at i.
func skipString(b []byte, i int) int {
	end := i + 1 + bytes.IndexByte(b[i+1:], '"')
	if b[end-1] != '\\' { // nearly always: the quote that was found is not escaped
		return end + 1
	}
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}
