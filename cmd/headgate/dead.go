package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

// deadCmd holds the commands on dead letters.
type deadCmd struct {
	List   deadListCmd   `cmd:"" help:"List the open dead letters, oldest first: those that were not given again."`
	Show   deadShowCmd   `cmd:"" help:"Show one dead letter: its cause, errors, attempts and host, and what came of it."`
	Replay deadReplayCmd `cmd:"" help:"Give open dead letters to their workers again. They stay in the archive."`
}

// letterFlags choose dead letters.
type letterFlags struct {
	Worker  string        `name:"worker" env:"-" help:"Only dead letters of this worker."`
	Type    codat.Pattern `name:"type" env:"-" help:"Only dead letters of this event type, or of a pattern: * is one token, > the rest."`
	Company string        `name:"company" env:"-" help:"Only dead letters of the company with this id."`
	Since   timeFlag      `name:"since" env:"-" placeholder:"TIME" help:"Only dead letters stored at this time or later: a duration before now (90m, 3d), a date, or a date and time."`
	Until   timeFlag      `name:"until" env:"-" placeholder:"TIME" help:"Only dead letters stored before this time."`
}

func (f letterFlags) filter() deadletter.Filter {
	return deadletter.Filter{Worker: f.Worker, Type: f.Type, Company: f.Company, Since: f.Since.Time, Until: f.Until.Time}
}

// Validate returns an error for a name that no worker can have.
func (f letterFlags) Validate() error {
	if f.Type != "" {
		if err := f.Type.Validate(); err != nil {
			return fmt.Errorf("--type: %w", err)
		}
	}
	if f.Worker == "" {
		return nil
	}
	return stream.ValidateWorker(f.Worker)
}

type deadListCmd struct {
	letterFlags  `embed:""`
	All          bool `name:"all" env:"-" help:"List also the dead letters that are not open, with the state of each: when it was given again, by whom, and what came of it."`
	JSON         bool `name:"json" env:"-" help:"Print JSON."`
	connectFlags `embed:""`
}

// Run prints one line for each open dead letter, or for each at all.
func (c *deadListCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	if c.All && !c.JSON {
		if _, err := fmt.Fprintln(t.out, lettersHeader); err != nil {
			return err
		}
	}
	format := letterLine
	if c.All {
		format = letterLineWithState
	}
	closed := 0
	err = printList(t, "dead letter", c.JSON, format, func(each func(operator.Letter) error) error {
		return operator.Letters(ctx, nc, nc.source, c.filter(), func(l operator.Letter) error {
			if !c.All && l.State != operator.LetterOpen {
				closed++
				return nil
			}
			return each(l)
		})
	})
	if err == nil && !c.JSON && closed > 0 {
		fmt.Fprintf(t.err, "%d more were given again: --all shows them\n", closed)
	}
	return err
}

// letterLine returns a letter in one line.
func letterLine(l operator.Letter) string {
	return fmt.Sprintf("%-6d  %s  %s", l.Number, formatTime(l.Buried), letterText(l))
}

// lettersHeader is above the lines of letterLineWithState.
var lettersHeader = fmt.Sprintf("%-6s  %-19s  %-16s  %-19s  %-20s  %s", "NUMBER", "GIVEN UP", "STATE", "WHEN", "BY", "WORKER AND EVENT")

// letterLineWithState returns a letter in one line, with what came of it.
func letterLineWithState(l operator.Letter) string {
	when, by := "-", ""
	if n := len(l.Given); n > 0 {
		when, by = formatTime(l.Given[n-1].At), l.Given[n-1].By
	}
	return fmt.Sprintf("%-6d  %s  %-16s  %-19s  %-20s  %s", l.Number, formatTime(l.Buried), letterState(l), when, printable(by), letterText(l))
}

// letterState returns the state of a letter, with what is known beyond it.
func letterState(l operator.Letter) string {
	switch l.State {
	case operator.LetterReplaced:
		return fmt.Sprintf("replaced by %d", l.ReplacedBy)
	case operator.LetterGiven:
		return "given: " + string(l.Given[len(l.Given)-1].Outcome)
	}
	return string(l.State)
}

