package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

// deadCmd holds the commands on dead letters.
type deadCmd struct {
	List   deadListCmd   `cmd:"" help:"List the open dead letters, newest first: those that were not given again."`
	Show   deadShowCmd   `cmd:"" help:"Show one dead letter: its cause, errors, attempts and host, and what came of it."`
	Replay deadReplayCmd `cmd:"" help:"Give open dead letters to their workers again. They stay in the archive."`
}

// letterFlags choose dead letters.
type letterFlags struct {
	Worker     string        `name:"worker" env:"-" help:"Only dead letters of this worker."`
	Type       codat.Pattern `name:"type" env:"-" help:"Only dead letters of this event type, or of a pattern: * is one token, > the rest."`
	Company    string        `name:"company" env:"-" help:"Only dead letters of the company with this id."`
	Connection string        `name:"connection" env:"-" help:"Only dead letters of the connection with this id."`
	Cause      string        `name:"cause" env:"-" help:"Only dead letters with this cause, as dead list prints it."`
	ID         []string      `name:"id" env:"-" help:"Only dead letters of the event with this webhook-id. Can be repeated."`
	Since      timeFlag      `name:"since" env:"-" placeholder:"TIME" help:"Only dead letters stored at this time or later: a duration before now (90m, 3d), a date, or a date and time."`
	Until      timeFlag      `name:"until" env:"-" placeholder:"TIME" help:"Only dead letters stored before this time."`
}

func (f letterFlags) filter() deadletter.Filter {
	return deadletter.Filter{
		Worker: f.Worker, Type: f.Type, Company: f.Company, Connection: f.Connection, Cause: f.Cause, IDs: f.ID,
		Since: f.Since.Time, Until: f.Until.Time,
	}
}

// set reports whether the flags choose among the dead letters.
func (f letterFlags) set() bool {
	return f.Worker != "" || f.Type != "" || f.Company != "" || f.Connection != "" || f.Cause != "" || len(f.ID) > 0 ||
		!f.Since.IsZero() || !f.Until.IsZero()
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
	pageFlags    `embed:""`
	connectFlags `embed:""`
}

// Help says where dead list reads.
func (*deadListCmd) Help() string {
	return `It asks the index that headgate watch keeps for what came of each dead letter. Where no index answers, it reads the whole archive before its first line.`
}

// Run lists the open dead letters, or all.
func (c *deadListCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	progress := newProgressBar(t)
	defer progress.clear()
	q := operator.LettersQuery{
		Filter: c.filter(), Before: c.Before,
		Scanning: scanning(t, "the archive"),
		Progress: func(done, of uint64) { progress.show("dead letters", done, of) },
	}
	closed := 0
	err = letterListing(c.All).print(t, c.page(t), func(each func(operator.Letter) error) error {
		return operator.Letters(ctx, nc, nc.source, q, func(l operator.Letter) error {
			if !c.All && l.State != operator.LetterOpen {
				closed++
				return nil
			}
			progress.clear()
			return each(l)
		})
	})
	if err == nil && c.forPeople() && closed > 0 {
		fmt.Fprintf(t.err, "%d more were given again: --all shows them\n", closed)
	}
	return err
}

// letterListing returns how dead letters are listed, with or without their states.
func letterListing(states bool) listing[operator.Letter] {
	columns := []column[operator.Letter]{
		{name: "NUMBER", cell: func(l operator.Letter) cell { return numberCell(l.Number) }},
		{name: "GIVEN UP", cell: func(l operator.Letter) cell { return timeCell(l.Buried) }},
	}
	if states {
		given := func(l operator.Letter) (last operator.Giving) {
			if n := len(l.Given); n > 0 {
				last = l.Given[n-1]
			}
			return last
		}
		columns = append(columns,
			column[operator.Letter]{name: "STATE", cell: letterState},
			column[operator.Letter]{name: "GIVEN AGAIN", cell: func(l operator.Letter) cell { return timeCell(given(l).At) }},
			column[operator.Letter]{name: "BY", cell: func(l operator.Letter) cell { return textCell(given(l).By) }})
	}
	return listing[operator.Letter]{
		noun:   "dead letter",
		id:     func(l operator.Letter) string { return strconv.FormatUint(l.Number, 10) },
		number: func(l operator.Letter) uint64 { return l.Number },
		columns: append(columns,
			column[operator.Letter]{name: "WORKER", cell: func(l operator.Letter) cell { return textCell(l.Worker) }},
			column[operator.Letter]{name: "TYPE", cell: func(l operator.Letter) cell { return textCell(l.Type) }},
			column[operator.Letter]{name: "COMPANY", cell: func(l operator.Letter) cell { return idCell(l.Company) }},
			column[operator.Letter]{name: "WEBHOOK-ID", cell: func(l operator.Letter) cell { return idCell(l.WebhookID) }},
			column[operator.Letter]{name: "SEQUENCE", wide: true, cell: func(l operator.Letter) cell { return numberCell(l.Sequence) }},
			column[operator.Letter]{name: "REDRIVE", wide: true, cell: func(l operator.Letter) cell { return idCell(l.Redrive) }},
			column[operator.Letter]{name: "HOST", wide: true, cell: func(l operator.Letter) cell { return textCell(l.Host) }},
			column[operator.Letter]{name: "ATTEMPTS", wide: true, cell: func(l operator.Letter) cell { return numberCell(l.Attempts) }},
			column[operator.Letter]{name: "CAUSE", cell: func(l operator.Letter) cell { return textCell(l.Cause) }},
			column[operator.Letter]{name: "LAST ERROR", cell: func(l operator.Letter) cell { return textCell(l.LastError) }}),
	}
}

