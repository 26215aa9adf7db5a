package inspect

import (
	"bytes"
	"encoding/json"
)

// Indent returns a JSON body with white space for a person: two spaces for each level, after prefix. It reports false for a body that is not
// JSON, and for one of which it would make more than most bytes: each value of one that is nested 10,000 deep takes 20 kB.
func Indent(body []byte, prefix string, most int) (string, bool) {
	if indentedSize(body, len(prefix)) > most {
		return "", false
	}
	var out bytes.Buffer
	if err := json.Indent(&out, body, prefix, "  "); err != nil {
		return "", false
	}
	return out.String(), true
}

// indentedSize is how many bytes Indent makes of a body at most.
func indentedSize(body []byte, prefix int) int {
	size, depth, inString, escaped := len(body), 0, false, false
	for _, c := range body {
		switch {
		case escaped:
			escaped = false
		case c == '"':
			inString = !inString
		case inString:
			escaped = c == '\\'
		case c == '[' || c == '{':
			depth++
			size += 1 + prefix + 2*depth
		case c == ']' || c == '}':
			depth--
			size += 1 + prefix + 2*max(0, depth)
		case c == ',':
			size += 1 + prefix + 2*max(0, depth)
		case c == ':':
			size++
		}
	}
	return size
}
