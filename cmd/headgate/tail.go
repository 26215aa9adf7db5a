package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// tailCmd prints stored events as they arrive.
type tailCmd struct {
	Filter     string        `arg:"" optional:"" help:"Type to print, a pattern with * for one token or > for the rest (connection.*, *.write.successful), or a subject (codat.redrive.>). All events and the quarantine by default."`
	Durable    string        `name:"durable" aliases:"resume" env:"-" placeholder:"FILE" help:"Begin after the position in this file, and keep the position in it; it says when it has caught up. No consumer is made on the server. In a stream that was made again, or restored from before the position, it begins with the first event."`
	Type       codat.Pattern `name:"type" env:"-" help:"Only events of this type, or of a pattern: * is one token, > the rest."`
	Company    string        `name:"company" env:"-" help:"Only events of the company with this id."`
	Connection string        `name:"connection" env:"-" help:"Only events of the connection with this id."`
	Payload    bool          `name:"payload" env:"-" help:"Print the bodies too. They hold your customers' data."`
	Forward    string        `name:"forward-to" env:"-" placeholder:"URL" help:"Post each event to this address too, with its webhook-id, signed now with the key of --secret-file or of headgate dev. One without an answer, or answered 5xx or 429, is posted again until it is taken."`

	keyFlags     `embed:""`
	listFlags    `embed:""`
	connectFlags `embed:""`

	sender  *sender                     // nil without --forward-to
	rows    recordWriter[inspect.Event] // of a table, or of ids
	printed limitFlag
	oldest  time.Time // of the events that were printed
}

// Validate returns an error for a filter that is not a pattern, for an address that cannot be posted to, and for a format that
// needs an end.
func (c *tailCmd) Validate() error {
	if err := c.checkEnd("tail"); err != nil {
		return err
	}
	if err := validateType(c.Type); err != nil {
		return err
	}
	if c.Forward != "" {
		if err := validateTarget("--forward-to", c.Forward); err != nil {
			return err
		}
	}
	if c.Filter == "" {
		return nil
	}
	if err := codat.Pattern(c.Filter).Validate(); err != nil {
		return fmt.Errorf("%q: %w: use a type or a pattern, such as connection.connected, connection.* or *.write.successful", c.Filter, err)
	}
	return nil
}

// Run prints until ctx ends.
func (c *tailCmd) Run(ctx context.Context, t *terminal) error {
	if c.Forward != "" {
		key, err := c.key()
		if err != nil {
			return process.Misconfigured(err)
		}
		c.sender = newSender(c.Forward, "--forward-to", key)
		defer c.sender.close()
	}
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	st, err := nc.Stream(ctx, nc.source.Stream())
	if err != nil {
		return fmt.Errorf("stream %s: %w", nc.source.Stream(), err)
	}
	position, err := newTailPosition(c.Durable, st.CachedInfo())
	if err != nil {
		return err
	}
	c.announce(t)
	c.rows = eventListing.live(t, c.outputFlags)
	for follow := c.catchUp; ; follow = c.follow {
		err = follow(ctx, t, nc, position)
		if errors.Is(err, errLimit) {
			return position.save()
		}
		if !errors.Is(err, stream.ErrRemade) {
			return errors.Join(err, position.save())
		}
		if err := position.restart(ctx, nc); err != nil {
			return err
		}
		fmt.Fprintf(t.err, "stream %s was deleted and made again: following it from its beginning\n", nc.source.Stream())
	}
}

// catchUp prints what was stored since the position, says that it has, and follows. A server that does not answer meanwhile ends only
// the catching up.
func (c *tailCmd) catchUp(ctx context.Context, t *terminal, nc *client, position *tailPosition) error {
	if !position.behind {
		return c.follow(ctx, t, nc, position)
	}
	var failed error
	last, err := stream.Read(ctx, nc, nc.source.Stream(), c.after(position, nc.source), func(m *jetstream.RawStreamMsg) error {
		failed = c.take(ctx, t, nc, position, m)
		return failed
	})
	switch {
	case failed != nil:
		return failed
	case errors.Is(err, stream.ErrRemade):
		return err
	case err == nil:
		position.Sequence = max(position.Sequence, last)
		fmt.Fprintf(t.err, "caught up %s\n", caughtUp(uint(c.printed), time.Since(c.oldest)))
	}
	return c.follow(ctx, t, nc, position)
}