// letterState returns the state of a letter, with what is known beyond it.
func letterState(l operator.Letter) cell {
	switch l.State {
	case operator.LetterOpen:
		return stateCell(string(l.State), red)
	case operator.LetterDone:
		return stateCell(string(l.State), green)
	case operator.LetterReplaced:
		return stateCell(fmt.Sprintf("replaced by %d", l.ReplacedBy), noColor)
	case operator.LetterGiven:
		outcome := l.Given[len(l.Given)-1].Outcome
		return stateCell("given: "+string(outcome), map[operator.Outcome]color{operator.OutcomeDone: green, operator.OutcomeDead: red}[outcome])
	}
	return stateCell(string(l.State), noColor)
}

type deadShowCmd struct {
	Number       uint64 `arg:"" help:"Its number, as dead list prints it."`
	Payload      bool   `name:"payload" env:"-" help:"Print the body and every header too. They hold your customers' data."`
	outputFlags  `embed:""`
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
	return c.printRecord(t, c.shown(letter), strconv.FormatUint(letter.Number, 10), func() error { return c.printText(t, letter) })
}

// printText writes a letter for people.
func (c *deadShowCmd) printText(t *terminal, letter operator.Letter) error {
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
		{"first attempt", t.time(letter.FirstAttempt)},
		{"last attempt", t.time(letter.LastAttempt)},
		{"given up", t.time(letter.Buried)},
		{"on host", letter.Host},
		{"body", plural(len(letter.Body), "byte")},
		{"state", letterState(letter).text},
	}
	if letter.Replaces != 0 {
		rows = append(rows, [2]string{"again after", fmt.Sprintf("dead letter %d", letter.Replaces)})
	}
	for _, g := range letter.Given {
		rows = append(rows, [2]string{"given again", fmt.Sprintf("%s by %s, redrive %s: %s", t.time(g.At), printable(g.By), g.Redrive, g.Outcome)})
	}
	if err := printRows(t.out, rows); err != nil || !c.Payload {
		return err
	}
	return printMessage(t.out, letter.Header, letter.Body)
}

// A shownLetter is what dead show prints as JSON.
type shownLetter struct {
	operator.Letter
	Header nats.Header `json:"header,omitempty"`
	payload
}

func (c *deadShowCmd) shown(letter operator.Letter) shownLetter {
	shown := shownLetter{Letter: letter}
	if c.Payload {
		shown.Header, shown.payload = letter.Header, newPayload(letter.Body)
	}
	return shown
}

type deadReplayCmd struct {
	Numbers     []string `arg:"" optional:"" name:"number" help:"Numbers, as dead list prints them, or - for those in the input, as dead list -o id prints them."`
	All         bool     `name:"all" env:"-" help:"Every open dead letter."`
	Again       bool     `name:"again" env:"-" help:"Give also those that are not open: that were given again before, and whatever came of it."`
	letterFlags `embed:""`

	redriveFlags `embed:""`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a command line that chooses nothing, or in two ways.
func (c *deadReplayCmd) Validate() error {
	chosen := 0
	for _, is := range []bool{len(c.Numbers) > 0, c.All, c.letterFlags.set()} {
		if is {
			chosen++
		}
	}
	if chosen == 0 && c.Limit > 0 {
		chosen = 1
	}
	if chosen != 1 {
		return errors.New("choose the dead letters: numbers, or a filter such as --worker, or --all")
	}
	if !slices.Equal(c.Numbers, []string{stdin}) {
		if _, err := parseNumbers(c.Numbers); err != nil {
			return err
		}
	}
	return errors.Join(c.redriveFlags.check(), c.letterFlags.Validate())
}

// Run chooses dead letters and redrives them; a dry run prints them.
func (c *deadReplayCmd) Run(ctx context.Context, t *terminal) error {
	numbers, err := readNumbers(t, c.Numbers)
	if err != nil {
		return err
	}
	if len(c.Numbers) > 0 && len(numbers) == 0 {
		return errors.New("the input has no number of a dead letter")
	}
	return c.asOperator(ctx, t, func(o *operator.Operator, _ *client) error {
		progress := newProgressBar(t)
		opts := operator.LettersOptions{
			Numbers: numbers, Filter: c.filter(), Again: c.Again, Limit: int(c.Limit), Redrive: c.RedriveID,
			Progress: func(done, of uint64) { progress.show("dead letters read", done, of) },
		}
		choose := func(each func(operator.Letter) error) (*operator.Selection, error) {
			opts.Preview = each
			s, err := o.SelectLetters(ctx, opts)
			progress.clear()
			return s, err
		}
		run := redriveRun{
			operator: o, noun: "dead letter", outputFlags: c.outputFlags,
			since: c.Since.Time, numbers: len(numbers) > 0, fromInput: slices.Equal(c.Numbers, []string{stdin}),
		}
		if c.DryRun {
			return printPreview(t, c.redriveFlags, run, letterListing(true), choose)
		}
		if run.selection, err = choose(nil); err != nil {
			return err
		}
		return c.redrive(ctx, t, run)
	})
}
