package console

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

// A step is one thing that happened to an event.
type step struct {
	Level     level
	Who, What string
	At        time.Time
	After     string // since it was received
	Text      string
	Href      string
}

// An eventPage is the story of one event.
type eventPage struct {
	Event    inspect.Event
	Stored   time.Time
	Story    []step
	NotFor   []string // workers that do not take it
	Actions  []button
	Headers  [][2]string
	Workers  []string // that take it
	Body     *shownBody
	Proof    *signature.Diagnosis
	CanProve bool
	// CanShow says that the user has the right to see the body, and that its showing can be recorded.
	CanShow bool
	Curl    string
}

// A shownBody is the body of a message for a person.
type shownBody struct {
	Pretty string // JSON with white space; "" for a body that is not JSON
	Exact  string
	Hex    bool // Exact is a dump: the bytes are not text
	More   int  // bytes that are not shown
}

// serveEvent tells the story of one event.
func (c *Console) serveEvent(w http.ResponseWriter, r *http.Request) {
	m, ok := c.messageOf(w, r)
	if !ok {
		return
	}
	p, err := c.eventPage(r.Context(), m, userOf(r))
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	c.render(w, r, "event", p)
}

// messageOf returns the stored message of the request's path, or answers that the stream does not have it.
func (c *Console) messageOf(w http.ResponseWriter, r *http.Request) (*jetstream.RawStreamMsg, bool) {
	sequence, err := strconv.ParseUint(r.PathValue("sequence"), 10, 64)
	if err != nil {
		c.notFound(w, r)
		return nil, false
	}
	m, err := stream.Get(r.Context(), c.JS, c.Source.Stream(), sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		c.fail(w, r, problem{
			Status: http.StatusNotFound, Title: fmt.Sprintf("No event #%d", sequence), Text: "The stream does not have this sequence: the event has expired or was erased, or is not stored yet.",
			Cure: "Paste its webhook-id at Events: a claim may still say what became of it.",
		})
		return nil, false
	case err != nil:
		c.unanswered(w, r, err)
		return nil, false
	}
	return m, true
}

// eventPage reads what is known of a message, without its body.
func (c *Console) eventPage(ctx context.Context, m *jetstream.RawStreamMsg, u User) (eventPage, error) {
	e := inspect.NewEvent(c.Source, m)
	p := eventPage{
		Event: e, Stored: m.Time, Headers: headersOf(m.Header, u), CanShow: u.Payload && c.Operator != nil, CanProve: c.Keys != nil && m.Header.Get(stream.HeaderWebhookSignature) != "",
		Curl: curlOf(m.Header, u),
	}
	s, err := inspect.Find(ctx, c.JS, c.Source, e.WebhookID, e.Sequence, e.Original)
	if err != nil && !errors.Is(err, inspect.ErrNotFound) {
		return p, err
	}
	p.tell(c.Source, m, s)
	p.Actions = c.replayButtons(u, p.Workers, field{"id", e.WebhookID})
	for _, h := range s.Handlings {
		if h.State == inspect.HandlingState(claims.Dead) && h.Claim != nil {
			letter, err := c.letterOf(ctx, e.WebhookID, h)
			if err != nil {
				return p, err
			}
			if letter != nil {
				p.Story = append(p.Story, step{Level: alarm, Who: h.Worker, What: fmt.Sprintf("dead letter %d", letter.Number), At: letter.Buried, Text: letter.LastError, Href: fmt.Sprintf("/dead/%d", letter.Number)})
			}
		}
	}
	now, err := c.statesOf(ctx, e)
	p.Story = append(p.Story, now...)
	return p, err
}

