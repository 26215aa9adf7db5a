package process

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Printable is a writer for output that can contain text of others, such as a path, a header or a payload. It replaces each
// character that a terminal may obey or hide, such as a C1 control or a bidirectional override, by its escape, \u009b.
// Line ends and tabs stay. JSON stays the same JSON. Each Write must have whole characters; a byte that is not UTF-8
// becomes \ufffd.
type Printable struct{ W io.Writer }

// Write writes text with escapes. It returns the length of text when everything was written.
func (p Printable) Write(text []byte) (int, error) {
	if plain(text) {
		return p.W.Write(text)
	}
	escaped := make([]byte, 0, len(text)+16)
	for rest := text; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		switch {
		case r == '\n' || r == '\t' || unicode.IsPrint(r) && (r != utf8.RuneError || size > 1):
			escaped = append(escaped, rest[:size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
		rest = rest[size:]
	}
	if _, err := p.W.Write(escaped); err != nil {
		return 0, err
	}
	return len(text), nil
}

// plain reports whether a text is of printable ASCII, line ends and tabs, as nearly all are.
func plain(text []byte) bool {
	for _, c := range text {
		if c >= 0x7f || c < ' ' && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}
