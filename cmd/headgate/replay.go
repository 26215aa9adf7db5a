package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// replay gives stored events to one worker again, whatever became of them.
type replay struct {
	Worker  string   `name:"worker" required:"" env:"-" help:"The worker that they are given to. Only events that it takes are chosen."`
	ID      []string `name:"id" env:"-" help:"The event of this webhook-id; may be given again."`
	Type    string   `name:"type" env:"-" help:"Only those of this event type."`
	Company string   `name:"company" env:"-" help:"Only those of this company, by its id."`
	Since   moment   `name:"since" env:"-" placeholder:"TIME" help:"Only those stored then or later: how long ago (90m, 3d), or a date or time."`
	Until   moment   `name:"until" env:"-" placeholder:"TIME" help:"Only those stored before."`
	All     bool     `name:"all" env:"-" help:"Every stored event that the worker takes."`

	RedriveID string  `name:"redrive-id" env:"-" placeholder:"ID" help:"Name of this redrive; a new one if not given. Under one name nothing is given twice: repeat the command with it to go on."`
	Rate      float64 `name:"rate" env:"-" default:"100" help:"At most so many a second."`
	DryRun    bool    `name:"dry-run" env:"-" help:"Say what would be given, and give nothing."`
	JSON      bool    `name:"json" env:"-" help:"Print JSON."`
	broker    `embed:""`
}

// Validate reports a command line that cannot be meant.
func (c *replay) Validate() error {
	filtered := len(c.ID) > 0 || c.Type != "" || c.Company != "" || c.Since != moment{} || c.Until != moment{}
	if filtered == c.All {
		return errors.New("say which events: --id, --type, --company, --since, --until, or --all")
	}
	if c.RedriveID != "" && !plainRedrive.MatchString(c.RedriveID) {
		return fmt.Errorf("--redrive-id: %q is no id: give up to 64 letters, digits, _ or -", c.RedriveID)
	}
	if c.Rate <= 0 {
		return fmt.Errorf("--rate: %v a second is never: give more than 0", c.Rate)
	}
	if c.Worker == "" {
		return errors.New("say to which worker they are given: --worker")
	}
	if c.Type != "" {
		if _, err := c.Source.EventSubject(c.Type); err != nil {
			return fmt.Errorf("--type: %w", err)
		}
	}
	return stream.ValidateWorker(c.Worker)
}

// Run gives events again. What it did is kept for the operators, also when it could not go on.
func (c *replay) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	sequences, err := c.sequences(ctx, t, l)
	if err != nil {
		return err
	}
	r := replayed{Redrive: c.RedriveID, Chosen: len(sequences), DryRun: c.DryRun}
	if r.Redrive == "" {
		r.Redrive = newRedrive()
	}
	if c.DryRun || len(sequences) == 0 {
		return c.report(t, r)
	}
	p, err := l.publisher()
	if err != nil {
		return err
	}
	defer p.Close()
	d := deed{Command: "replay", Step: "begin", Redrive: r.Redrive, Chosen: c.chosen(), Count: r.Chosen}
	if err := l.record(ctx, p, d); err != nil {
		return err
	}
	if !c.JSON {
		// Said before: whoever breaks it off can go on with it.
		fmt.Fprintf(t.err, "redrive %s: giving %s to %s again\n", r.Redrive, plural(r.Chosen, "event"), c.Worker)
	}
	err = c.give(ctx, t, l, p, sequences, &r)
	d.Step, d.Given, d.Before = "end", r.Given, r.Before
	if err != nil {
		d.Error = err.Error()
	}
	return errors.Join(err, l.record(ctx, p, d), c.report(t, r))
}

// consumer is the worker's, as it is provisioned.
func (c *replay) consumer(ctx context.Context, l *link) (jetstream.ConsumerConfig, error) {
	workers, err := stream.Workers(ctx, l, l.source)
	if err != nil {
		return jetstream.ConsumerConfig{}, err
	}
	for _, w := range workers {
		if w.Name == c.Worker {
			return w.Config, nil
		}
	}
	return jetstream.ConsumerConfig{}, fmt.Errorf("no worker %q is provisioned on %s: nobody would take what is given to it", c.Worker, l.source.Stream())
}

