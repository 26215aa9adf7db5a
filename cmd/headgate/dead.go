package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// dead are the commands on dead letters.
type dead struct {
	List   deadList   `cmd:"" help:"List dead letters, oldest first."`
	Show   deadShow   `cmd:"" help:"Show one dead letter: why, when and where it was given up."`
	Replay deadReplay `cmd:"" help:"Give dead letters to their workers again. They stay in the archive."`
}

// choice chooses dead letters.
type choice struct {
	Worker  string `name:"worker" env:"-" help:"Only those of this worker."`
	Type    string `name:"type" env:"-" help:"Only those of this event type."`
	Company string `name:"company" env:"-" help:"Only those of this company, by its id."`
	Since   moment `name:"since" env:"-" placeholder:"TIME" help:"Only those given up then or later: how long ago (90m, 3d), or a date or time."`
	Until   moment `name:"until" env:"-" placeholder:"TIME" help:"Only those given up before."`
}

func (c choice) filter() deadletter.Filter {
	return deadletter.Filter{Worker: c.Worker, Type: c.Type, Company: c.Company, Since: c.Since.Time, Until: c.Until.Time}
}

// Validate reports a worker's name that cannot be one.
func (c choice) Validate() error {
	if c.Worker == "" {
		return nil
	}
	return stream.ValidateWorker(c.Worker)
}

type deadList struct {
	choice `embed:""`
	JSON   bool `name:"json" env:"-" help:"Print JSON."`
	broker `embed:""`
}

// Run lists.
func (c *deadList) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	n := 0
	err = deadletter.List(ctx, l, l.source, c.filter(), func(letter deadletter.Letter) error {
		n++
		if c.JSON {
			return printJSON(t.out, letter)
		}
		return printLetter(t.out, letter)
	})
	if err == nil && !c.JSON {
		fmt.Fprintln(t.err, plural(n, "dead letter"))
	}
	return err
}

func printLetter(w io.Writer, l deadletter.Letter) error {
	_, err := fmt.Fprintf(w, "%-6d  %s  %-16s  %-32s  company %s  %s  %s, %s: %s\n",
		l.Number, when(l.Buried), clean(l.Worker), clean(l.Type), clean(l.Company), clean(l.WebhookID),
		clean(l.Cause), plural(l.Attempts, "attempt"), cut(l.LastError, 100))
	return err
}

type deadShow struct {
	Number  uint64 `arg:"" help:"Its number, as dead list prints it."`
	Payload bool   `name:"payload" env:"-" help:"Print the body and every header too. They hold your customers' data."`
	JSON    bool   `name:"json" env:"-" help:"Print JSON."`
	broker  `embed:""`
}

// Run shows.
func (c *deadShow) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	letter, err := deadletter.Get(ctx, l, l.source, c.Number)
	if err != nil {
		return err
	}
	if c.JSON {
		shown := struct {
			deadletter.Letter
			Header nats.Header `json:"header,omitempty"`
			payload
		}{Letter: letter}
		if c.Payload {
			shown.Header, shown.payload = letter.Header, newPayload(letter.Body)
		}
		return printJSON(t.out, shown)
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
		{"first attempt", when(letter.FirstAttempt)},
		{"last attempt", when(letter.LastAttempt)},
		{"given up", when(letter.Buried)},
		{"on host", letter.Host},
		{"body", plural(len(letter.Body), "byte")},
	}
	if err := printRows(t.out, rows); err != nil || !c.Payload {
		return err
	}
	return printWhole(t.out, letter.Header, letter.Body)
}

func printRows(w io.Writer, rows [][2]string) error {
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "%-14s  %s\n", r[0], clean(r[1])); err != nil {
			return err
		}
	}
	return nil
}

// printWhole writes all headers and the body.
func printWhole(w io.Writer, h nats.Header, body []byte) error {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if _, err := fmt.Fprintf(w, "    %s: %s\n", clean(name), clean(strings.Join(h[name], ", "))); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printBody(w, body)
}

type deadReplay struct {
	Numbers []uint64 `arg:"" optional:"" name:"number" help:"Numbers, as dead list prints them."`
	All     bool     `name:"all" env:"-" help:"Every dead letter that there is."`
	choice  `embed:""`

	RedriveID string  `name:"redrive-id" env:"-" placeholder:"ID" help:"Name of this redrive; a new one if not given. Under one name nothing is given twice: repeat the command with it to go on."`
	Rate      float64 `name:"rate" env:"-" default:"100" help:"At most so many a second."`
	DryRun    bool    `name:"dry-run" env:"-" help:"Say what would be given, and give nothing."`
	JSON      bool    `name:"json" env:"-" help:"Print JSON."`
	broker    `embed:""`
}

var plainRedrive = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Validate reports a command line that cannot be meant.
func (c *deadReplay) Validate() error {
	chosen := 0
	for _, is := range []bool{len(c.Numbers) > 0, c.All, c.choice != choice{}} {
		if is {
			chosen++
		}
	}
	if chosen != 1 {
		return errors.New("say which dead letters: numbers, or a filter such as --worker, or --all")
	}
	if c.RedriveID != "" && !plainRedrive.MatchString(c.RedriveID) {
		return fmt.Errorf("--redrive-id: %q is no id: give up to 64 letters, digits, _ or -", c.RedriveID)
	}
	if c.Rate <= 0 {
		return fmt.Errorf("--rate: %v a second is never: give more than 0", c.Rate)
	}
	return c.choice.Validate()
}

