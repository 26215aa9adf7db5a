package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

// findCmd tells what became of one event, or lists the events of a company, a connection or a write.
type findCmd struct {
	ID           string            `arg:"" help:"A webhook-id (msg_…) or the id in the body of an event, or the id of a company, of a connection or of a push operation."`
	Type         codat.Pattern     `name:"type" env:"-" help:"Only events of this type, or of a pattern: * is one token, > the rest."`
	SecretFile   process.FileNames `name:"secret-file" env:"-" placeholder:"FILE" help:"Verify the stored event again with the keys in this file, and name the one that does."`
	periodFlags  `embed:"" set:"when=received"`
	pageFlags    `embed:""`
	connectFlags `embed:""`

	keyOf func(h nats.Header, body []byte) (key string, err error) // nil without keys
}

// Validate returns an error for a --type that is no pattern, and for a --secret-file that cannot be used.
func (c *findCmd) Validate() (err error) {
	if len(c.SecretFile) > 0 {
		if c.keyOf, err = storedVerifier(c.SecretFile); err != nil {
			err = fmt.Errorf("--secret-file: %w", err)
		}
	}
	return errors.Join(validateType(c.Type), err)
}

// filtered reports whether a flag chooses among the events, so that a list of them is printed.
func (c *findCmd) filtered() bool {
	return c.Type != "" || c.Before != 0 || c.periodFlags != periodFlags{}
}

// Help says what find prints.
func (*findCmd) Help() string {
	return `Of one event it tells what became of it. Of a company, a connection or a push operation it lists the events, newest first. It asks the index that headgate watch keeps. Where no index answers, it reads the stream, newest first, and prints what it finds: --since 1d ends that early.`
}

// Run prints the story of a webhook-id, and for another id a line for each of its events.
func (c *findCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	if !c.filtered() {
		story, err := inspect.Find(ctx, nc, nc.source, c.ID)
		if !errors.Is(err, inspect.ErrNotFound) {
			return c.tellFound(ctx, t, nc, story, err)
		}
	}
	first, err := c.search(ctx, t, nc)
	if err != nil || first == nil {
		return err
	}
	story, err := inspect.Find(ctx, nc, nc.source, first.WebhookID, first.Sequence, first.Original)
	return c.tellFound(ctx, t, nc, story, err)
}

// search lists the events of an id. When it is that of one event, it prints nothing and returns the newest message of it: two
// events have the same id in their bodies when Codat sends one under another webhook-id.
func (c *findCmd) search(ctx context.Context, t *terminal, nc *client) (one *inspect.Match, err error) {
	q, clearProgress := eventSearch(t, c.ID)
	defer clearProgress()
	q.Since, q.Before = c.Since.Time, c.Before
	n, page := 0, c.page(t)
	if page.Limit > 0 && c.Type == "" && c.Until.IsZero() {
		q.Limit = int(min(page.Limit, math.MaxInt32)) + 1 // to know whether there are more
	}
	err = eventListing.print(t, page, func(each func(inspect.Event) error) error {
		err := inspect.FindEvents(ctx, nc, nc.source, q, func(m inspect.Match) error {
			if c.Type != "" && !c.Type.Match(m.Type) || !c.contains(m.Time) {
				return nil
			}
			ofOne := m.By == inspect.ByWebhookID || m.By == inspect.ByBodyID
			switch {
			case n == 0 && ofOne && one == nil:
				one = &m
				return nil
			case one != nil && ofOne && one.WebhookID == m.WebhookID:
				return nil
			}
			clearProgress()
			if one != nil { // another one has the id too
				n++
				if err := each(one.Event); err != nil {
					return err
				}
				one = nil
			}
			n++
			return each(m.Event)
		})
		switch {
		case err == nil && one != nil:
			err = errOneEvent
		case err == nil && n == 0:
			err = c.notFound(ctx, t, nc)
		}
		return err
	})
	if errors.Is(err, errOneEvent) {
		err = nil
	}
	return one, err
}

// eventSearch returns a search for an id that shows its progress, and a function that clears that.
func eventSearch(t *terminal, id string) (inspect.Search, func()) {
	progress := newProgressBar(t)
	return inspect.Search{
		ID:       id,
		Scanning: scanning(t, "the stream"),
		Progress: func(done, of uint64) { progress.show("events", done, of) },
	}, progress.clear
}

// scanning returns a function that says why all of something is read.
func scanning(t *terminal, what string) func(reason string) {
	return func(reason string) { fmt.Fprintf(t.err, "%s: reading %s\n", reason, what) }
}

// errOneEvent ends a list that is that of one event.
var errOneEvent = errors.New("the id is that of one event")

