package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/term"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
)

// outputFlags choose how a command prints what it has found.
type outputFlags struct {
	Output string `name:"output" short:"o" env:"-" default:"table" enum:"table,wide,json,jsonl,id" help:"Format: table; wide, with whole ids and every column; json, one document; jsonl, a line for each; or id, an id on a line. Without a terminal the columns of a table are separated by tabs, and its times are RFC 3339."`
	JSON   bool   `name:"json" env:"-" help:"The same as --output jsonl."`
}

// The formats of --output.
const (
	outputTable = "table"
	outputWide  = "wide"
	outputJSON  = "json"
	outputLines = "jsonl"
	outputID    = "id"
)

func (f outputFlags) format() string {
	if f.JSON {
		return outputLines
	}
	return f.Output
}

// forPeople reports whether people read the output, so that messages beside it are welcome.
func (f outputFlags) forPeople() bool {
	return f.format() == outputTable || f.format() == outputWide
}

// printRecord prints one record: as JSON, its id, or as text writes it for people.
func (f outputFlags) printRecord(t *terminal, v any, id string, text func() error) error {
	switch f.format() {
	case outputJSON:
		return printJSON(t.out, document{outputVersion, v})
	case outputLines:
		return printJSON(t.out, v)
	case outputID:
		_, err := fmt.Fprintln(t.out, printable(id))
		return err
	}
	return text()
}

// A document is one record in JSON.
type document struct {
	Version int `json:"version"`
	Item    any `json:"item"`
}

// listFlags are the flags of every list.
type listFlags struct {
	outputFlags `embed:""`
	Limit       limitFlag `name:"limit" env:"-" placeholder:"N" help:"List at most N, in the order of the list. Default: all."`
}

// pageFlags are the flags of a list that is printed newest first, page by page.
type pageFlags struct {
	outputFlags `embed:""`
	Limit       limitFlag `name:"limit" env:"-" placeholder:"N" help:"List at most N, the newest. Default: 50 on a terminal, and otherwise all."`
	Before      uint64    `name:"before" env:"-" placeholder:"NUMBER" help:"List only what is before this number, as the last line of a list that has more says."`
}

// pageSize is how many records a page on a terminal has.
const pageSize = 50

// page returns the flags with the limit that they have by default.
func (f pageFlags) page(t *terminal) listFlags {
	if f.Limit == 0 && t.width > 0 && f.forPeople() {
		f.Limit = pageSize
	}
	return listFlags{outputFlags: f.outputFlags, Limit: f.Limit}
}

// A limitFlag is a number of records on the command line, at least 1; without the flag it is 0. A limit of 0 that means all would turn
// the empty result of a calculation into everything.
type limitFlag int

// UnmarshalText parses the flag.
func (l *limitFlag) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 {
		return fmt.Errorf("must be a whole number from 1 on (got %q): leave it out for all", text)
	}
	*l = limitFlag(n)
	return nil
}

// periodFlags choose records by a time.
type periodFlags struct {
	Since timeFlag `name:"since" env:"-" placeholder:"TIME" help:"Only those ${when} at this time or later: a duration before now (90m, 3d), a date, or a date and time."`
	Until timeFlag `name:"until" env:"-" placeholder:"TIME" help:"Only those ${when} before this time."`
}

// contains reports whether a time is in the period. An unknown time is in none that has a bound.
func (f periodFlags) contains(t time.Time) bool {
	bounded := !f.Since.IsZero() || !f.Until.IsZero()
	return !bounded || !t.IsZero() && !t.Before(f.Since.Time) && (f.Until.IsZero() || t.Before(f.Until.Time))
}

// validateType returns an error for a --type that is no pattern.
func validateType(p codat.Pattern) error {
	if p == "" {
		return nil
	}
	if err := p.Validate(); err != nil {
		return fmt.Errorf("--type: %w", err)
	}
	return nil
}

// outputVersion is the version of the JSON that commands print. It changes when a member is removed or gets another meaning; a
// new member does not change it.
const outputVersion = 1

// errLimit ends a list that has as many as --limit allows.
var errLimit = errors.New("--limit is reached")

