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
	JSON         bool   `name:"json" env:"-" help:"Print JSON."`
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

// Run prints one line for each connection.
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
	return printList(t, "connection", c.JSON, connectionLine, func(each func(listedConnection) error) error {
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
	return (c.Connection == "" || c.Connection == r.Connection) && (c.Status == "" || strings.EqualFold(c.Status, statusOf(r.Status, r.Deleted))) && (!c.Suspect || r.Suspect)
}

// statusOf is the status of a connection in a word.
func statusOf(s codat.ConnectionStatus, deleted bool) string {
	if deleted {
		return deletedStatus
	}
	return string(s)
}

// connectionLine returns a connection in one line.
func connectionLine(c listedConnection) string {
	line := fmt.Sprintf("%-36s  %-36s  %-12s  since %-19s  platform %s", printable(c.Company), printable(c.Connection),
		printable(statusOf(c.Status, c.Deleted)), formatTime(c.Changed), printable(c.Platform))
	if c.Suspect {
		line += "  suspect"
	}
	return line
}

type connectionsShowCmd struct {
	Company      string `arg:"" help:"The company's id."`
	Connection   string `arg:"" help:"The connection's id."`
	JSON         bool   `name:"json" env:"-" help:"Print JSON."`
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
	if c.JSON {
		return printJSON(t.out, r)
	}
	return printConnection(t.out, r)
}

// printConnection writes what a connection is, and its changes.
func printConnection(w io.Writer, r state.Connection) error {
	by := "-"
	if len(r.Timeline) > 0 {
		by = changedBy(r.Timeline[len(r.Timeline)-1])
	}
	suspect := "no"
	if r.Suspect {
		suspect = "yes: a read has failed for want of authorisation since"
	}
	err := printRows(w, [][2]string{
		{"company", r.Company},
		{"connection", r.Connection},
		{"status", statusOf(r.Status, r.Deleted)},
		{"since", formatTime(r.Changed)},
		{"by", by},
		{"suspect", suspect},
		{"last read", formatTime(r.LastRead)},
		{"reconciled", formatTime(r.Reconciled)},
		{"platform", strings.TrimSpace(r.Platform + " " + r.PlatformName)},
	})
	if err != nil || len(r.Timeline) == 0 {
		return err
	}
	var b strings.Builder
	b.WriteByte('\n')
	for _, c := range r.Timeline {
		fmt.Fprintf(&b, "%s  %-12s  from %-12s  %s\n", formatTime(c.At), printable(statusOf(c.Status, c.Deleted)), printable(string(c.From)), changedBy(c))
	}
	_, err = io.WriteString(w, b.String())
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
