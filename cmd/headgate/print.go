package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/inspect"
)

// encode returns v as JSON on one line. It does not escape <, > and &.
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

// printable escapes control characters in an external text, which a terminal would obey. It returns "-" for "".
func printable(s string) string {
	if s == "" {
		return "-"
	}
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// formatTime returns a time in the local time zone.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// formatDuration returns a duration with a readable unit.
func formatDuration(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// plural returns a count with its noun: "1 event", "2 events".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// printRows writes a name and a value on each line.
func printRows(w io.Writer, rows [][2]string) error {
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "%-14s  %s\n", r[0], printable(r[1])); err != nil {
			return err
		}
	}
	return nil
}

// printMessage writes all headers and the body.
func printMessage(w io.Writer, h nats.Header, body []byte) error {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if _, err := fmt.Fprintf(w, "    %s: %s\n", printable(name), printable(strings.Join(h[name], ", "))); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printBody(w, body)
}

// A payload is a body in the output for programs: as JSON if it is JSON, otherwise in base64.
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

// printBody writes a body for people: indented if it is JSON that is not nested very deep, otherwise as printable does.
func printBody(w io.Writer, body []byte) error {
	text, ok := inspect.Indent(body, "    ", 1<<20+4*len(body))
	if !ok || !utf8.Valid(body) {
		text = printable(string(body))
	}
	_, err := fmt.Fprintf(w, "    %s\n", text)
	return err
}

// A timeFlag is a time on the command line: a date, a date and a time, or a duration before now.
type timeFlag struct{ time.Time }

// UnmarshalText parses the flag.
func (m *timeFlag) UnmarshalText(text []byte) error {
	s := string(text)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil && !t.IsZero() { // the zero time is that of no flag
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
	return fmt.Errorf("%q must be a duration before now, such as 90m or 3d, or a date, such as 2026-01-31 or 2026-01-31T15:04:05Z", s)
}
