package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rivo/uniseg"
)

// A column is a column of a table.
type column[T any] struct {
	name string // in capitals
	wide bool   // only of --output wide
	cell func(T) cell
}

// A cell is a value in a table. Its text need not be printable.
type cell struct {
	text  string
	time  time.Time
	kind  cellKind
	color color
}

type cellKind int

const (
	kindText   cellKind = iota // cut on a terminal when the line is too long
	kindID                     // shortened on a terminal
	kindTime                   // relative on a terminal
	kindNumber                 // at the right of its column, and never cut
	kindState                  // in color
)

// A color is that of a state.
type color string

const (
	noColor color = ""
	green   color = "32" // as it should be
	yellow  color = "33" // something waits, or somebody is to look at it
	red     color = "31" // something is wrong
)

func textCell[S ~string](s S) cell     { return cell{text: string(s)} }
func idCell(s string) cell             { return cell{text: s, kind: kindID} }
func timeCell(t time.Time) cell        { return cell{time: t, kind: kindTime} }
func stateCell(s string, c color) cell { return cell{text: s, kind: kindState, color: c} }

func numberCell[N int | int64 | uint64](n N) cell { return cell{text: fmt.Sprint(n), kind: kindNumber} }

// format returns the text of a cell, in which nothing has to be escaped. On a terminal ids are short and times relative to now,
// unless all is to be seen.
func (c cell) format(now time.Time, short bool) string {
	switch {
	case c.kind == kindTime && c.time.IsZero():
		return "-"
	case c.kind == kindTime && short:
		return relative(c.time, now)
	case c.kind == kindTime:
		return c.time.UTC().Format(time.RFC3339)
	case c.kind == kindID && short:
		return shortID(c.text)
	}
	return printable(c.text)
}

// shortID returns the first eight and the last four columns of an id that is longer: those that differ in UUIDs, and at the
// end of webhook-ids, which begin with their time.
func shortID(s string) string {
	s = printable(s)
	if uniseg.StringWidth(s) <= 13 {
		return s
	}
	end := s
	for width := uniseg.StringWidth(s); width > 4; {
		_, rest, columns, _ := uniseg.FirstGraphemeClusterInString(end, -1)
		end, width = rest, width-columns
	}
	return cut(s, 9) + end
}

// relative returns a time as people say it: "5m ago", "in 2h", and a date from 100 days on.
func relative(t, now time.Time) string {
	d := now.Sub(t)
	var text string
	switch a := d.Abs(); {
	case a < time.Second:
		return "now"
	case a < time.Minute:
		text = strconv.Itoa(int(a/time.Second)) + "s"
	case a < time.Hour:
		text = strconv.Itoa(int(a/time.Minute)) + "m"
	case a < 48*time.Hour:
		text = strconv.Itoa(int(a/time.Hour)) + "h"
	case a < 100*24*time.Hour:
		text = strconv.Itoa(int(a/(24*time.Hour))) + "d"
	default:
		return t.Local().Format(time.DateOnly)
	}
	if d < 0 {
		return "in " + text
	}
	return text + " ago"
}

// A table prints records in columns. On a terminal they are aligned, below a header, and a line is as long as the terminal is wide
// unless all is to be seen. Without one they are separated by tabs.
type table[T any] struct {
	out     io.Writer
	columns []column[T]
	width   int // of a line; 0 for no limit
	aligned bool
	live    bool // no row is held back
	color   bool
	now     time.Time
	clock   func() time.Time

	rows   [][]cell
	held   time.Time // when the first of the rows came
	widths []int     // of the columns that were printed
}

// maxRows is how many rows a table holds back to align them, and maxHeld about how long: rows that are searched are printed as they
// are found.
const (
	maxRows = 1000
	maxHeld = 250 * time.Millisecond
)

// columnGap separates aligned columns.
const columnGap = "  "

// leastWidth is the width down to which a column of text is cut.
const leastWidth = 8

