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
	Type         codat.DataType `name:"type" env:"-" help:"Only reads of this data type, such as invoices."`
	Status       string         `name:"status" env:"-" help:"Only data types whose last read ended with this status, such as Complete or AuthError; error is every status of a read that failed."`
	StaleSince   timeFlag       `name:"stale-since" env:"-" placeholder:"TIME" help:"Only data types that no read has read with success at this time or later: a duration before now (36h, 3d), a date, or a date and time."`
	JSON         bool           `name:"json" env:"-" help:"Print JSON."`
	connectFlags `embed:""`
}

// Run prints one line for each record.
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
	return printList(t, "data type", c.JSON, readLine, func(each func(state.Read) error) error {
		all, err := records.Scan(ctx, state.ReadFilter{Company: c.Company, Connection: c.Connection, DataType: c.Type})
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
	return status && (c.StaleSince.IsZero() || r.LastSuccess.Before(c.StaleSince.Time))
}

// readLine returns a record in one line.
func readLine(r state.Read) string {
	line := fmt.Sprintf("%-36s  %-36s  %-24s  %-16s  read %-19s  success %-19s", printable(r.Company), printable(r.Connection),
		printable(string(r.DataType)), printable(string(r.Status)), formatTime(r.LastRead), formatTime(r.LastSuccess))
	if remarks := readRemarks(r.First, r.RecordsModified, r.Issues); remarks != "" {
		line += "  " + remarks
	}
	return line
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
		all = append(all, fmt.Sprintf("%d %s", issues[typ], printable(typ)))
	}
	return strings.Join(all, ", ")
}

type readsShowCmd struct {
	Company      string         `arg:"" help:"The company's id."`
	Connection   string         `arg:"" help:"The connection's id."`
	DataType     codat.DataType `arg:"" help:"The data type, such as invoices."`
	JSON         bool           `name:"json" env:"-" help:"Print JSON."`
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
	if c.JSON {
		return printJSON(t.out, r)
	}
	return printRead(t.out, r, time.Now())
}

// printRead writes a record, and what the events say that it follows from.
func printRead(w io.Writer, r state.Read, now time.Time) error {
	when := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		age := now.Sub(t).Round(time.Second)
		if age >= 48*time.Hour {
			return fmt.Sprintf("%s (%d days ago)", formatTime(t), age/(24*time.Hour))
		}
		return fmt.Sprintf("%s (%s ago)", formatTime(t), age)
	}
	err := printRows(w, [][2]string{
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
		fmt.Fprintf(&b, "%s  %-34s  %s  %s", formatTime(f.Time()), printable(f.Type), printable(f.WebhookID), printable(string(f.Status)))
		if remarks := readRemarks(f.First, f.RecordsModified, f.Issues); remarks != "" {
			b.WriteString(", " + remarks)
		}
		b.WriteByte('\n')
	}
	_, err = io.WriteString(w, b.String())
	return err
}