var eventListing = listing[inspect.Event]{
	noun:   "event",
	id:     func(e inspect.Event) string { return e.WebhookID },
	number: func(e inspect.Event) uint64 { return e.Sequence },
	columns: []column[inspect.Event]{
		{name: "SEQUENCE", cell: func(e inspect.Event) cell { return numberCell(e.Sequence) }},
		{name: "RECEIVED", cell: func(e inspect.Event) cell { return timeCell(e.Time) }},
		{name: "TYPE", cell: func(e inspect.Event) cell { return textCell(e.Type) }},
		{name: "COMPANY", cell: func(e inspect.Event) cell { return idCell(e.Company) }},
		{name: "CONNECTION", wide: true, cell: func(e inspect.Event) cell { return idCell(e.Connection) }},
		{name: "PUSH OPERATION", wide: true, cell: func(e inspect.Event) cell { return idCell(e.PushOperationKey) }},
		{name: "WEBHOOK-ID", cell: func(e inspect.Event) cell { return idCell(e.WebhookID) }},
		{name: "REDRIVE", cell: func(e inspect.Event) cell { return textCell(e.Redrive) }},
		{name: "QUARANTINED", cell: func(e inspect.Event) cell { return stateCell(e.Reason, yellow) }},
		{name: "BYTES", wide: true, cell: func(e inspect.Event) cell { return numberCell(e.Bytes) }},
	},
}

// A foundStory is what find prints as JSON.
type foundStory struct {
	inspect.Story
	Letters    []deadletter.Letter `json:"dead_letters,omitempty"`
	Write      *state.Write        `json:"write,omitempty"`
	Connection *state.Connection   `json:"connection,omitempty"`
}

// tellFound prints a story, or returns the error of the search for it.
func (c *findCmd) tellFound(ctx context.Context, t *terminal, nc *client, s inspect.Story, err error) error {
	if err != nil {
		return err
	}
	return c.tell(ctx, t, nc, s)
}

// tell prints a story with the dead letters of the event and what is known of its write and connection now.
func (c *findCmd) tell(ctx context.Context, t *terminal, nc *client, s inspect.Story) error {
	found := foundStory{Story: s}
	var typ string
	for _, e := range s.Stored {
		typ = e.Type
		if err := found.readStates(ctx, nc, e); err != nil {
			return err
		}
	}
	for _, h := range s.Handlings {
		if h.Claim == nil || h.State != inspect.HandlingState(claims.Dead) {
			continue
		}
		if err := found.readLetters(ctx, nc, h); err != nil {
			return err
		}
	}
	if err := c.verify(ctx, nc, &found); err != nil {
		return err
	}
	err := c.printRecord(t, found, found.WebhookID, func() error { return found.print(t, typ, c.keyOf != nil) })
	if err == nil && c.forPeople() {
		fmt.Fprintf(t.err, "the ingress that received it, and each time that it came again, are in the log lines of the ingress with the id %q\n", s.WebhookID)
	}
	return err
}

