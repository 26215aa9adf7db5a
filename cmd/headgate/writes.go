package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

// writesCmd holds the commands on the state of writes, which worker-writes writes.
type writesCmd struct {
	List writesListCmd `cmd:"" default:"withargs" help:"List the writes with their status, by push operation key. It is the default."`
	Show writesShowCmd `cmd:"" help:"Show one write: what events and Codat's API said of it."`
}

type writesListCmd struct {
	Company      string         `name:"company" env:"-" help:"Only writes of the company with this id."`
	Connection   string         `name:"connection" env:"-" help:"Only writes over the connection with this id."`
	DataType     codat.DataType `name:"data-type" env:"-" help:"Only writes of this data type, such as invoices."`
	Status       string         `name:"status" env:"-" help:"Only writes with this status: Pending, Success, Failed, TimedOut, or another one of Codat's."`
	Overdue      bool           `name:"overdue" env:"-" help:"Only writes without an outcome, of which one was due."`
	periodFlags  `embed:"" set:"when=requested"`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// A listedWrite is a line of writes list.
type listedWrite struct {
	PushOperationKey string           `json:"push_operation_key"`
	Status           codat.PushStatus `json:"status"`
	Company          string           `json:"company,omitempty"`
	Connection       string           `json:"connection,omitempty"`
	DataType         codat.DataType   `json:"data_type,omitempty"`
	Kind             codat.WriteType  `json:"kind,omitempty"`
	Requested        time.Time        `json:"requested,omitzero"`
	Completed        time.Time        `json:"completed,omitzero"`
	Overdue          time.Time        `json:"overdue,omitzero"`
	Plan             string           `json:"plan,omitempty"`
	Step             string           `json:"step,omitempty"`
}

// Run lists the writes.
func (c *writesListCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	records, err := state.OpenWrites(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	all, err := records.Scan(ctx, c.selects)
	if err != nil {
		return err
	}
	return writeListing.print(t, c.listFlags, func(each func(listedWrite) error) error {
		for _, r := range all {
			if err := each(listedWrite{
				r.PushOperationKey, r.Status, r.Company, r.Connection, r.DataType, r.Kind, r.Requested, r.Completed, r.Overdue, r.Plan, r.Step,
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// selects reports whether a write is listed.
func (c *writesListCmd) selects(r state.Write) bool {
	return (c.Company == "" || c.Company == r.Company) &&
		(c.Connection == "" || c.Connection == r.Connection) &&
		(c.DataType == "" || strings.EqualFold(string(c.DataType), string(r.DataType))) &&
		(c.Status == "" || strings.EqualFold(c.Status, string(r.Status))) &&
		(!c.Overdue || !r.Overdue.IsZero()) &&
		c.contains(r.Requested)
}

var writeListing = listing[listedWrite]{
	noun: "write",
	id:   func(w listedWrite) string { return w.PushOperationKey },
	columns: []column[listedWrite]{
		{name: "PUSH OPERATION", cell: func(w listedWrite) cell { return idCell(w.PushOperationKey) }},
		{name: "STATUS", cell: func(w listedWrite) cell { return stateCell(string(w.Status), pushColors[w.Status]) }},
		{name: "REQUESTED", cell: func(w listedWrite) cell { return timeCell(w.Requested) }},
		{name: "COMPLETED", wide: true, cell: func(w listedWrite) cell { return timeCell(w.Completed) }},
		{name: "KIND", cell: func(w listedWrite) cell { return textCell(w.Kind) }},
		{name: "DATA TYPE", cell: func(w listedWrite) cell { return textCell(w.DataType) }},
		{name: "COMPANY", cell: func(w listedWrite) cell { return idCell(w.Company) }},
		{name: "CONNECTION", wide: true, cell: func(w listedWrite) cell { return idCell(w.Connection) }},
		{name: "OVERDUE SINCE", cell: func(w listedWrite) cell { return timeCell(w.Overdue) }},
		{name: "PLAN", wide: true, cell: func(w listedWrite) cell { return textCell(w.Plan) }},
		{name: "STEP", wide: true, cell: func(w listedWrite) cell { return textCell(w.Step) }},
	},
}

var pushColors = map[codat.PushStatus]color{codat.Success: green, codat.Pending: yellow, codat.Failed: red, codat.TimedOut: red}

type writesShowCmd struct {
	Key          string `arg:"" help:"The push operation key."`
	Payload      bool   `name:"payload" env:"-" help:"Print the reason of a failure too. Its texts can hold your customers' data."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Run prints one write.
func (c *writesShowCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	records, err := state.OpenWrites(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	r, err := records.Get(ctx, c.Key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("no event has named the push operation %s, or its record has expired: headgate writes list lists those that are known", c.Key)
	}
	if err != nil {
		return err
	}
	shown := r
	if !c.Payload {
		shown = withoutReason(r)
	}
	return c.printRecord(t, shown, r.PushOperationKey, func() error { return printWrite(t, r, c.Payload) })
}

// withoutReason returns a record without the texts of Codat and of the platform.
func withoutReason(r state.Write) state.Write {
	r.Reason = nil
	for _, f := range []**state.WriteFact{&r.Current, &r.Legacy, &r.Asked} {
		if *f != nil {
			fact := **f
			fact.Reason = nil
			*f = &fact
		}
	}
	return r
}

// printWrite writes what a write is, what told of it, and with payload its reason.
func printWrite(t *terminal, r state.Write, payload bool) error {
	rows := [][2]string{
		{"push operation", r.PushOperationKey},
		{"status", string(r.Status)},
		{"company", r.Company},
		{"connection", r.Connection},
		{"data type", string(r.DataType)},
		{"kind", string(r.Kind)},
		{"requested", t.time(r.Requested)},
		{"completed", t.time(r.Completed)},
		{"record", r.Record},
	}
	for _, row := range [][2]string{{"attachment", r.Attachment}, {"plan", r.Plan}, {"step", r.Step}} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	if !r.Overdue.IsZero() {
		rows = append(rows, [2]string{"overdue since", t.time(r.Overdue)})
	}
	if r.Reason != nil && !payload {
		rows = append(rows, [2]string{"reason", "known: --payload prints it"})
	}
	if err := printRows(t.out, rows); err != nil {
		return err
	}
	var b strings.Builder
	if payload {
		for _, line := range reasonLines(r.Reason) {
			fmt.Fprintf(&b, "\n%s", line)
		}
		if r.Reason != nil {
			b.WriteByte('\n')
		}
	}
	b.WriteByte('\n')
	for _, f := range []*state.WriteFact{r.Legacy, r.Current, r.Asked} {
		if f != nil {
			fmt.Fprintf(&b, "%s  %-8s  %s\n", t.time(f.Received), printable(string(f.Status)), toldBy(*f))
		}
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}

// toldBy says what has told of a write.
func toldBy(f state.WriteFact) string {
	if f.Type == "" {
		return "answered by Codat's API"
	}
	return printable(f.Type) + " " + printable(f.WebhookID)
}
