package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// encode is v as JSON on one line, with <, > and & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// printJSON writes v on one line.
func printJSON(w io.Writer, v any) error {
	line, err := encode(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// clean is a text from outside as a terminal can be given it: what cannot be seen is escaped. "-" stands for none.
func clean(s string) string {
	if s == "" {
		return "-"
	}
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// cut is clean, at most so many characters long.
func cut(s string, most int) string {
	r := []rune(clean(s))
	if len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return string(r)
}

// when is a time as people read it, on their clock.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// took is a time that something took, as people read it.
func took(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// plural is a count and what is counted: "1 event", "2 events".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// A payload is a body that was asked for, for programs: as JSON where it is JSON, else in base64.
type payload struct {
	Body    json.RawMessage `json:"body,omitempty"`
	Encoded []byte          `json:"body_base64,omitempty"`
}

func newPayload(body []byte) payload {
	if json.Valid(body) && utf8.Valid(body) {
		return payload{Body: body}
	}
	return payload{Encoded: body}
}

// printBody writes a body for people: JSON with indents, anything else with what cannot be seen escaped.
func printBody(w io.Writer, body []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, body, "    ", "  "); err != nil || !utf8.Valid(body) {
		b.Reset()
		b.WriteString(clean(string(body)))
	}
	_, err := fmt.Fprintf(w, "    %s\n", b.String())
	return err
}

// A moment is a point in time on the command line: a date, a date and a time, or how long ago.
type moment struct{ time.Time }

// UnmarshalText reads a moment.
func (m *moment) UnmarshalText(text []byte) error {
	s := string(text)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			m.Time = t
			return nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			m.Time = time.Now().Add(-time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		m.Time = time.Now().Add(-d)
		return nil
	}
	return fmt.Errorf("%q is no time: give how long ago, as 90m or 3d, or a date, as 2026-01-31 or 2026-01-31T15:04:05Z", s)
}