// replayed is how a replay ended.
type replayed struct {
	Redrive string `json:"redrive"`
	Chosen  int    `json:"chosen"`
	Given   int    `json:"given"`
	Before  int    `json:"given_before"`
	DryRun  bool   `json:"dry_run,omitempty"`
}

// Run gives dead letters again. What it did is kept for the operators, also when it could not go on.
func (c *deadReplay) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	numbers, err := c.numbers(ctx, l)
	if err != nil {
		return err
	}
	r := replayed{Redrive: c.RedriveID, Chosen: len(numbers), DryRun: c.DryRun}
	if r.Redrive == "" {
		r.Redrive = newRedrive()
	}
	if c.DryRun || len(numbers) == 0 {
		if err := c.list(ctx, t, l, numbers); err != nil {
			return err
		}
		return c.report(t, r)
	}
	p, err := l.publisher()
	if err != nil {
		return err
	}
	defer p.Close()
	d := deed{Command: "dead replay", Step: "begin", Redrive: r.Redrive, Chosen: c.chosen(), Count: r.Chosen}
	if err := l.record(ctx, p, d); err != nil {
		return err
	}
	if !c.JSON {
		// Said before: whoever breaks it off can go on with it.
		fmt.Fprintf(t.err, "redrive %s: giving %s again\n", r.Redrive, plural(r.Chosen, "dead letter"))
	}
	err = c.give(ctx, l, p, numbers, &r)
	d.Step, d.Given, d.Before = "end", r.Given, r.Before
	if err != nil {
		d.Error = err.Error()
	}
	return errors.Join(err, l.record(ctx, p, d), c.report(t, r))
}

// newRedrive names a redrive by the time, for people, and something that no other has.
func newRedrive() string {
	id := nuid.Next()
	return time.Now().UTC().Format("20060102-150405-") + id[len(id)-6:]
}

// numbers are those of the letters that were chosen. Only numbers are kept: the letters may be many, and large.
func (c *deadReplay) numbers(ctx context.Context, l *link) ([]uint64, error) {
	if len(c.Numbers) > 0 {
		for _, n := range c.Numbers {
			if _, err := deadletter.Get(ctx, l, l.source, n); err != nil {
				return nil, err
			}
		}
		return c.Numbers, nil
	}
	var numbers []uint64
	err := deadletter.List(ctx, l, l.source, c.filter(), func(letter deadletter.Letter) error {
		numbers = append(numbers, letter.Number)
		return nil
	})
	return numbers, err
}

// chosen is what was chosen, for the operators' record.
func (c *deadReplay) chosen() map[string]any {
	chosen := chosenBy(c.Worker, c.Type, c.Company, c.Since.Time, c.Until.Time, c.All)
	if len(c.Numbers) > 0 {
		chosen["numbers"] = c.Numbers
	}
	return chosen
}

// chosenBy is what a choice says, without what it leaves open.
func chosenBy(worker, typ, company string, since, until time.Time, all bool) map[string]any {
	chosen := map[string]any{}
	for name, value := range map[string]string{"worker": worker, "type": typ, "company": company} {
		if value != "" {
			chosen[name] = value
		}
	}
	for name, value := range map[string]time.Time{"since": since, "until": until} {
		if !value.IsZero() {
			chosen[name] = value.UTC()
		}
	}
	if all {
		chosen["all"] = true
	}
	return chosen
}

func (c *deadReplay) list(ctx context.Context, t *terminal, l *link, numbers []uint64) error {
	for _, n := range numbers {
		letter, err := deadletter.Get(ctx, l, l.source, n)
		if errors.Is(err, deadletter.ErrNone) {
			continue // expired meanwhile
		}
		if err != nil {
			return err
		}
		if c.JSON {
			err = printJSON(t.out, letter)
		} else {
			err = printLetter(t.out, letter)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// give gives the letters again and counts in r.
func (c *deadReplay) give(ctx context.Context, l *link, p *stream.Publisher, numbers []uint64, r *replayed) error {
	limit := rate.NewLimiter(rate.Limit(c.Rate), 1)
	for _, n := range numbers {
		if err := limit.Wait(ctx); err != nil {
			return fmt.Errorf("broken off before dead letter %d: %w", n, err)
		}
		letter, err := deadletter.Get(ctx, l, l.source, n)
		if err != nil {
			return err
		}
		again, err := redrive(ctx, l, p, r.Redrive, letter)
		switch {
		case err != nil:
			return fmt.Errorf("dead letter %d: %w", n, err)
		case again.Duplicate:
			r.Before++
		default:
			r.Given++
		}
	}
	return nil
}

// redrive gives one letter again. An interrupt does not cut it off: what may
// be stored is waited for and counted.
func redrive(ctx context.Context, l *link, p *stream.Publisher, id string, letter deadletter.Letter) (stream.Receipt, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	return deadletter.Redrive(ctx, l, p, l.source, id, letter)
}

func (c *deadReplay) report(t *terminal, r replayed) error {
	if c.JSON {
		return printJSON(t.out, r)
	}
	if r.DryRun {
		_, err := fmt.Fprintf(t.out, "dry run: %s would be given again\n", plural(r.Chosen, "dead letter"))
		return err
	}
	line := fmt.Sprintf("redrive %s: %s of %d given again", r.Redrive, plural(r.Given, "dead letter"), r.Chosen)
	if r.Before > 0 {
		line += fmt.Sprintf(", %d before", r.Before)
	}
	_, err := fmt.Fprintln(t.out, line)
	return err
}
