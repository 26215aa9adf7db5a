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

// connectionsCmd holds the commands on the state of connections, which worker-connections writes.
type connectionsCmd struct {
	List connectionsListCmd `cmd:"" default:"withargs" help:"List the connections with their status, by company. It is the default."`
	Show connectionsShowCmd `cmd:"" help:"Show one connection: since when it has its status, by which event, and the changes before."`
}

type connectionsListCmd struct {
	Company      string `name:"company" env:"-" help:"Only connections of the company with this id."`
	Connection   string `name:"connection" env:"-" help:"Only the connection with this id, whose company need not be known."`
	Status       string `name:"status" env:"-" help:"Only connections with this status: PendingAuth, Linked, Unlinked, Deauthorized, another one of Codat's, or deleted."`
	Suspect      bool   `name:"suspect" env:"-" help:"Only connections of which a read has failed for want of authorisation since the status was reported."`
	periodFlags  `embed:"" set:"when=whose status changed"`
	listFlags    `embed:""`
	connectFlags `embed:""`
}

// A listedConnection is a line of connections list.
type listedConnection struct {
	Company      string                 `json:"company"`
	Connection   string                 `json:"connection"`
	Status       codat.ConnectionStatus `json:"status,omitempty"`
	Deleted      bool                   `json:"deleted,omitempty"`
	Suspect      bool                   `json:"suspect,omitempty"`
	Changed      time.Time              `json:"changed,omitzero"`
	From         codat.ConnectionStatus `json:"from,omitempty"`
	LastRead     time.Time              `json:"last_read,omitzero"`
	Reconciled   time.Time              `json:"reconciled,omitzero"`
	Platform     string                 `json:"platform,omitempty"`
	PlatformName string                 `json:"platform_name,omitempty"`
}

// deletedStatus is what --status takes for connections that are deleted, whatever their status was.
const deletedStatus = "deleted"

// Run lists the connections.
func (c *connectionsListCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	records, err := state.OpenConnections(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	all, err := records.Scan(ctx, c.Company, c.selects)
	if err != nil {
		return err
	}
	return connectionListing.print(t, c.listFlags, func(each func(listedConnection) error) error {
		for _, r := range all {
			if err := each(listedConnection{
				r.Company, r.Connection, r.Status, r.Deleted, r.Suspect, r.Changed, r.From, r.LastRead, r.Reconciled, r.Platform, r.PlatformName,
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// selects reports whether a connection is listed.
func (c *connectionsListCmd) selects(r state.Connection) bool {
	return (c.Connection == "" || c.Connection == r.Connection) && (c.Status == "" || strings.EqualFold(c.Status, statusOf(r.Status, r.Deleted))) &&
		(!c.Suspect || r.Suspect) && c.contains(r.Changed)
}

// statusOf is the status of a connection in a word.
func statusOf(s codat.ConnectionStatus, deleted bool) string {
	if deleted {
		return deletedStatus
	}
	return string(s)
}

var connectionListing = listing[listedConnection]{
	noun: "connection",
	id:   func(c listedConnection) string { return c.Company + " " + c.Connection },
	columns: []column[listedConnection]{
		{name: "COMPANY", cell: func(c listedConnection) cell { return idCell(c.Company) }},
		{name: "CONNECTION", cell: func(c listedConnection) cell { return idCell(c.Connection) }},
		{name: "STATUS", cell: connectionStatus},
		{name: "SINCE", cell: func(c listedConnection) cell { return timeCell(c.Changed) }},
		{name: "FROM", wide: true, cell: func(c listedConnection) cell { return textCell(c.From) }},
		{name: "SUSPECT", cell: func(c listedConnection) cell {
			if c.Suspect {
				return stateCell("suspect", yellow)
			}
			return textCell("")
		}},
		{name: "LAST READ", wide: true, cell: func(c listedConnection) cell { return timeCell(c.LastRead) }},
		{name: "RECONCILED", wide: true, cell: func(c listedConnection) cell { return timeCell(c.Reconciled) }},
		{name: "PLATFORM", cell: func(c listedConnection) cell { return textCell(c.Platform) }},
		{name: "PLATFORM NAME", wide: true, cell: func(c listedConnection) cell { return textCell(c.PlatformName) }},
	},
}

func connectionStatus(c listedConnection) cell {
	status := statusOf(c.Status, c.Deleted)
	return stateCell(status, map[string]color{
		string(codat.Linked): green, string(codat.PendingAuth): yellow, string(codat.Unlinked): yellow, string(codat.Deauthorized): red,
	}[status])
}

type connectionsShowCmd struct {
	Company      string `arg:"" help:"The company's id."`
	Connection   string `arg:"" help:"The connection's id."`
	outputFlags  `embed:""`
	connectFlags `embed:""`
}

// Run prints one connection.
func (c *connectionsShowCmd) Run(ctx context.Context, t *terminal) error {
	nc, err := c.connect(ctx, t)
	if err != nil {
		return err
	}
	defer nc.close()
	records, err := state.OpenConnections(ctx, nc, nc.source)
	if err != nil {
		return err
	}
	r, err := records.Get(ctx, c.Company, c.Connection)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("no event has named the connection %s of company %s: headgate connections list lists those that are known", c.Connection, c.Company)
	}
	if err != nil {
		return err
	}
	return c.printRecord(t, r, r.Company+" "+r.Connection, func() error { return printConnection(t, r) })
}

// printConnection writes what a connection is, and its changes.
func printConnection(t *terminal, r state.Connection) error {
	by := "-"
	if len(r.Timeline) > 0 {
		by = changedBy(r.Timeline[len(r.Timeline)-1])
	}
	suspect := "no"
	if r.Suspect {
		suspect = "yes: a read has failed for want of authorisation since"
	}
	err := printRows(t.out, [][2]string{
		{"company", r.Company},
		{"connection", r.Connection},
		{"status", statusOf(r.Status, r.Deleted)},
		{"since", t.time(r.Changed)},
		{"by", by},
		{"suspect", suspect},
		{"last read", t.time(r.LastRead)},
		{"reconciled", t.time(r.Reconciled)},
		{"platform", strings.TrimSpace(r.Platform + " " + r.PlatformName)},
	})
	if err != nil || len(r.Timeline) == 0 {
		return err
	}
	var b strings.Builder
	b.WriteByte('\n')
	for _, c := range r.Timeline {
		fmt.Fprintf(&b, "%s  %-12s  from %-12s  %s\n", t.time(c.At), printable(statusOf(c.Status, c.Deleted)), printable(string(c.From)), changedBy(c))
	}
	_, err = io.WriteString(t.out, b.String())
	return err
}

// changedBy says what has told of a change.
func changedBy(c state.ConnectionChange) string {
	switch {
	case c.Found:
		return "found by reconciliation"
	case c.Type == "":
		return "told by Codat's API"
	case c.Undated:
		return printable(c.Type) + " " + printable(c.WebhookID) + ", when it was received"
	}
	return printable(c.Type) + " " + printable(c.WebhookID)
}