func newTable[T any](t *terminal, columns []column[T], wide bool) *table[T] {
	w := &table[T]{out: t.rawOut(), aligned: t.width > 0, color: t.color, now: t.now(), clock: t.now}
	w.columns = slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool { return c.wide && !wide })
	if !wide {
		w.width = t.width
	}
	return w
}

func (w *table[T]) write(v T) error {
	row := make([]cell, len(w.columns))
	for i, c := range w.columns {
		row[i] = c.cell(v)
	}
	if len(w.rows) == 0 {
		w.held = w.clock()
	}
	w.rows = append(w.rows, row)
	if w.aligned && !w.live && len(w.rows) < maxRows && w.clock().Sub(w.held) < maxHeld {
		return nil
	}
	return w.flush()
}

func (w *table[T]) end() error { return w.flush() }

// flush prints the rows that are held back.
func (w *table[T]) flush() error {
	if len(w.rows) == 0 {
		return nil
	}
	lines := make([][]string, len(w.rows))
	for i, row := range w.rows {
		lines[i] = make([]string, len(row))
		for j, c := range row {
			lines[i][j] = c.format(w.now, w.width > 0)
		}
	}
	var b strings.Builder
	if w.aligned {
		header := w.widths == nil
		w.fit(lines)
		if header {
			w.header(&b)
		}
	}
	for i, line := range lines {
		w.line(&b, w.rows[i], line)
	}
	w.rows = w.rows[:0]
	_, err := io.WriteString(w.out, b.String())
	return err
}

// fit sets the widths of the columns to those of the lines, and narrows the widest columns of text until a line fits.
func (w *table[T]) fit(lines [][]string) {
	if w.widths == nil {
		w.widths = make([]int, len(w.columns))
		for i, c := range w.columns {
			w.widths[i] = len(c.name)
		}
	}
	total := len(columnGap) * (len(w.columns) - 1)
	for i := range w.columns {
		for _, line := range lines {
			w.widths[i] = max(w.widths[i], uniseg.StringWidth(line[i]))
		}
		total += w.widths[i]
	}
	for ; w.width > 0 && total > w.width; total-- {
		widest := -1
		for i, c := range w.rows[0] {
			if (c.kind == kindText || c.kind == kindState) && w.widths[i] > leastWidth && (widest < 0 || w.widths[i] > w.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		w.widths[widest]--
	}
}

func (w *table[T]) header(b *strings.Builder) {
	row, names := make([]cell, len(w.columns)), make([]string, len(w.columns))
	for i, c := range w.columns {
		names[i] = c.name
		row[i].kind = w.rows[0][i].kind
	}
	w.line(b, row, names)
}

// line appends one line.
func (w *table[T]) line(b *strings.Builder, row []cell, texts []string) {
	for i, s := range texts {
		if i > 0 {
			b.WriteString(map[bool]string{true: columnGap, false: "\t"}[w.aligned])
		}
		padding := ""
		if w.aligned {
			s = cut(s, w.widths[i])
			padding = strings.Repeat(" ", max(0, w.widths[i]-uniseg.StringWidth(s)))
		}
		if w.color && row[i].color != noColor {
			s = "\x1b[" + string(row[i].color) + "m" + s + "\x1b[0m"
		}
		switch {
		case row[i].kind == kindNumber:
			s = padding + s
		case i < len(texts)-1:
			s += padding
		}
		b.WriteString(s)
	}
	b.WriteByte('\n')
}

// maxMarks is the most code points of one character that cut keeps: a letter can have any number of marks.
const maxMarks = 8

// cut returns the beginning of s that is at most so many columns wide, with … when there is more.
func cut(s string, width int) string {
	var kept strings.Builder
	used, rest, st := 0, s, -1
	for rest != "" {
		var character string
		var columns int
		character, rest, columns, st = uniseg.FirstGraphemeClusterInString(rest, st)
		if used+columns > width || used+columns == width && rest != "" && uniseg.StringWidth(rest) > 0 {
			return kept.String() + "…"
		}
		used += columns
		for i, r := range []rune(character) {
			if i < maxMarks {
				kept.WriteRune(r)
			}
		}
	}
	return kept.String()
}