// tell sets what happened, in the order of the story: received, stored, each worker, each redrive.
func (p *eventPage) tell(s stream.Source, m *jetstream.RawStreamMsg, story inspect.Story) {
	e := p.Event
	received := step{Level: good, Who: "Received", What: "and verified", At: e.Time, Text: fmt.Sprintf("%d bytes, webhook-id %s", e.Bytes, e.WebhookID)}
	stored := step{Level: good, Who: "Stored", What: fmt.Sprintf("as #%d on %s", e.Sequence, e.Subject), After: after(m.Time.Sub(e.Time))}
	if e.Reason != "" {
		stored.Level, stored.What, stored.Text = waiting, fmt.Sprintf("as #%d in the quarantine", e.Sequence), "it cannot be read as an event: "+e.Reason
	}
	if e.Redrive != "" {
		received.What, received.Text = "at first", fmt.Sprintf("this is redrive %s of #%d", e.Redrive, e.Original)
		received.Href = fmt.Sprintf("/events/%d", e.Original)
	}
	p.Story = []step{received, stored}
	for _, h := range story.Handlings {
		if h.Redrive != e.Redrive {
			continue
		}
		if h.State == inspect.NotTaken {
			p.NotFor = append(p.NotFor, h.Worker)
			continue
		}
		p.Workers = append(p.Workers, h.Worker)
		p.Story = append(p.Story, stepOf(h, e.Time))
	}
	if e.Redrive != "" {
		return
	}
	for _, again := range story.Stored {
		if again.Redrive == "" {
			continue
		}
		worker := s.WorkerOf(again.Subject)
		p.Story = append(p.Story, step{Level: neutral, Who: "Given again", What: "to " + worker + ", redrive " + again.Redrive, Href: fmt.Sprintf("/events/%d", again.Sequence)})
		for _, h := range story.Handlings {
			if h.Redrive == again.Redrive && h.Worker == worker {
				p.Story = append(p.Story, stepOf(h, e.Time))
			}
		}
	}
}

