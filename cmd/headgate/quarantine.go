package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

// quarantineCmd holds the commands on the quarantine.
type quarantineCmd struct {
	List    quarantineListCmd    `cmd:"" help:"List the messages in the quarantine, oldest first."`
	Show    quarantineShowCmd    `cmd:"" help:"Show one message."`
	Release quarantineReleaseCmd `cmd:"" help:"Store one message as an event of a type. It stays in the quarantine too."`
}

type quarantineListCmd struct {
	Cause        string `name:"cause" env:"-" help:"Only messages that are in the quarantine for this reason, such as no_type."`
	Company      string `name:"company" env:"-" help:"Only messages of the company with this id."`
	Connection   string `name:"connection" env:"-" help:"Only messages of the connection with this id."`
	ID           string `name:"id" env:"-" help:"Only messages with this webhook-id."`
	periodFlags  `embed:"" set:"when=received"`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// Run lists the messages.
func (c *quarantineListCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	return quarantineListing.print(t, c.listFlags, func(each func(inspect.Event) error) error {
		return inspect.Quarantine(ctx, nc, nc.source, func(e inspect.Event) error {
			if !c.selects(e) {
				return nil
			}
			return each(e)
		})
	})
}

// selects reports whether a message is listed.
func (c *quarantineListCmd) selects(e inspect.Event) bool {
	return (c.Cause == "" || c.Cause == e.Reason) && (c.Company == "" || c.Company == e.Company) &&
		(c.Connection == "" || c.Connection == e.Connection) && (c.ID == "" || c.ID == e.WebhookID) && c.contains(e.Time)
}

var quarantineListing = listing[inspect.Event]{
	noun: "message",
	id:   func(e inspect.Event) string { return strconv.FormatUint(e.Sequence, 10) },
	columns: []column[inspect.Event]{
		{name: "NUMBER", cell: func(e inspect.Event) cell { return numberCell(e.Sequence) }},
		{name: "RECEIVED", cell: func(e inspect.Event) cell { return timeCell(e.Time) }},
		{name: "REASON", cell: func(e inspect.Event) cell { return textCell(e.Reason) }},
		{name: "WEBHOOK-ID", cell: func(e inspect.Event) cell { return idCell(e.WebhookID) }},
		{name: "COMPANY", cell: func(e inspect.Event) cell { return idCell(e.Company) }},
		{name: "CONNECTION", wide: true, cell: func(e inspect.Event) cell { return idCell(e.Connection) }},
		{name: "BYTES", cell: func(e inspect.Event) cell { return numberCell(e.Bytes) }},
	},
}

type quarantineShowCmd struct {
	Number       uint64 `arg:"" help:"Its number, as quarantine list prints it."`
	Payload      bool   `name:"payload" env:"-" help:"Print the body and every header too. They hold your customers' data."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Run prints one message.
func (c *quarantineShowCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	m, err := inspect.Quarantined(ctx, nc, nc.source, c.Number)
	if err != nil {
		return err
	}
	e := inspect.NewEvent(nc.source, m)
	return c.printRecord(t, c.shown(e, m), strconv.FormatUint(e.Sequence, 10), func() error { return c.printText(t, e, m) })
}

// printText writes a message for people.
func (c *quarantineShowCmd) printText(t *terminal, e inspect.Event, m *jetstream.RawStreamMsg) error {
	rows := [][2]string{
		{"number", fmt.Sprint(e.Sequence)},
		{"reason", e.Reason},
		{"received", t.time(e.Time)},
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
	return printMessage(t.out, m.Header, m.Data)
}

// A shownMessage is what quarantine show prints as JSON.
type shownMessage struct {
	inspect.Event
	Header nats.Header `json:"header,omitempty"`
	payload
}

func (c *quarantineShowCmd) shown(e inspect.Event, m *jetstream.RawStreamMsg) shownMessage {
	shown := shownMessage{Event: e}
	if c.Payload {
		shown.Header, shown.payload = m.Header, newPayload(m.Data)
	}
	return shown
}

type quarantineReleaseCmd struct {
	Number       uint64 `arg:"" help:"Its number, as quarantine list prints it."`
	Type         string `name:"type" required:"" env:"-" help:"The type of the event."`
	Unknown      bool   `name:"unknown-type" env:"-" help:"Allow a type that Headgate does not know. A message can be released only once."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for a type that cannot be a subject, and for an unknown one without --unknown-type.
func (c *quarantineReleaseCmd) Validate() error {
	if _, err := c.Source.EventSubject(c.Type); err != nil {
		return fmt.Errorf("--type: %w", err)
	}
	if !codat.Known(c.Type) && !c.Unknown {
		return fmt.Errorf("--type: unknown type %s: headgate send --list lists the known types; add --unknown-type for a new one", c.Type)
	}
	return nil
}

// Run releases one message.
func (c *quarantineReleaseCmd) Run(ctx context.Context, t *terminal) error {
	return c.asOperator(ctx, t, func(o *operator.Operator, _ *client) error {
		r, err := o.Release(ctx, c.Number, c.Type)
		if err != nil {
			return err
		}
		return c.printRecord(t, r, strconv.FormatUint(r.Number, 10), func() error {
			if !r.Readable {
				fmt.Fprintln(t.err, "its body is not a JSON object: a worker that takes it will make a dead letter of it")
			}
			_, err = fmt.Fprintf(t.out, "released %d as %s, sequence %d\n", r.Number, r.Type, r.Sequence)
			return err
		})
	})
}
