package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rivo/uniseg"
)

// A thing is a record of the lists in these tests.
type thing struct {
	ID     string    `json:"id"`
	Number uint64    `json:"number"`
	At     time.Time `json:"at"`
	State  string    `json:"state"`
	Text   string    `json:"text"`
}

var things = listing[thing]{
	noun: "thing",
	id:   func(v thing) string { return v.ID },
	columns: []column[thing]{
		{name: "ID", cell: func(v thing) cell { return idCell(v.ID) }},
		{name: "NUMBER", cell: func(v thing) cell { return numberCell(v.Number) }},
		{name: "AT", cell: func(v thing) cell { return timeCell(v.At) }},
		{name: "STATE", cell: func(v thing) cell { return stateCell(v.State, green) }},
		{name: "MORE", wide: true, cell: func(v thing) cell { return textCell(v.Text) }},
		{name: "TEXT", cell: func(v thing) cell { return textCell(v.Text) }},
	},
}

var (
	noon     = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	examined = []thing{
		{"8f3c1a2b-0000-4000-8000-00000000cafe", 18446744073709551615, noon.Add(-90 * time.Minute), "done", "plain"},
		{"msg_1", 2, time.Time{}, "", "\x1b[2J\u202eright to left"},
		{"株式会社", 3, noon.Add(time.Hour), "wide 株", "עברית " + strings.Repeat("株", 60)},
		{"e\u0301", 4, noon, "marks", "a" + strings.Repeat("\u0301", 500) + strings.Repeat("long ", 100)},
	}
)

// Rows that take long to find are printed before the last one is found.
func TestTable_PrintsRowsAsTheyAreFound(t *testing.T) {
	t.Parallel()
	var out screen
	now := noon
	w := newTable(&terminal{out: &out, width: 100, now: func() time.Time { return now }}, things.columns, false)
	for i, want := range []int{0, 0, 4, 4} { // lines, with that of the names
		now = noon.Add(time.Duration(i) * maxHeld / 2)
		if err := w.write(examined[i]); err != nil {
			t.Fatal(err)
		}
		if got := len(out.lines()); got != want {
			t.Errorf("after %d rows %d lines are printed; want %d", i+1, got, want)
		}
	}
	if err := w.end(); err != nil || len(out.lines()) != 5 {
		t.Errorf("end = %v, and %d lines are printed; want 5", err, len(out.lines()))
	}
}

// printThings prints the examined things with these flags.
func printThings(t *testing.T, term terminal, f listFlags, end error) (out, talk string) {
	t.Helper()
	var o, e screen
	term.out, term.err, term.now = &o, &e, func() time.Time { return noon }
	printed := term.printable()
	printed.color = term.color
	err := things.print(printed, f, func(each func(thing) error) error {
		for _, v := range examined {
			if err := each(v); err != nil {
				return err
			}
		}
		return end
	})
	if !errors.Is(err, end) {
		t.Errorf("print ended with %v; want %v", err, end)
	}
	return o.String(), e.String()
}

// golden compares an output with a file of testdata. UPDATE=1 writes the file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); UPDATE=1 go test ./cmd/headgate writes it:\n%s", file, diff)
	}
}

func TestListing_PrintsForPeople(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		width  int
		color  bool
		output string
	}{
		{"terminal", 100, false, "table"},
		{"terminal_narrow", 66, false, "table"},
		{"terminal_color", 100, true, "table"},
		{"terminal_wide", 100, false, "wide"},
		{"pipe", 0, false, "table"},
		{"pipe_wide", 0, false, "wide"},
		{"pipe_color", 0, true, "table"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, talk := printThings(t, terminal{width: tt.width, color: tt.color}, listFlags{outputFlags: outputFlags{Output: tt.output}}, nil)
			golden(t, "listing_"+tt.name, got)
			if talk != "4 things\n" {
				t.Errorf("it says %q; want the number", talk)
			}
			for line := range strings.Lines(got) {
				line = strings.TrimSuffix(line, "\n")
				if w := uniseg.StringWidth(line); tt.width > 0 && tt.output == "table" && !tt.color && w > tt.width {
					t.Errorf("%q is %d columns wide; want at most %d", line, w, tt.width)
				}
				if n := strings.Count(line, "\t"); tt.width == 0 && n != strings.Count(got[:strings.Index(got, "\n")], "\t") {
					t.Errorf("%q has %d tabs", line, n)
				}
			}
		})
	}
}

