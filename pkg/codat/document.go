package codat

// maxDepth is how deep objects and arrays may be nested: as in encoding/json.
const maxDepth = 10_000

// document returns the index behind the JSON value with which b begins, after white space; not ok when there is none, or
// when it is nested deeper than most. It takes what encoding/json takes, bytes in a text that are not UTF-8 included. It
// does not recurse.
func document(b []byte, most int) (end int, ok bool) {
	var objects [(maxDepth + 7) / 8]byte // a bit for each value that is open: an object, or else an array
	depth := 0
	for i := 0; ; {
		if i = blank(b, i); i == len(b) {
			return 0, false
		}
		switch c := b[i]; c {
		case '{', '[':
			if depth == most {
				return 0, false
			}
			objects[depth/8] &^= 1 << (depth % 8)
			if c == '{' {
				objects[depth/8] |= 1 << (depth % 8)
			}
			depth++
			switch i = blank(b, i+1); {
			case i < len(b) && b[i] == c+2: // } is two behind {, and ] behind [; it is empty, and ends below
			case c == '[':
				continue
			default:
				if _, i = name(b, i); i < 0 {
					return 0, false
				}
				continue
			}
		case '"':
			i = quoted(b, i)
		case 't':
			i = literal(b, i, "true")
		case 'f':
			i = literal(b, i, "false")
		case 'n':
			i = literal(b, i, "null")
		default:
			i = number(b, i)
		}
		if i < 0 {
			return 0, false
		}

		// Behind a value: what is open ends, or goes on.
		for more := false; !more; {
			if depth == 0 {
				return i, true
			}
			if i = blank(b, i); i == len(b) {
				return 0, false
			}
			object := objects[(depth-1)/8]&(1<<((depth-1)%8)) != 0
			switch c := b[i]; {
			case c == ',' && object:
				if _, i = name(b, blank(b, i+1)); i < 0 {
					return 0, false
				}
				more = true
			case c == ',':
				i++
				more = true
			case c == '}' && object, c == ']' && !object:
				i++
				depth--
			default:
				return 0, false
			}
		}
	}
}

// visitMembers is document for an object, whose brace is at 0, and calls visit for each member, with its name in quotes
// as it stands there. What was visited counts only when it is ok.
func visitMembers(b []byte, visit func(name, value []byte)) (end int, ok bool) {
	i := blank(b, 1)
	if i < len(b) && b[i] == '}' {
		return i + 1, true
	}
	for {
		quote, next := name(b, i)
		if next < 0 {
			return 0, false
		}
		value := blank(b, next)
		n, ok := document(b[value:], maxDepth-1)
		if !ok {
			return 0, false
		}
		visit(b[i:quote], b[value:value+n])
		switch i = blank(b, value+n); {
		case i < len(b) && b[i] == ',':
			i = blank(b, i+1)
		case i < len(b) && b[i] == '}':
			return i + 1, true
		default:
			return 0, false
		}
	}
}

// blank returns the index of the first byte from i on that is not white space.
func blank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// name returns the index behind the name of a member, and the one behind its colon; less than 0 when there is none at i.
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

// special are the bytes that mean something in a text.
var special = func() (is [256]bool) {
	for c := range byte(' ') {
		is[c] = true
	}
	is['"'], is['\\'] = true, true
	return is
}()

// quoted returns the index behind the text whose quote is at i; less than 0 when it is none.
func quoted(b []byte, i int) int {
	for i++; i < len(b); i++ {
		if !special[b[i]] {
			continue
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

// number returns the index behind the number at i; less than 0 when there is none.
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
