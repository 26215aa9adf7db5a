package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// quarantine are the commands on the quarantine.
type quarantine struct {
	List    quarantineList    `cmd:"" help:"List what is in the quarantine, oldest first."`
	Show    quarantineShow    `cmd:"" help:"Show one message."`
	Release quarantineRelease `cmd:"" help:"Store one message as an event of a type. It stays in the quarantine too."`
}

type quarantineList struct {
	JSON   bool `name:"json" env:"-" help:"Print JSON."`
	broker `embed:""`
}

// Run lists.
func (c *quarantineList) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	n := 0
	err = l.quarantined(ctx, func(e event) error {
		n++
		if c.JSON {
			return printJSON(t.out, e)
		}
		_, err := fmt.Fprintf(t.out, "%-6d  %s  %-16s  %-31s  company %s  %s\n",
			e.Sequence, when(e.Time), clean(e.Reason), clean(e.WebhookID), clean(e.Company), plural(e.Bytes, "byte"))
		return err
	})
	if err == nil && !c.JSON {
		fmt.Fprintln(t.err, plural(n, "message"))
	}
	return err
}

// quarantined calls each with what is in the quarantine now, without the bodies.
func (l *link) quarantined(ctx context.Context, each func(event) error) error {
	_, err := stream.Read(ctx, l, l.source.Stream(), jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{l.source.QuarantineSubject()},
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		HeadersOnly:    true,
	}, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		e := newEvent(l.source, m.Subject(), m.Headers(), meta.Sequence.Stream, meta.Timestamp)
		e.Bytes, _ = strconv.Atoi(m.Headers().Get(nats.MsgSize)) // the server writes it
		return each(e)
	}, nil)
	return err
}

// oneQuarantined is the message of a number in the quarantine.
func (l *link) oneQuarantined(ctx context.Context, number uint64) (*jetstream.RawStreamMsg, error) {
	st, err := l.Stream(ctx, l.source.Stream())
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", l.source.Stream(), err)
	}
	m, err := st.GetMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Subject != l.source.QuarantineSubject() {
		return nil, fmt.Errorf("message %d is not in the quarantine: headgate quarantine list shows the numbers", number)
	}
	if err != nil {
		return nil, fmt.Errorf("message %d: %w", number, err)
	}
	return m, nil
}

type quarantineShow struct {
	Number  uint64 `arg:"" help:"Its number, as quarantine list prints it."`
	Payload bool   `name:"payload" env:"-" help:"Print the body and every header too. They hold your customers' data."`
	JSON    bool   `name:"json" env:"-" help:"Print JSON."`
	broker  `embed:""`
}

// Run shows.
func (c *quarantineShow) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	m, err := l.oneQuarantined(ctx, c.Number)
	if err != nil {
		return err
	}
	e := newEvent(l.source, m.Subject, m.Header, m.Sequence, m.Time)
	e.Bytes = len(m.Data)
	if c.JSON {
		shown := struct {
			event
			Header nats.Header `json:"header,omitempty"`
		}{event: e}
		if c.Payload {
			shown.Header, shown.payload = m.Header, newPayload(m.Data)
		}
		return printJSON(t.out, shown)
	}
	rows := [][2]string{
		{"number", fmt.Sprint(e.Sequence)},
		{"reason", e.Reason},
		{"received", when(e.Time)},
		{"webhook-id", e.WebhookID},
		{"company", e.Company},
		{"connection", e.Connection},
		{"content-type", m.Header.Get(stream.HeaderContentType)},
		{"content-encoding", m.Header.Get(stream.HeaderContentEncoding)},
		{"body", plural(len(m.Data), "byte")},
	}
	if err := printRows(t.out, rows); err != nil || !c.Payload {
		return err
	}
	return printWhole(t.out, m.Header, m.Data)
}

type quarantineRelease struct {
	Number  uint64 `arg:"" help:"Its number, as quarantine list prints it."`
	Type    string `name:"type" required:"" env:"-" help:"The event type that it is of."`
	Unknown bool   `name:"unknown-type" env:"-" help:"Release it also to a type that Headgate does not know. It cannot be released a second time."`
	JSON    bool   `name:"json" env:"-" help:"Print JSON."`
	broker  `embed:""`
}

