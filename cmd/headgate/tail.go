package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// tail prints stored events as they come.
type tail struct {
	Filter  string `arg:"" optional:"" help:"Types to follow: one, a pattern with * for one word or > for the rest (connection.*, *.write.successful), or a whole subject (codat.redrive.>). All events and the quarantine if not given."`
	Durable string `name:"durable" env:"-" placeholder:"NAME" help:"Go on where the tail of this name was ended, also after a month. Two tails of one name share the events."`
	JSON    bool   `name:"json" env:"-" help:"Print JSON."`
	Payload bool   `name:"payload" env:"-" help:"Print the bodies too. They hold your customers' data."`

	broker `embed:""`
}

const (
	// forgetAfter is how long a durable tail keeps its place: longer than events are kept.
	forgetAfter = 30 * 24 * time.Hour
	// tailAckWait is after how long an event that a killed tail had taken comes again.
	tailAckWait = 30 * time.Second
)

var plainName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Validate reports a command line that cannot be meant.
func (c *tail) Validate() error {
	if c.Durable != "" && !plainName.MatchString(c.Durable) {
		return fmt.Errorf("--durable: %q is no name: give a small letter and then up to 30 small letters, digits or dashes", c.Durable)
	}
	for token := range strings.SplitSeq(c.Filter, ".") {
		if c.Filter != "" && (token == "" || strings.ContainsAny(token, " \t\r\n")) {
			return fmt.Errorf("%q is no filter: give a type or a pattern, as connection.connected, connection.* or *.write.successful", c.Filter)
		}
	}
	return nil
}

// Run prints until ctx ends.
func (c *tail) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	consumer, err := c.consumer(ctx, l)
	if err != nil {
		return err
	}
	msgs, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer msgs.Stop()
	// What came before the end is printed still: a durable tail would get it again only later, and out of order.
	defer context.AfterFunc(ctx, msgs.Drain)()
	c.greet(t)
	for {
		m, err := msgs.Next()
		switch {
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return nil
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			continue // the connection is away, which is said already; it comes back
		case err != nil:
			return fmt.Errorf("tail: %w", err)
		}
		if err := c.print(t.out, l.source, m); err != nil {
			return err
		}
		if c.Durable != "" {
			if err := m.Ack(); err != nil {
				fmt.Fprintf(t.err, "the event will come again: %v\n", err)
			}
		}
	}
}

func (c *tail) greet(t *terminal) {
	what := c.Filter
	if what == "" {
		what = "all events"
	}
	fmt.Fprintf(t.err, "following %s; Ctrl-C ends it\n", what)
	if c.Filter != "" && !strings.ContainsAny(c.Filter, "*>") && !strings.HasPrefix(c.Filter, string(c.Source)+".") && !codat.Known(c.Filter) {
		fmt.Fprintf(t.err, "no type is called %s today: did you mean %s?\n", clean(c.Filter), process.Nearest(c.Filter, typeNames()))
	}
}

func typeNames() []string {
	var names []string
	for _, typ := range codat.Catalog() {
		names = append(names, typ.Name)
	}
	return names
}

func (c *tail) subjects(s stream.Source) []string {
	switch {
	case c.Filter == "":
		return []string{s.EventFilter(">"), s.QuarantineSubject()}
	case strings.HasPrefix(c.Filter, string(s)+"."):
		return []string{c.Filter}
	}
	return []string{s.EventFilter(c.Filter)}
}

// consumer begins after what is stored now, or, when it is durable, where it was ended.
func (c *tail) consumer(ctx context.Context, l *link) (jetstream.Consumer, error) {
	st, err := l.Stream(ctx, l.source.Stream())
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", l.source.Stream(), err)
	}
	subjects := c.subjects(l.source)
	if c.Durable == "" {
		return st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
			FilterSubjects: subjects,
			// Not "new": the consumer may be made again before the first event, and must miss none.
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
			OptStartSeq:   st.CachedInfo().State.LastSeq + 1,
		})
	}
	name := stream.TailPrefix + c.Durable
	cfg := jetstream.ConsumerConfig{
		Name: name, Durable: name,
		Description:       "headgate tail --durable " + c.Durable,
		FilterSubjects:    subjects,
		DeliverPolicy:     jetstream.DeliverNewPolicy,
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           tailAckWait,
		InactiveThreshold: forgetAfter,
	}
	consumer, err := st.CreateOrUpdateConsumer(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", name, err)
	}
	return consumer, nil
}

// event is a stored message as it is printed.
type event struct {
	Sequence   uint64    `json:"sequence"`
	Time       time.Time `json:"time"`
	Type       string    `json:"type,omitempty"`
	Company    string    `json:"company,omitempty"`
	Connection string    `json:"connection,omitempty"`
	WebhookID  string    `json:"webhook_id"`
	Subject    string    `json:"subject"`
	Redrive    string    `json:"redrive,omitempty"`
	Reason     string    `json:"quarantine_reason,omitempty"`
	Bytes      int       `json:"bytes"`
	payload
}

// newEvent reads what is stored with a message. The time is when it was received first.
func newEvent(s stream.Source, subject string, h nats.Header, sequence uint64, stored time.Time) event {
	e := event{
		Sequence:   sequence,
		Time:       stored.UTC(),
		Type:       s.TypeOf(subject),
		Company:    stream.Attribute(h, stream.HeaderCESubject),
		Connection: stream.Attribute(h, stream.HeaderCEConnectionID),
		WebhookID:  h.Get(stream.HeaderWebhookID),
		Subject:    subject,
		Redrive:    h.Get(stream.HeaderRedrive),
		Reason:     stream.Attribute(h, stream.HeaderQuarantineReason),
	}
	if received, err := time.Parse(time.RFC3339Nano, h.Get(stream.HeaderCEReceivedTime)); err == nil {
		e.Time = received
	}
	return e
}

func (c *tail) print(w io.Writer, s stream.Source, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	e := newEvent(s, m.Subject(), m.Headers(), meta.Sequence.Stream, meta.Timestamp)
	e.Bytes = len(m.Data())
	if c.JSON {
		if c.Payload {
			e.payload = newPayload(m.Data())
		}
		return printJSON(w, e)
	}
	what := e.Type
	switch {
	case e.Reason != "":
		what = "quarantine: " + e.Reason
	case e.Redrive != "":
		what += " redrive " + e.Redrive
	}
	_, err = fmt.Fprintf(w, "%s  %-40s  company %-36s  %-31s  #%d\n", when(e.Time), clean(what), clean(e.Company), clean(e.WebhookID), e.Sequence)
	if err == nil && c.Payload {
		err = printBody(w, m.Data())
	}
	return err
}