func TestListing_PrintsForPrograms(t *testing.T) {
	t.Parallel()
	flags := func(output string, limit limitFlag) listFlags { return listFlags{outputFlags{Output: output}, limit} }
	ids, talk := printThings(t, terminal{width: 100}, flags("id", 0), nil)
	if want := "8f3c1a2b-0000-4000-8000-00000000cafe\nmsg_1\n株式会社\ne\u0301\n"; ids != want || talk != "" {
		t.Errorf("the ids are %q, and it says %q; want %q and nothing", ids, talk, want)
	}
	lines, _ := printThings(t, terminal{width: 100}, flags("jsonl", 2), nil)
	if diff := cmp.Diff(examined[:2], decode[thing](t, strings.Split(strings.TrimSpace(lines), "\n"))); diff != "" {
		t.Errorf("the lines differ (-want +got):\n%s", diff)
	}
	if !strings.Contains(lines, "18446744073709551615") || strings.ContainsAny(lines, "\x1b\u202e") {
		t.Errorf("the lines are %q; want every digit, and only what can be printed", lines)
	}
	type document struct {
		Version int     `json:"version"`
		Items   []thing `json:"items"`
	}
	text, _ := printThings(t, terminal{}, flags("json", 0), nil)
	if diff := cmp.Diff([]document{{1, examined}}, decode[document](t, []string{text})); diff != "" {
		t.Errorf("the document differs (-want +got):\n%s", diff)
	}
	text, _ = printThings(t, terminal{}, flags("json", 0), errors.ErrUnsupported)
	if json.Valid([]byte(text)) {
		t.Errorf("a list that failed is a whole document: %s", text)
	}
	var none screen
	if err := (&documentWriter[thing]{out: &none}).end(); err != nil || none.String() != "{\"version\":1,\"items\":[\n]}\n" {
		t.Errorf("a document without records is %q, %v", none.String(), err)
	}
}

func TestListing_SaysThatThereIsMore(t *testing.T) {
	t.Parallel()
	got, talk := printThings(t, terminal{}, listFlags{outputFlags{Output: "table"}, 3}, nil)
	if strings.Count(got, "\n") != 3 || talk != "3 things, and more: --limit was reached\n" {
		t.Errorf("it prints %q and says %q", got, talk)
	}
	if _, talk = printThings(t, terminal{}, listFlags{outputFlags{Output: "table"}, 4}, nil); talk != "4 things\n" {
		t.Errorf("it says %q of all", talk)
	}
}

func TestRelative_SaysHowLongAgo(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "now", 999 * time.Millisecond: "now", time.Second: "1s ago", 59 * time.Minute: "59m ago", 47 * time.Hour: "47h ago",
		48 * time.Hour: "2d ago", -90 * time.Second: "in 1m", 100 * 24 * time.Hour: noon.Add(-100 * 24 * time.Hour).Local().Format(time.DateOnly),
	} {
		if got := relative(noon.Add(-d), noon); got != want {
			t.Errorf("relative of %v is %q; want %q", d, got, want)
		}
	}
}

func TestTerminal_ColorsOnlyWhereWanted(t *testing.T) {
	for _, tt := range []struct {
		flag, noColor, term string
		width               int
		want                bool
	}{
		{"auto", "", "xterm", 80, true},
		{"auto", "", "xterm", 0, false},
		{"auto", "1", "xterm", 80, false},
		{"auto", "", "dumb", 80, false},
		{"always", "1", "dumb", 0, true},
		{"never", "", "xterm", 80, false},
	} {
		t.Setenv("NO_COLOR", tt.noColor)
		t.Setenv("TERM", tt.term)
		s := &terminal{width: tt.width}
		if s.setColor(tt.flag); s.color != tt.want {
			t.Errorf("with %+v the colours are %v", tt, s.color)
		}
	}
}