// Validate reports a type that no event can be stored under, or that is likely misspelt.
func (c *quarantineRelease) Validate() error {
	if _, err := c.Source.EventSubject(c.Type); err != nil {
		return fmt.Errorf("--type: %w", err)
	}
	if !codat.Known(c.Type) && !c.Unknown {
		return fmt.Errorf("--type: no type is called %s today: did you mean %s? if it is new, add --unknown-type", c.Type, process.Nearest(c.Type, typeNames()))
	}
	return nil
}

// released is how a release ended.
type released struct {
	Number    uint64 `json:"number"`
	WebhookID string `json:"webhook_id"`
	Type      string `json:"type"`
	Sequence  uint64 `json:"sequence"`
}

// Run releases. The event is as the ingress would have stored it: same id, same proof, same bytes, and the time at
// which it was received first.
func (c *quarantineRelease) Run(ctx context.Context, t *terminal) error {
	l, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer l.close()
	m, err := l.oneQuarantined(ctx, c.Number)
	if err != nil {
		return err
	}
	msg, readable, err := c.message(l.source, m)
	if err != nil {
		return err
	}
	p, err := l.publisher()
	if err != nil {
		return err
	}
	defer p.Close()
	d := deed{
		Command: "quarantine release", Step: "begin", Count: 1,
		Chosen: map[string]any{"number": c.Number, "type": c.Type, "webhook_id": m.Header.Get(stream.HeaderWebhookID)},
	}
	if err := l.record(ctx, p, d); err != nil {
		return err
	}
	r, err := release(ctx, l, p, msg, c.Number)
	d.Step = "end"
	if err != nil {
		d.Error = err.Error()
		return errors.Join(err, l.record(ctx, p, d))
	}
	d.Given = 1
	if err := l.record(ctx, p, d); err != nil {
		return err
	}
	if !readable && !c.JSON {
		fmt.Fprintln(t.err, "its body is not a JSON object: a worker that takes it will make a dead letter of it")
	}
	if c.JSON {
		return printJSON(t.out, released{c.Number, m.Header.Get(stream.HeaderWebhookID), c.Type, r.Sequence})
	}
	_, err = fmt.Fprintf(t.out, "released %d as %s, sequence %d\n", c.Number, c.Type, r.Sequence)
	return err
}

// message is the event to store. What its body says is read again: it may say more than nothing. readable is false
// when it does not.
func (c *quarantineRelease) message(s stream.Source, m *jetstream.RawStreamMsg) (msg *nats.Msg, readable bool, err error) {
	e := stream.Stored{
		ID:              m.Header.Get(stream.HeaderWebhookID),
		Timestamp:       m.Header.Get(stream.HeaderWebhookTimestamp),
		Signature:       m.Header.Get(stream.HeaderWebhookSignature),
		MsgID:           fmt.Sprintf("release:%s:%d", m.Header.Get(jetstream.MsgIDHeader), m.Sequence),
		ContentType:     m.Header.Get(stream.HeaderContentType),
		ContentEncoding: m.Header.Get(stream.HeaderContentEncoding),
		TraceParent:     m.Header.Get(stream.HeaderTraceParent),
	}
	if e.Received, err = time.Parse(time.RFC3339Nano, m.Header.Get(stream.HeaderCEReceivedTime)); err != nil {
		e.Received = m.Time
	}
	if e.ContentEncoding == "" {
		e.Head, err = codat.Read(m.Data)
		readable = err == nil || errors.Is(err, codat.ErrNoType)
	}
	e.Head.Type = c.Type
	msg, err = s.Message(e, m.Data)
	return msg, readable, err
}

// release stores msg. As with redrive, an interrupt does not cut it off.
func release(ctx context.Context, l *link, p *stream.Publisher, msg *nats.Msg, number uint64) (stream.Receipt, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	r, err := p.Publish(ctx, msg)
	if err != nil {
		return r, fmt.Errorf("release %d: %w", number, err)
	}
	if r.Duplicate {
		return r, fmt.Errorf("message %d was released before, as sequence %d", number, r.Sequence)
	}
	return r, nil
}