// A listing is how the records of a list are printed.
type listing[T any] struct {
	noun    string // of one record, as "dead letter"
	id      func(T) string
	columns []column[T]
	text    func(T) string // of a record for people, in place of columns; it need not be printable
	member  *member        // of the JSON document beside its records; nil for none
	number  func(T) uint64 // for --before; nil without that flag
}

// A member is a member of a JSON document. Its value may be set until the document ends.
type member struct {
	name  string
	value any
}

// live returns a writer that prints each record at once, as of a list without an end.
func (l listing[T]) live(t *terminal, f outputFlags) recordWriter[T] {
	w := l.writer(t, f)
	if rows, ok := w.(*table[T]); ok {
		rows.live = true
	}
	return w
}

// print prints each record with which scan calls its function, and for people their number. scan stops at an error of the
// function and returns it. A JSON document that an error ends is incomplete, so that it is not taken for the whole list.
func (l listing[T]) print(t *terminal, f listFlags, scan func(each func(T) error) error) error {
	w := l.writer(t, f.outputFlags)
	n, last := 0, uint64(0)
	err := scan(func(v T) error {
		if f.Limit > 0 && n == int(f.Limit) {
			return errLimit
		}
		if n++; l.number != nil {
			last = l.number(v)
		}
		return w.write(v)
	})
	more := errors.Is(err, errLimit)
	if err != nil && !more {
		return errors.Join(err, w.flush())
	}
	if err := w.end(); err != nil || !f.forPeople() {
		return err
	}
	said := plural(n, l.noun)
	switch {
	case more && l.number != nil:
		said += fmt.Sprintf(", and more: --before %d lists them", last)
	case more:
		said += ", and more: --limit was reached"
	}
	fmt.Fprintln(t.err, said)
	return nil
}

// A recordWriter prints records in one format. flush prints what it still holds; end completes the output.
type recordWriter[T any] interface {
	write(v T) error
	flush() error
	end() error
}

func (l listing[T]) writer(t *terminal, f outputFlags) recordWriter[T] {
	switch f.format() {
	case outputJSON:
		return &documentWriter[T]{out: t.out, member: l.member}
	case outputLines:
		return lineWriter[T](func(v T) error { return printJSON(t.out, v) })
	case outputID:
		last := ""
		return lineWriter[T](func(v T) error {
			id := l.id(v)
			if id == last { // two instances of a worker
				return nil
			}
			last = id
			_, err := fmt.Fprintln(t.out, printable(id))
			return err
		})
	}
	if l.text != nil {
		return lineWriter[T](func(v T) error {
			_, err := io.WriteString(t.out, l.text(v)+"\n")
			return err
		})
	}
	return newTable(t, l.columns, f.format() == outputWide)
}

// report prints the results of an action as it makes them: act calls its function with each. A JSON document is complete also when act
// fails, because what was done until then is its result.
func (l listing[T]) report(t *terminal, f outputFlags, act func(each func(T) error) error) error {
	w := l.writer(t, f)
	err := act(w.write)
	return errors.Join(err, w.end())
}

// checkEnd returns an error for a format that needs the end of what makes the output endless.
func (f outputFlags) checkEnd(endless string) error {
	if f.format() != outputJSON {
		return nil
	}
	return fmt.Errorf("--output json prints a document, which %s would not end: use --output jsonl", endless)
}

// A lineWriter prints a record at once.
type lineWriter[T any] func(T) error

func (w lineWriter[T]) write(v T) error { return w(v) }
func (w lineWriter[T]) flush() error    { return nil }
func (w lineWriter[T]) end() error      { return nil }

// A documentWriter prints one JSON document: its version and all records.
type documentWriter[T any] struct {
	out    io.Writer
	member *member
	begun  bool
}

func (w *documentWriter[T]) write(v T) error {
	line, err := encode(v)
	if err != nil {
		return err
	}
	before := ",\n"
	if !w.begun {
		before, w.begun = w.head(), true
	}
	_, err = io.WriteString(w.out, before+string(line))
	return err
}