// caughtUp says how many events there were, and for how long the oldest has been stored.
func caughtUp(n uint, oldest time.Duration) string {
	if n == 0 {
		return "no events"
	}
	of := fmt.Sprintf("%d s", int(oldest.Seconds()))
	switch {
	case oldest >= 48*time.Hour:
		of = fmt.Sprintf("%d days", int(oldest.Hours()/24))
	case oldest >= time.Hour:
		of = fmt.Sprintf("%d h", int(oldest.Hours()))
	case oldest >= time.Minute:
		of = fmt.Sprintf("%d min", int(oldest.Minutes()))
	}
	return plural(int(n), "event") + " of the last " + of
}

// after chooses what comes after a position.
func (c *tailCmd) after(position *tailPosition, s stream.Source) stream.ReadOptions {
	return stream.ReadOptions{Filters: c.subjects(s), After: position.Sequence, Created: position.Created}
}

// follow prints what comes after position, until ctx ends.
func (c *tailCmd) follow(ctx context.Context, t *terminal, nc *client, position *tailPosition) error {
	return stream.Follow(ctx, nc, nc.source.Stream(), c.after(position, nc.source), func(m *jetstream.RawStreamMsg) error {
		return c.take(ctx, t, nc, position, m)
	})
}

// take prints one message, forwards it, and keeps its position.
func (c *tailCmd) take(ctx context.Context, t *terminal, nc *client, position *tailPosition, m *jetstream.RawStreamMsg) error {
	e := inspect.NewEvent(nc.source, m)
	if c.selects(e) {
		if err := c.print(t.out, e, m.Data); err != nil {
			return err
		}
		if c.sender != nil && !c.forward(ctx, t, nc.source, m) {
			return nil // ctx has ended: the next tail with --durable begins with this event
		}
		c.printed++
		if c.oldest.IsZero() {
			c.oldest = e.Time
		}
	}
	if err := position.reached(m.Sequence); err != nil {
		return err
	}
	if c.printed > 0 && c.printed == c.Limit {
		return errLimit
	}
	return nil
}

// selects reports whether an event is printed.
func (c *tailCmd) selects(e inspect.Event) bool {
	return (c.Type == "" || c.Type.Match(e.Type)) && (c.Company == "" || c.Company == e.Company) && (c.Connection == "" || c.Connection == e.Connection)
}

// The pauses between two posts of an event that is not taken.
const forwardPauseMin, forwardPauseMax = time.Second, 30 * time.Second