// verify verifies the event again when there are keys.
func (c *findCmd) verify(ctx context.Context, nc *client, found *foundStory) error {
	if c.keyOf == nil || found.Arrival == nil {
		return nil
	}
	i := slices.IndexFunc(found.Stored, func(e inspect.Event) bool { return e.Redrive == "" })
	m, err := stream.Get(ctx, nc, nc.source.Stream(), found.Stored[i].Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // it has expired meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	found.Arrival.Key, _ = c.keyOf(m.Header, m.Data) // "" for none of the keys
	return nil
}

// letterTime is how long before and after the last attempt its dead letter may be stored: clocks differ, and the archive may have been
// away.
const letterTime = time.Hour

// errFound ends a search for a dead letter.
var errFound = errors.New("the dead letter is found")

// readLetters reads the dead letter of what a worker gave up, which was stored when the last attempt ended.
func (f *foundStory) readLetters(ctx context.Context, nc *client, h inspect.Handling) error {
	of := deadletter.Filter{Worker: h.Worker, Since: h.Claim.Last.Add(-time.Minute)}
	err := deadletter.List(ctx, nc, nc.source, of, func(l deadletter.Letter) error {
		switch {
		case l.WebhookID == f.WebhookID && l.Redrive == h.Redrive:
			f.Letters = append(f.Letters, l)
			return errFound
		case l.Buried.After(h.Claim.Last.Add(letterTime)):
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return nil
	}
	return err
}

// readStates reads the records of the write and of the connection that an event is about. The record of the write is without its
// reason, as writes show prints it. It reads no record of a worker that is not provisioned, or of ids that no key can have.
func (f *foundStory) readStates(ctx context.Context, nc *client, e inspect.Event) error {
	if _, err := state.WriteKey(e.PushOperationKey); err == nil && f.Write == nil {
		writes, err := state.OpenWrites(ctx, nc, nc.source)
		if err == nil {
			var w state.Write
			if w, err = writes.Get(ctx, e.PushOperationKey); err == nil {
				w = withoutReason(w)
				f.Write = &w
			}
		}
		if err != nil && !errors.Is(err, stream.ErrNotProvisioned) && !errors.Is(err, jetstream.ErrKeyNotFound) {
			return err
		}
	}
	if _, err := state.ConnectionKey(e.Company, e.Connection); err == nil && f.Connection == nil {
		connections, err := state.OpenConnections(ctx, nc, nc.source)
		if err == nil {
			var r state.Connection
			if r, err = connections.Get(ctx, e.Company, e.Connection); err == nil {
				f.Connection = &r
			}
		}
		if err != nil && !errors.Is(err, stream.ErrNotProvisioned) && !errors.Is(err, jetstream.ErrKeyNotFound) {
			return err
		}
	}
	return nil
}

// arrivalRows say how an event came. verified reports whether there were keys to verify it with.
func arrivalRows(t *terminal, a *inspect.Arrival, verified bool) (rows [][2]string) {
	if a == nil {
		return nil
	}
	if !a.Signed.IsZero() {
		text := t.time(a.Signed)
		if !a.Made.IsZero() {
			text += fmt.Sprintf(", %s after Codat made it", a.Signed.Sub(a.Made).Round(time.Second))
		}
		switch {
		case a.Attempt > 0:
			text += fmt.Sprintf(": about attempt %d of 8", a.Attempt)
		case !a.Made.IsZero():
			text += ": none of the 8 attempts, but a resend or a replay"
		}
		rows = append(rows, [2]string{"signed", text})
	}
	switch {
	case a.Key != "":
		rows = append(rows, [2]string{"verified", "with key " + a.Key})
	case verified:
		rows = append(rows, [2]string{"verified", "not with the keys of --secret-file: it is another key's, or its bytes have changed (headgate audit --secret-file)"})
	}
	return rows
}

func (f foundStory) print(t *terminal, typ string, verified bool) error {
	rows := [][2]string{{"webhook-id", f.WebhookID}, {"type", typ}}
	if len(f.Stored) == 0 {
		rows = append(rows, [2]string{"stored", "no more: the message has expired, the claims are left"})
	}
	for i, e := range f.Stored {
		if i == 0 {
			rows = append(rows, [2]string{"company", e.Company}, [2]string{"connection", e.Connection})
		}
		what := fmt.Sprintf("%s  #%d, %s", t.time(e.Time), e.Sequence, plural(e.Bytes, "byte"))
		switch {
		case e.Reason != "":
			what += ", in the quarantine: " + e.Reason
		case e.Redrive != "":
			what += ", redrive " + e.Redrive
		}
		rows = append(rows, [2]string{map[bool]string{true: "received", false: "again"}[i == 0], what})
		if i == 0 {
			rows = append(rows, arrivalRows(t, f.Arrival, verified)...)
		}
	}
	for _, h := range f.Handlings {
		rows = append(rows, [2]string{"worker", handlingText(t, h)})
		if h.Claim != nil && h.Claim.LastError != "" {
			rows = append(rows, [2]string{"  last error", cut(printable(h.Claim.LastError), 200)})
		}
	}
	for _, l := range f.Letters {
		rows = append(rows, [2]string{"dead letter", fmt.Sprintf("%d of %s: %s", l.Number, l.Worker, cut(printable(l.LastError), 200))})
	}
	if f.Write != nil {
		rows = append(rows, [2]string{"write now", fmt.Sprintf("%s is %s", f.Write.PushOperationKey, f.Write.Status)})
	}
	if f.Connection != nil {
		status := string(f.Connection.Status)
		if f.Connection.Deleted {
			status = "deleted"
		}
		rows = append(rows, [2]string{"connection now", fmt.Sprintf("%s since %s", status, t.time(f.Connection.Changed))})
	}
	return printRows(t.out, rows)
}

// handlingText says what became of an event in a worker.
func handlingText(t *terminal, h inspect.Handling) string {
	text := h.Worker
	if h.Redrive != "" {
		text += ", redrive " + h.Redrive
	}
	text += ": " + string(h.State)
	r := h.Claim
	if r == nil {
		return text
	}
	text += " after " + plural(r.Attempts, "attempt")
	if r.Cause != "" {
		text += ", cause " + r.Cause
	}
	if !r.Last.IsZero() {
		text += ", the last at " + t.time(r.Last)
	}
	if !r.Next.IsZero() {
		text += ", the next at " + t.time(r.Next)
	}
	return text
}
