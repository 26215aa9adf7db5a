package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
)

// hostileTexts are what a terminal must not get, and what is hard to align.
var hostileTexts = []string{
	"\x1b[2J\x1b]0;title\a", "\u009b31mC1", "del\x7fback\b", "\u202etxt.exe\u2066", "two\nlines\r\tand a tab", "株式会社" + strings.Repeat("株", 30),
	"e" + strings.Repeat("\u0301", 40), "\xff\xfe not UTF-8", "👩‍👩‍👧‍👦 a family", "zero\u200bwidth\u2028",
}

// A filler sets every exported field of a record.
type filler struct {
	texts func() string
	rest  bool // sets also what is no text
}

// hostileFiller gives each field the next of the texts.
func hostileFiller() filler {
	n := 0
	return filler{func() string { n++; return hostileTexts[n%len(hostileTexts)] }, true}
}

func (f filler) fill(v reflect.Value, depth int) {
	switch {
	case !v.CanSet() || depth > 6:
		return
	case v.Type() == reflect.TypeFor[time.Time]():
		if f.rest {
			v.Set(reflect.ValueOf(noon.Add(-90 * time.Minute)))
		}
		return
	case v.Type() == reflect.TypeFor[json.RawMessage]():
		v.Set(reflect.ValueOf(json.RawMessage(`{"a":"\u001b"}`)))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(f.texts())
	case reflect.Bool:
		v.SetBool(f.rest)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(9007199254740993 >> (64 - min(64, v.Type().Bits()) + 1))
	case reflect.Uint64:
		v.SetUint(18446744073709551615)
	case reflect.Float64:
		v.SetFloat(0.1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		f.fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		f.fill(key, depth+1)
		f.fill(value, depth+1)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			f.fill(v.Field(i), depth+1)
		}
	}
}

// printed returns what a list prints of records.
func (l listing[T]) printed(t *testing.T, width int, output string, records ...T) string {
	t.Helper()
	var out, talk screen
	term := (&terminal{out: &out, err: &talk, width: width, now: func() time.Time { return noon }}).printable()
	if err := l.print(term, listFlags{outputFlags: outputFlags{Output: output}}, all(records)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A listTest tests how one list is printed for people.
type listTest func(t *testing.T, name string)

// tested compares a list of a plain, a hostile and an empty record with its golden file, and looks at what a very long text does.
func tested[T any](l listing[T]) listTest {
	return func(t *testing.T, name string) {
		t.Parallel()
		fields := 0
		plain := filler{func() string { fields++; return "text-" + string(rune('a'+fields%26)) }, true}
		long := filler{func() string { return strings.Repeat("long \x1b株", 1200) }, true}
		var records [4]T
		plain.fill(reflect.ValueOf(&records[0]).Elem(), 0)
		hostileFiller().fill(reflect.ValueOf(&records[1]).Elem(), 0)
		long.fill(reflect.ValueOf(&records[3]).Elem(), 0)
		var got strings.Builder
		for _, at := range []struct {
			name, output string
			width        int
		}{{"terminal", "table", 100}, {"terminal, wide", "wide", 100}, {"pipe", "table", 0}, {"pipe, wide", "wide", 0}} {
			got.WriteString("== " + at.name + "\n" + l.printed(t, at.width, at.output, records[:3]...))
			for _, text := range []string{got.String(), l.printed(t, at.width, at.output, records[3])} {
				wantPrintable(t, text)
			}
		}
		golden(t, "list_"+name, got.String())
		wantPrintable(t, l.printed(t, 0, "id", records[:]...))
		if l.text != nil {
			return
		}
		for line := range strings.Lines(l.printed(t, 100, "table", records[:]...)) {
			if n := uniseg.StringWidth(strings.TrimSuffix(line, "\n")); n > 100 && len(l.columns) < 8 {
				t.Errorf("a line is %d columns wide; want at most 100: %.200q", n, line)
			}
		}
	}
}

// wantPrintable reports what a terminal would obey.
func wantPrintable(t *testing.T, text string) {
	t.Helper()
	if at := strings.IndexFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && !unicode.IsPrint(r) && !unicode.Is(unicode.M, r) || r == unicode.ReplacementChar
	}); at >= 0 {
		t.Errorf("it prints %q", text[max(0, at-40):min(len(text), at+40)])
	}
}

// listTests has every list of headgate but those of doctor, which have golden files of their own.
var listTests = map[string]listTest{
	"catalogListing":     tested(catalogListing),
	"changeListing":      nil, // its text has names of settings and of objects, which are validated
	"connectionListing":  tested(connectionListing),
	"copyListing":        tested(copyListing),
	"differenceListing":  tested(differenceListing),
	"driftListing":       tested(driftListing),
	"endpointListing":    tested(endpointListing),
	"eventListing":       tested(eventListing),
	"exampleListing":     tested(exampleListing),
	"exceptionListing":   nil, // only of -o id
	"expectedListing":    tested(expectedListing),
	"instanceListing":    tested(instanceListing),
	"letterListing":      tested(letterListing(true)),
	"planListing":        tested(planListing),
	"quarantineListing":  tested(quarantineListing),
	"readListing":        tested(readListing),
	"scrubListing":       tested(scrubListing),
	"sendListing":        tested(sendListing),
	"streamListing":      tested(streamListing),
	"writeListing":       tested(writeListing),
	"writtenFileListing": tested(writtenFileListing),
	"checkList":          nil,
	"resultList":         nil,
}

func TestListing_PrintsHostileTextOfEveryList(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^(?:var (\w+) = |func (\w+)\(.*\) )listing\[\w`)
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			found++
			if _, known := listTests[m[1]+m[2]]; !known {
				t.Errorf("listTests lacks %s of %s", m[1]+m[2], file)
			}
		}
	}
	if found != len(listTests) {
		t.Errorf("%d lists are declared; listTests has %d", found, len(listTests))
	}
	for name, test := range listTests {
		if test != nil {
			t.Run(name, func(t *testing.T) { test(t, name) })
		}
	}
}
