package codat

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"iter"
	"math/bits"
	"unicode/utf8"
)

// This file is a scanner of JSON. Read is called for every event and needs ten texts of a body: the scanner checks the
// whole body and finds the values of members without decoding them. It takes exactly what encoding/json takes, also bytes
// in a string that are not UTF-8, and does not recurse.

// maxDepth is how deep objects and arrays may be nested, as in encoding/json.
const maxDepth = 10_000

// document returns the index behind the JSON value with which b begins, after white space. It is not ok when there is no
// value, or when its objects and arrays are nested deeper than limit, which is maxDepth at most.
func document(b []byte, limit int) (end int, ok bool) {
	i := blank(b, 0)
	if i == len(b) {
		return 0, false
	}
	end = valueEnd(b[i:], limit)
	return i + max(end, 0), end >= 0
}

// valueEnd returns the index behind the JSON value that begins at 0, and less than 0 when there is no value or when it is
// nested deeper than limit.
func valueEnd(b []byte, limit int) int {
	if b[0] == '{' || b[0] == '[' {
		return container(b, 0, limit)
	}
	return scalar(b, 0)
}

// scalar returns the index after the string, number or literal at i, or a negative number without one.
func scalar(b []byte, i int) int {
	switch b[i] {
	case '"':
		return quoted(b, i)
	case 't':
		return literal(b, i, "true")
	case 'f':
		return literal(b, i, "false")
	case 'n':
		return literal(b, i, "null")
	}
	return number(b, i)
}

// container returns the index behind the object or array that begins at i, and less than 0 when it is not valid or nested
// deeper than limit.
func container(b []byte, i, limit int) int {
	var open openValues
	for {
		if i = blank(b, i); i == len(b) {
			return -1
		}
		if c := b[i]; c == '{' || c == '[' {
			if open.depth == limit {
				return -1
			}
			open.push(c == '{')
			if i = blank(b, i+1); i == len(b) {
				return -1
			}
			switch {
			case b[i] == c+2: // } is two behind {, and ] behind [: it is empty, and ends below
			case c == '[':
				continue
			default:
				if _, i = name(b, i); i < 0 {
					return -1
				}
				continue
			}
		} else if i = scalar(b, i); i < 0 {
			return -1
		}

		// After a value, open values end, or the innermost one goes on.
		for more := false; !more; {
			if open.depth == 0 {
				return i
			}
			if i = blank(b, i); i == len(b) {
				return -1
			}
			object := open.object()
			switch c := b[i]; {
			case c == ',' && object:
				if _, i = name(b, blank(b, i+1)); i < 0 {
					return -1
				}
				more = true
			case c == ',':
				i++
				more = true
			case c == '}' && object, c == ']' && !object:
				i++
				open.depth--
			default:
				return -1
			}
		}
	}
}

// openValues says of each open object and array which of the two it is. Nearly all bodies are less than 64 deep.
type openValues struct {
	depth   int
	shallow uint64   // one bit for each of the outer 64: 1 for an object
	deep    []uint64 // of those within
}

func (o *openValues) push(object bool) {
	word := &o.shallow
	if n := o.depth / 64; n > 0 {
		if n > len(o.deep) {
			o.deep = append(o.deep, 0)
		}
		word = &o.deep[n-1]
	}
	*word &^= 1 << (o.depth % 64)
	if object {
		*word |= 1 << (o.depth % 64)
	}
	o.depth++
}

// object reports whether the innermost open value is an object.
func (o *openValues) object() bool {
	last := o.depth - 1
	word := o.shallow
	if n := last / 64; n > 0 {
		word = o.deep[n-1]
	}
	return word&(1<<(last%64)) != 0
}

// visitMembers returns the index behind the object whose brace is at 0, and less than 0 when it is not valid. It calls visit
// for each member, with its name in quotes as it is in b, and the rest of b from the member's value on. visit returns the
// index behind that value, or less than 0 to end with this result. What was visited counts only for a valid object.
func visitMembers(b []byte, visit func(name, rest []byte) int) int {
	i := blank(b, 1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		quote, next := name(b, i)
		if next < 0 {
			return -1
		}
		value := blank(b, next)
		if value == len(b) {
			return -1
		}
		n := visit(b[i:quote], b[value:])
		if n < 0 {
			return -1
		}
		switch i = blank(b, value+n); {
		case i < len(b) && b[i] == ',':
			i = blank(b, i+1)
		case i < len(b) && b[i] == '}':
			return i + 1
		default:
			return -1
		}
	}
}

// members yields the names, in lower case, and the values of the members of an object, and nothing for another value. A
// name is valid until the next one is yielded.
func members(value []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		if len(value) == 0 || value[0] != '{' {
			return
		}
		var lower [longestName]byte
		visitMembers(value, func(name, rest []byte) int {
			end := valueEnd(rest, maxDepth)
			if end >= 0 && !yield(fold(lower[:0], name), rest[:end]) {
				return -1
			}
			return end
		})
	}
}

// elements yields the elements of an array, and nothing for another value.
func elements(value []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if len(value) == 0 || value[0] != '[' {
			return
		}
		for i := blank(value, 1); i < len(value) && value[i] != ']'; i = blank(value, i) {
			n, ok := document(value[i:], maxDepth-1)
			if !ok || !yield(value[i:i+n]) {
				return
			}
			if i = blank(value, i+n); i < len(value) && value[i] == ',' {
				i = blank(value, i+1)
			}
		}
	}
}

// member returns the last text among the members of an object that have the given name,
// which must be in lower case; or nil.
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

// blank returns the index of the first byte from i on that is not white space.
func blank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// name returns the index behind the name of a member, and the one behind its colon; negative without a name at i.
func name(b []byte, i int) (quote, next int) {
	if i == len(b) || b[i] != '"' {
		return -1, -1
	}
	if quote = quoted(b, i); quote < 0 {
		return -1, -1
	}
	if next = blank(b, quote); next == len(b) || b[next] != ':' {
		return -1, -1
	}
	return quote, next + 1
}

// plain returns the index of the first byte from i on that is a quote, a backslash or a control character; len(b) without
// one.
func plain(b []byte, i int) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080 // in each of eight bytes
	for ; i+8 <= len(b); i += 8 {
		// Of eight bytes, the highest bit of the first one that is less than a space, a quote or a backslash is set.
		x := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := x^ones*'"', x^ones*'\\'
		if found := ((x-ones*' ')&^x | (quote-ones)&^quote | (backslash-ones)&^backslash) & high; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && b[i] >= ' ' && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// quoted returns the index after the string whose quote is at i, or a negative number when it is invalid.
func quoted(b []byte, i int) int {
	for i++; i < len(b); i++ {
		if i = plain(b, i); i == len(b) {
			return -1
		}
		switch {
		case b[i] == '"':
			return i + 1
		case b[i] < ' ', i+1 == len(b):
			return -1
		default: // a backslash
			i++
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if i+4 >= len(b) || !hexadecimal(b[i+1]) || !hexadecimal(b[i+2]) || !hexadecimal(b[i+3]) || !hexadecimal(b[i+4]) {
					return -1
				}
				i += 4
			default:
				return -1
			}
		}
	}
	return -1
}

func hexadecimal(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func literal(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// number returns the index after the number at i, or a negative number without one.
func number(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = digits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = digits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return digits(b, i)
	}
	return i
}

// digits returns the index behind the digits at i, of which there must be one.
func digits(b []byte, i int) int {
	from := i
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