// stepOf is what a worker did.
func stepOf(h inspect.Handling, received time.Time) step {
	s := step{Level: cmp.Or(handlingLevels[h.State], neutral), Who: h.Worker, What: string(h.State)}
	r := h.Claim
	if r == nil {
		return s
	}
	switch {
	case r.Attempts == 1:
		s.What += " at attempt 1"
	case r.Attempts > 1:
		s.What += fmt.Sprintf(" after %d attempts", r.Attempts)
	}
	if r.Pauses > 0 {
		s.What += fmt.Sprintf(", %d more were not counted", r.Pauses)
	}
	s.At = r.Last
	if !r.Last.IsZero() {
		s.After = after(r.Last.Sub(received))
	}
	var texts []string
	if r.Cause != "" {
		texts = append(texts, "cause: "+r.Cause)
	}
	if r.LastError != "" {
		texts = append(texts, r.LastError)
	}
	if !r.Next.IsZero() {
		texts = append(texts, "next attempt at "+r.Next.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	s.Text = strings.Join(texts, "; ")
	return s
}

// after is how long after the receipt something was.
func after(d time.Duration) string {
	if d < 0 {
		return ""
	}
	return "+" + span(d)
}

// letterTime bounds the search for one dead letter: all later ones are read for one that has expired or was erased.
const letterTime = 2 * time.Second

// letterOf returns the dead letter of a handling; nil without one.
func (c *Console) letterOf(ctx context.Context, id string, h inspect.Handling) (found *deadletter.Letter, err error) {
	// It was stored when the last attempt ended.
	f := deadletter.Filter{Worker: h.Worker, IDs: []string{id}, Since: h.Claim.Last.Add(-time.Minute)}
	ctx, cancel := context.WithTimeout(ctx, letterTime)
	defer cancel()
	enough := errors.New("found")
	err = deadletter.List(ctx, c.JS, c.Source, f, func(l deadletter.Letter) error {
		if l.Redrive != h.Redrive {
			return nil
		}
		found = &l
		return enough
	})
	if errors.Is(err, enough) || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return found, err
}

// statesOf says what is known now of the write and of the connection that an event is about.
func (c *Console) statesOf(ctx context.Context, e inspect.Event) (all []step, err error) {
	absent := func(err error) bool {
		return errors.Is(err, stream.ErrNotProvisioned) || errors.Is(err, jetstream.ErrKeyNotFound)
	}
	if _, bad := state.WriteKey(e.PushOperationKey); bad == nil {
		writes, err := state.OpenWrites(ctx, c.JS, c.Source)
		var record state.Write
		if err == nil {
			record, err = writes.Get(ctx, e.PushOperationKey)
		}
		switch {
		case err == nil:
			all = append(all, step{Level: writeLevel(record), Who: "The write", What: "is " + writeStatus(record) + " now", Href: writeLink(record.PushOperationKey).Href})
		case !absent(err):
			return all, err
		}
	}
	if _, bad := state.ConnectionKey(e.Company, e.Connection); bad == nil {
		connections, err := state.OpenConnections(ctx, c.JS, c.Source)
		var record state.Connection
		if err == nil {
			record, err = connections.Get(ctx, e.Company, e.Connection)
		}
		switch {
		case err == nil:
			s := step{Level: connectionLevel(record), Who: "The connection", What: "is " + connectionStatus(record) + " now", Href: connectionLink(record.Company, record.Connection).Href}
			if !record.Changed.IsZero() {
				s.Text = "since " + record.Changed.UTC().Format("2006-01-02 15:04:05 UTC")
			}
			all = append(all, s)
		case !absent(err):
			return all, err
		}
	}
	return all, nil
}

// headersOf are the headers of a message, sorted. The signature, and what an error has beyond its text, are for those who may see bodies.
func headersOf(h nats.Header, u User) (all [][2]string) {
	for name, values := range h {
		if strings.HasPrefix(name, "Nats-") && name != jetstream.MsgIDHeader { // the server's, about its answer
			continue
		}
		for _, v := range values {
			if (name == stream.HeaderWebhookSignature || strings.EqualFold(name, deadletter.HeaderDetail)) && !u.Payload {
				v = "(only with the right payload)"
			}
			all = append(all, [2]string{name, v})
		}
	}
	slices.SortFunc(all, func(a, b [2]string) int { return cmp.Or(strings.Compare(a[0], b[0]), strings.Compare(a[1], b[1])) })
	return all
}

// curlOf is a command that posts the event again as it came; "" for those who may not see its signature.
func curlOf(h nats.Header, u User) string {
	id := h.Get(stream.HeaderWebhookID)
	if id == "" || !u.Payload {
		return ""
	}
	text := `curl -sS "$WEBHOOK_URL" --data-binary @body.json`
	for _, name := range []string{stream.HeaderWebhookID, stream.HeaderWebhookTimestamp, stream.HeaderWebhookSignature} {
		text += " \\\n  -H " + quoted(name+": "+h.Get(name))
	}
	if v := h.Get(stream.HeaderContentType); v != "" {
		text += " \\\n  -H " + quoted("content-type: "+v)
	}
	return text
}

// quoted is a text as one word of a POSIX shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// serveBody shows an event with its body to those who may see it, once that is recorded.
func (c *Console) serveBody(w http.ResponseWriter, r *http.Request) {
	u := userOf(r)
	if !u.Payload || c.Operator == nil {
		c.fail(w, r, noBody)
		return
	}
	m, ok := c.messageOf(w, r)
	if !ok {
		return
	}
	p, err := c.eventPage(r.Context(), m, u)
	if err == nil {
		err = c.recordShown(r.Context(), u, "event", m.Sequence)
	}
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	p.Body = bodyOf(m.Data)
	c.render(w, r, "event", p)
}

// recordShown records that a body is shown.
func (c *Console) recordShown(ctx context.Context, u User, what string, number uint64) error {
	return c.Operator.Record(ctx, operator.Entry{User: u.Name, Command: "console show body", Step: operator.StepEnd, Chosen: map[string]any{what: number}, Count: 1})
}

// mostShown is how many bytes of a body are shown.
const mostShown = 256 << 10

// bodyOf is a body for a person: what does not print is escaped.
func bodyOf(body []byte) *shownBody {
	b := &shownBody{More: max(0, len(body)-mostShown)}
	head := body[:len(body)-b.More]
	if !utf8.Valid(body) {
		b.Hex, b.Exact = true, hex.Dump(head)
		return b
	}
	b.Exact = printable(string(head))
	if pretty, ok := inspect.Indent(body, "", 2*mostShown); ok {
		b.Pretty = printable(pretty)
	}
	return b
}

// printable is a text with escapes for what does not print.
func printable(text string) string {
	var b strings.Builder
	_, _ = process.Printable{W: &b}.Write([]byte(text)) // a builder takes all
	return b.String()
}

// serveProof verifies the signature over the stored bytes again.
func (c *Console) serveProof(w http.ResponseWriter, r *http.Request) {
	if c.Keys == nil {
		c.notFound(w, r)
		return
	}
	m, ok := c.messageOf(w, r)
	if !ok {
		return
	}
	p, err := c.eventPage(r.Context(), m, userOf(r))
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	h := http.Header{}
	for _, name := range []string{stream.HeaderWebhookID, stream.HeaderWebhookTimestamp, stream.HeaderWebhookSignature} {
		h.Set(name, m.Header.Get(name))
	}
	select { // a signature that does not match costs a second, and some hundred MiB: one is explained at a time
	case c.proving <- struct{}{}:
		defer func() { <-c.proving }()
	case <-r.Context().Done():
		return
	}
	found := signature.Diagnose(h, m.Data, c.Now(), math.MaxInt64, c.Keys()...)
	p.Proof = &found
	c.render(w, r, "event", p)
}