// sequences are those of the events that were chosen, oldest first; a dry run prints them. Only numbers are kept: the
// events may be many, and large.
func (c *replay) sequences(ctx context.Context, t *terminal, l *link) ([]uint64, error) {
	worker, err := c.consumer(ctx, l)
	if err != nil {
		return nil, err
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{l.source.EventFilter(">")}, HeadersOnly: true, DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if c.Type != "" {
		cfg.FilterSubjects[0] = l.source.EventFilter(c.Type)
	}
	if !c.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &c.Since.Time
	}
	progress := newBar(t)
	defer progress.clear()
	var sequences []uint64
	_, err = stream.Read(ctx, l, l.source.Stream(), cfg, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		if !stream.Takes(worker, m.Subject()) || !c.takes(m.Headers(), meta.Timestamp) {
			return nil
		}
		sequences = append(sequences, meta.Sequence.Stream)
		return c.preview(t, l.source, m, meta)
	}, func(done, of uint64) {
		if !c.DryRun { // its lines would be painted over
			progress.show("events", done, of)
		}
	})
	return sequences, err
}

func (c *replay) takes(h nats.Header, stored time.Time) bool {
	return (len(c.ID) == 0 || slices.Contains(c.ID, h.Get(stream.HeaderWebhookID))) &&
		(c.Company == "" || c.Company == stream.Attribute(h, stream.HeaderCESubject)) &&
		(c.Since.IsZero() || !stored.Before(c.Since.Time)) &&
		(c.Until.IsZero() || stored.Before(c.Until.Time))
}

// preview prints an event that a dry run chose.
func (c *replay) preview(t *terminal, s stream.Source, m jetstream.Msg, meta *jetstream.MsgMetadata) error {
	if !c.DryRun {
		return nil
	}
	e := newEvent(s, m.Subject(), m.Headers(), meta.Sequence.Stream, meta.Timestamp)
	e.Bytes, _ = strconv.Atoi(m.Headers().Get(nats.MsgSize)) // the server writes it
	if c.JSON {
		return printJSON(t.out, e)
	}
	_, err := fmt.Fprintf(t.out, "#%-8d  %s  %-32s  company %s  %s\n", e.Sequence, when(e.Time), clean(e.Type), clean(e.Company), clean(e.WebhookID))
	return err
}

// chosen is what was chosen, for the operators' record.
func (c *replay) chosen() map[string]any {
	chosen := chosenBy(c.Worker, c.Type, c.Company, c.Since.Time, c.Until.Time, c.All)
	if len(c.ID) > 0 {
		chosen["ids"] = c.ID
	}
	return chosen
}

// give gives the events again and counts in r.
func (c *replay) give(ctx context.Context, t *terminal, l *link, p *stream.Publisher, sequences []uint64, r *replayed) error {
	st, err := l.Stream(ctx, l.source.Stream())
	if err != nil {
		return fmt.Errorf("stream %s: %w", l.source.Stream(), err)
	}
	progress := newBar(t)
	defer progress.clear()
	limit := rate.NewLimiter(rate.Limit(c.Rate), 1)
	for i, sequence := range sequences {
		if err := limit.Wait(ctx); err != nil {
			return fmt.Errorf("broken off before event %d: %w", sequence, err)
		}
		m, err := st.GetMsg(ctx, sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // expired meanwhile
		}
		if err != nil {
			return fmt.Errorf("event %d: %w", sequence, err)
		}
		receipt, err := redrive(ctx, l, p, r.Redrive, c.letter(l.source, m))
		switch {
		case err != nil:
			return fmt.Errorf("event %d: %w", sequence, err)
		case receipt.Duplicate:
			r.Before++
		default:
			r.Given++
		}
		progress.show("events given", uint64(i+1), uint64(len(sequences)))
	}
	return nil
}

// letter is a stored event as if the worker had given it up.
func (c *replay) letter(s stream.Source, m *jetstream.RawStreamMsg) deadletter.Letter {
	id := m.Header.Get(stream.HeaderWebhookID)
	if id == "" { // another hand published it; this is how a worker calls it
		id = "sequence-" + strconv.FormatUint(m.Sequence, 10)
	}
	return deadletter.Letter{
		Worker: c.Worker, Type: s.TypeOf(m.Subject), WebhookID: id, Sequence: m.Sequence, Header: m.Header, Body: m.Data,
	}
}

func (c *replay) report(t *terminal, r replayed) error {
	if c.JSON {
		return printJSON(t.out, r)
	}
	if r.DryRun {
		_, err := fmt.Fprintf(t.out, "dry run: %s would be given to %s again\n", plural(r.Chosen, "event"), c.Worker)
		return err
	}
	line := fmt.Sprintf("redrive %s: %s of %d given to %s again", r.Redrive, plural(r.Given, "event"), r.Chosen, c.Worker)
	if r.Before > 0 {
		line += fmt.Sprintf(", %d before", r.Before)
	}
	_, err := fmt.Fprintln(t.out, line)
	return err
}