// letterText returns what a line says of the letter's event.
func letterText(l operator.Letter) string {
	text := fmt.Sprintf("%-16s  %-32s  company %s  %s  ", printable(l.Worker), printable(l.Type), printable(l.Company), printable(l.WebhookID))
	if l.Replaces != 0 {
		text += fmt.Sprintf("again after %d, ", l.Replaces)
	}
	return text + fmt.Sprintf("%s, %s: %s", printable(l.Cause), plural(l.Attempts, "attempt"), truncate(l.LastError, 100))
}

type deadShowCmd struct {
	Number       uint64 `arg:"" help:"Its number, as dead list prints it."`
	Payload      bool   `name:"payload" env:"-" help:"Print the body and every header too. They hold your customers' data."`
	JSON         bool   `name:"json" env:"-" help:"Print JSON."`
	connectFlags `embed:""`
}

// Run prints one dead letter.
func (c *deadShowCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	letter, err := operator.ReadLetter(ctx, nc, nc.source, c.Number)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printJSON(t.out, letter)
	}
	rows := [][2]string{
		{"number", fmt.Sprint(letter.Number)},
		{"worker", letter.Worker},
		{"type", letter.Type},
		{"webhook-id", letter.WebhookID},
		{"company", letter.Company},
		{"sequence", fmt.Sprint(letter.Sequence)},
		{"redrive", letter.Redrive},
		{"cause", letter.Cause},
		{"attempts", fmt.Sprint(letter.Attempts)},
		{"first error", letter.FirstError},
		{"last error", letter.LastError},
		{"first attempt", formatTime(letter.FirstAttempt)},
		{"last attempt", formatTime(letter.LastAttempt)},
		{"given up", formatTime(letter.Buried)},
		{"on host", letter.Host},
		{"body", plural(len(letter.Body), "byte")},
		{"state", letterState(letter)},
	}
	if letter.Replaces != 0 {
		rows = append(rows, [2]string{"again after", fmt.Sprintf("dead letter %d", letter.Replaces)})
	}
	for _, g := range letter.Given {
		rows = append(rows, [2]string{"given again", fmt.Sprintf("%s by %s, redrive %s: %s", formatTime(g.At), printable(g.By), g.Redrive, g.Outcome)})
	}
	if err := printRows(t.out, rows); err != nil || !c.Payload {
		return err
	}
	return printMessage(t.out, letter.Header, letter.Body)
}

func (c *deadShowCmd) printJSON(w io.Writer, letter operator.Letter) error {
	shown := struct {
		operator.Letter
		Header nats.Header `json:"header,omitempty"`
		payload
	}{Letter: letter}
	if c.Payload {
		shown.Header, shown.payload = letter.Header, newPayload(letter.Body)
	}
	return printJSON(w, shown)
}

type deadReplayCmd struct {
	Numbers     []uint64 `arg:"" optional:"" name:"number" help:"Numbers, as dead list prints them."`
	All         bool     `name:"all" env:"-" help:"Every open dead letter."`
	Again       bool     `name:"again" env:"-" help:"Give also those that are not open: that were given again before, and whatever came of it."`
	letterFlags `embed:""`

	redriveFlags `embed:""`
	JSON         bool `name:"json" env:"-" help:"Print JSON."`
	connectFlags `embed:""`
}

// Validate returns an error for a command line that chooses nothing, or in two ways.
func (c *deadReplayCmd) Validate() error {
	chosen := 0
	for _, is := range []bool{len(c.Numbers) > 0, c.All, c.letterFlags != letterFlags{}} {
		if is {
			chosen++
		}
	}
	if chosen != 1 {
		return errors.New("choose the dead letters: numbers, or a filter such as --worker, or --all")
	}
	return errors.Join(c.redriveFlags.check(), c.letterFlags.Validate())
}

// Run chooses dead letters and redrives them; a dry run prints them.
func (c *deadReplayCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	o, err := operator.New(nc, nc.source)
	if err != nil {
		return err
	}
	defer o.Close()
	opts := operator.LettersOptions{Numbers: c.Numbers, Filter: c.filter(), Again: c.Again, Redrive: c.RedriveID}
	if c.DryRun {
		opts.Preview = func(l operator.Letter) error { return printItem(t.out, l, c.JSON, letterLineWithState) }
	}
	s, err := o.SelectLetters(ctx, opts)
	if err != nil {
		return err
	}
	return c.redrive(ctx, t, redriveRun{operator: o, selection: s, noun: "dead letter", json: c.JSON})
}
