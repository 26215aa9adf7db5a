package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

// readsCmd holds the commands on the state of reads, which worker-reads writes.
type readsCmd struct {
	List readsListCmd `cmd:"" default:"withargs" help:"List, for each company, connection and data type, when Codat read it last and how that ended. It is the default."`
	Show readsShowCmd `cmd:"" help:"Show the record of one data type, and the events that it follows from."`
}

// failedRead is the value of --status that stands for every status of a read that failed.
const failedRead = "error"

type readsListCmd struct {
	Company      string         `name:"company" env:"-" help:"Only reads of the company with this id."`
	Connection   string         `name:"connection" env:"-" help:"Only reads over the connection with this id."`
	DataType     codat.DataType `name:"data-type" env:"-" help:"Only reads of this data type, such as invoices."`
	Status       string         `name:"status" env:"-" help:"Only data types whose last read ended with this status, such as Complete or AuthError; error is every status of a read that failed."`
	StaleSince   timeFlag       `name:"stale-since" env:"-" placeholder:"TIME" help:"Only data types that no read has read with success at this time or later: a duration before now (36h, 3d), a date, or a date and time."`
	periodFlags  `embed:"" set:"when=whose last read ended"`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// Run lists the records.
func (c *readsListCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	records, err := state.OpenReads(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	return readListing.print(t, c.listFlags, func(each func(state.Read) error) error {
		all, err := records.Scan(ctx, state.ReadFilter{Company: c.Company, Connection: c.Connection, DataType: c.DataType})
		if err != nil {
			return err
		}
		for _, r := range all {
			if !c.match(r) {
				continue
			}
			if err := each(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// match reports whether a record has the status, and is as old, as the flags say.
func (c *readsListCmd) match(r state.Read) bool {
	status := c.Status == "" || strings.EqualFold(c.Status, string(r.Status)) || strings.EqualFold(c.Status, failedRead) && r.Status.IsError()
	return status && c.contains(r.LastRead) && (c.StaleSince.IsZero() || r.LastSuccess.Before(c.StaleSince.Time))
}

var readListing = listing[state.Read]{
	noun: "data type",
	id:   func(r state.Read) string { return r.Company + " " + r.Connection + " " + string(r.DataType) },
	columns: []column[state.Read]{
		{name: "COMPANY", cell: func(r state.Read) cell { return idCell(r.Company) }},
		{name: "CONNECTION", cell: func(r state.Read) cell { return idCell(r.Connection) }},
		{name: "DATA TYPE", cell: func(r state.Read) cell { return textCell(r.DataType) }},
		{name: "STATUS", cell: readStatus},
		{name: "LAST READ", cell: func(r state.Read) cell { return timeCell(r.LastRead) }},
		{name: "LAST SUCCESS", cell: func(r state.Read) cell { return timeCell(r.LastSuccess) }},
		{name: "LAST MODIFIED", wide: true, cell: func(r state.Read) cell { return timeCell(r.LastModified) }},
		{name: "WEBHOOK-ID", wide: true, cell: func(r state.Read) cell { return idCell(r.WebhookID) }},
		{name: "REMARKS", cell: func(r state.Read) cell { return textCell(readRemarks(r.First, r.RecordsModified, r.Issues)) }},
	},
}

func readStatus(r state.Read) cell {
	switch {
	case r.Status.IsError():
		return stateCell(string(r.Status), red)
	case r.Status == codat.DatasetComplete:
		return stateCell(string(r.Status), green)
	}
	return stateCell(string(r.Status), noColor)
}

// readRemarks returns what is said of a read beside its status.
func readRemarks(first, modified bool, issues map[string]int) string {
	var all []string
	if first {
		all = append(all, "first after link")
	}
	if modified {
		all = append(all, "records modified")
	}
	for _, typ := range slices.Sorted(maps.Keys(issues)) {
		all = append(all, fmt.Sprintf("%d %s", issues[typ], typ))
	}
	return strings.Join(all, ", ")
}

type readsShowCmd struct {
	Company      string         `arg:"" help:"The company's id."`
	Connection   string         `arg:"" help:"The connection's id."`
	DataType     codat.DataType `arg:"" help:"The data type, such as invoices."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Validate returns an error for what no record can have as its key.
func (c *readsShowCmd) Validate() error {
	if c.DataType == "" {
		return nil // kong names the arguments that are missing
	}
	_, err := state.ReadKey(c.Company, c.Connection, c.DataType)
	return err
}

// Run prints one record.
func (c *readsShowCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	records, err := state.OpenReads(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	r, err := records.Get(ctx, c.Company, c.Connection, c.DataType)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("no event has told of a read of %s over this connection: headgate reads list lists what was read", c.DataType)
	}
	if err != nil {
		return err
	}
	return c.printRecord(t, r, readListing.id(r), func() error { return printRead(t, r) })
}

// printRead writes a record, and what the events say that it follows from.
func printRead(t *terminal, r state.Read) error {
	when := func(at time.Time) string {
		if at.IsZero() {
			return "never"
		}
		age := t.now().Sub(at).Round(time.Second)
		if age >= 48*time.Hour {
			return fmt.Sprintf("%s (%d days ago)", t.time(at), age/(24*time.Hour))
		}
		return fmt.Sprintf("%s (%s ago)", t.time(at), age)
	}
	err := printRows(t.out, [][2]string{
		{"data type", string(r.DataType)},
		{"company", r.Company},
		{"connection", r.Connection},
		{"status", string(r.Status)},
		{"last read", when(r.LastRead)},
		{"last success", when(r.LastSuccess)},
		{"last modified", when(r.LastModified)},
		{"remarks", readRemarks(r.First, r.RecordsModified, r.Issues)},
	})
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("\nThe newest events of each kind:\n")
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "%s  %-34s  %s  %s", t.time(f.Time()), printable(f.Type), printable(f.WebhookID), printable(string(f.Status)))
		if remarks := readRemarks(f.First, f.RecordsModified, f.Issues); remarks != "" {
			b.WriteString(", " + printable(remarks))
		}
		b.WriteByte('\n')
	}
	_, err = io.WriteString(t.out, b.String())
	return err
}