func (w *documentWriter[T]) head() string {
	return fmt.Sprintf("{\"version\":%d,\"items\":[\n", outputVersion)
}

func (w *documentWriter[T]) flush() error { return nil }

func (w *documentWriter[T]) end() error {
	text := "\n]"
	if !w.begun {
		text = w.head() + "]"
	}
	if w.member != nil {
		value, err := encode(w.member.value)
		if err != nil {
			return err
		}
		text += fmt.Sprintf(",%q:%s", w.member.name, value)
	}
	text += "}\n"
	_, err := io.WriteString(w.out, text)
	return err
}

// terminal has the streams of a command: its input, its results, and its messages.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	args     []string // of the command line
	width    int      // in columns, of the terminal that out is; 0 for a file or a pipe
	color    bool
	now      func() time.Time
	denied   error  // what NATS did not permit; nil for nothing
	role     string // whose permissions the command needs; "" before it connects
}

// standardStreams returns the streams of this process.
func standardStreams() *terminal {
	t := &terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	if fd := int(os.Stdout.Fd()); term.IsTerminal(fd) {
		t.width = 100
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			t.width = width
		}
	}
	return t
}

// printable returns t with output that is printable.
func (t *terminal) printable() *terminal {
	now := t.now
	if now == nil {
		now = time.Now
	}
	return &terminal{in: t.in, out: process.Printable{W: t.out}, err: process.Printable{W: t.err}, width: t.width, now: now}
}

// time returns a time of a record: in the local time zone for people, and without a terminal as RFC 3339 in UTC.
func (t *terminal) time(at time.Time) string {
	if t.width == 0 && !at.IsZero() {
		return at.UTC().Format(time.RFC3339)
	}
	return formatTime(at)
}

// connectionClosed keeps the last error of a connection to NATS when it is a permission that was missing. The server says so
// beside the request, which then has no answer in time.
func (t *terminal) connectionClosed(last error) {
	if errors.Is(last, nats.ErrPermissionViolation) {
		t.denied = last
	}
}

// explainDenied returns err, with the role that the command needs when a permission is missing, and with the permission when err is a request
// without an answer.
func (t *terminal) explainDenied(err error) error {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
	case t.denied != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)):
		err = fmt.Errorf("%w: %w", err, t.denied)
	default:
		return err
	}
	if t.role == "" {
		return err
	}
	return fmt.Errorf("%w: use the key of the role %s (--nats-creds or --nats-nkey)", err, t.role)
}

// setColor decides about colours by --color, and with auto by the terminal and NO_COLOR (https://no-color.org).
func (t *terminal) setColor(when string) {
	t.color = when == "always" || when == "auto" && t.width > 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// rawOut returns the writer of results that escapes nothing, for text that is printable and has colours.
func (t *terminal) rawOut() io.Writer {
	if p, ok := t.out.(process.Printable); ok {
		return p.W
	}
	return t.out
}

// stdin is the argument for which a command reads ids from its input.
const stdin = "-"

// maxInput is the most bytes of ids that a command reads from its input.
const maxInput = 64 << 20

// readIDs returns args, or the words of the input when the only argument is "-": the lines that --output id prints.
func readIDs(t *terminal, args []string) ([]string, error) {
	if len(args) != 1 || args[0] != stdin {
		return args, nil
	}
	text, err := io.ReadAll(io.LimitReader(t.in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("reading ids from the input: %w", err)
	}
	if len(text) > maxInput {
		return nil, fmt.Errorf("the input has more than %d bytes of ids", maxInput)
	}
	return strings.Fields(string(text)), nil
}

// readNumbers returns the numbers that args are, or that the input has.
func readNumbers(t *terminal, args []string) ([]uint64, error) {
	words, err := readIDs(t, args)
	if err != nil {
		return nil, err
	}
	return parseNumbers(words)
}

func parseNumbers(words []string) ([]uint64, error) {
	var numbers []uint64
	for _, word := range words {
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil || n == 0 {
			return nil, process.Misconfigured(fmt.Errorf("%s is no number of a record: --output id prints the numbers", strconv.Quote(cut(word, 40))))
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