// forward posts an event until it is answered, and reports whether it was before ctx ended.
func (c *tailCmd) forward(ctx context.Context, t *terminal, s stream.Source, m *jetstream.RawStreamMsg) bool {
	e := inspect.NewEvent(s, m)
	for pause := forwardPauseMin; ; pause = min(2*pause, forwardPauseMax) {
		sent, err := c.sender.send(ctx, examples.Example{Name: e.Type, Type: e.Type, Body: m.Data}, e.WebhookID)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			fmt.Fprintf(t.err, "%s is not forwarded yet: %v\n", printable(e.WebhookID), err)
		case sent.Status >= http.StatusInternalServerError || sent.Status == http.StatusTooManyRequests:
			fmt.Fprintf(t.err, "%s is not forwarded yet: answered %d\n", printable(e.WebhookID), sent.Status)
		case sent.Status/100 != 2:
			fmt.Fprintf(t.err, "%s is refused with %d: %s\n", printable(e.WebhookID), sent.Status, sent.Meaning)
			return true
		default:
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (c *tailCmd) announce(t *terminal) {
	what := c.Filter
	if what == "" {
		what = "all events"
	}
	if c.Forward != "" {
		what += ", forwarded to " + withoutUser(c.Forward)
	}
	fmt.Fprintf(t.err, "following %s; Ctrl-C stops it\n", what)
	if c.Filter != "" && !strings.ContainsAny(c.Filter, "*>") && !strings.HasPrefix(c.Filter, string(c.Source)+".") && !codat.Known(c.Filter) {
		fmt.Fprintf(t.err, "unknown type %s: headgate send --list lists the known types\n", printable(c.Filter))
	}
}

func (c *tailCmd) subjects(s stream.Source) []string {
	switch {
	case c.Filter == "":
		return []string{s.EventFilter(">"), s.QuarantineSubject()}
	case strings.HasPrefix(c.Filter, string(s)+"."):
		return []string{c.Filter}
	}
	return []string{s.EventFilter(codat.Pattern(c.Filter))}
}

// tailPosition is the position of a tail in the stream. With a file it is kept for the next tail.
type tailPosition struct {
	// Created tells a stream from a later one of the same name, whose sequences begin again.
	Created  time.Time `json:"stream_created"`
	Sequence uint64    `json:"sequence"`

	file   string
	saved  time.Time
	behind bool // whether the file had a position before the end of the stream
}

// tailSaveInterval is the shortest time between two writes of the file. A tail that was killed prints the messages of this
// time again.
const tailSaveInterval = time.Second

// newTailPosition returns the position in a file, or the end of the stream when there is no file. A position in a stream that was
// deleted and made again, or behind the end of a stream that was restored, becomes the beginning of the stream.
func newTailPosition(file string, info *jetstream.StreamInfo) (*tailPosition, error) {
	end := &tailPosition{Created: info.Created, Sequence: info.State.LastSeq, file: file}
	if file == "" {
		return end, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return end, end.save()
	}
	if err != nil {
		return nil, fmt.Errorf("--durable: %w", err)
	}
	kept := &tailPosition{file: file}
	if err := json.Unmarshal(text, kept); err != nil || kept.Created.IsZero() {
		return nil, fmt.Errorf("--durable: %s was not written by headgate tail: choose another file", file)
	}
	if !kept.Created.Equal(info.Created) || kept.Sequence > info.State.LastSeq { // made again, or restored from an older backup
		kept.Created, kept.Sequence = info.Created, 0
	}
	kept.behind = kept.Sequence < info.State.LastSeq
	return kept, nil
}

// restart moves the position to the beginning of the stream that has the source's name now.
func (p *tailPosition) restart(ctx context.Context, nc *client) error {
	st, err := nc.Stream(ctx, nc.source.Stream())
	if err != nil {
		return fmt.Errorf("stream %s: %w", nc.source.Stream(), err)
	}
	p.Created, p.Sequence = st.CachedInfo().Created, 0
	return nil
}

// reached records that a message was printed.
func (p *tailPosition) reached(sequence uint64) error {
	p.Sequence = sequence
	if time.Since(p.saved) < tailSaveInterval {
		return nil
	}
	return p.save()
}

// save writes the file atomically.
func (p *tailPosition) save() error {
	if p.file == "" {
		return nil
	}
	text, err := encode(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.file+".new", text, 0o600); err != nil {
		return fmt.Errorf("--durable: %w", err)
	}
	if err := os.Rename(p.file+".new", p.file); err != nil {
		return fmt.Errorf("--durable: %w", err)
	}
	p.saved = time.Now()
	return nil
}

// A shownEvent is what tail prints as JSON.
type shownEvent struct {
	inspect.Event
	payload
}

func (c *tailCmd) print(w io.Writer, e inspect.Event, body []byte) error {
	if c.format() == outputLines {
		shown := shownEvent{Event: e}
		if c.Payload {
			shown.payload = newPayload(body)
		}
		return printJSON(w, shown)
	}
	err := c.rows.write(e)
	if err == nil && c.Payload && c.forPeople() {
		err = printBody(w, body)
	}
	return err
}
