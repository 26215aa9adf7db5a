package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/plan"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

// A connectionRow is a line of the list of connections.
type connectionRow struct {
	state.Connection
	CompanyLink, Link idLink
	Status            stateWord
}

func newConnectionRow(r state.Connection) connectionRow {
	return connectionRow{r, companyLink(r.Company), connectionLink(r.Company, r.Connection), stateWord{connectionStatus(r), connectionLevel(r)}}
}

// connectionStatusLevel is how a status is shown that is counted.
func connectionStatusLevel(word string) level {
	return connectionLevel(state.Connection{Status: codat.ConnectionStatus(word), Deleted: word == "Deleted", Suspect: word == "Suspect"})
}

// A listView is what a list of records shows.
type listView[R any] struct {
	Query listQuery
	Page  recordsPage[R]
	Chips []chip
	// Choices are the values that a filter offers.
	Choices []string
}

// Full reports whether the page has as many rows as one can have.
func (v listView[R]) Full() bool { return len(v.Page.Rows) == pageRows }

// keysOf is the subject filter for records by the tokens of their keys, "" for any, and reports whether it leaves few of them.
func (c *Console) keysOf(name string, tokens ...string) (filter string, few bool) {
	for i, token := range tokens {
		if token == "" {
			tokens[i] = "*"
		} else {
			few = few || i < 2
		}
	}
	return "$KV." + c.Source.StateBucket(name) + "." + strings.Join(tokens, "."), few
}

// anyToken stands for a token of a key that is not asked for.
func anyToken(token string) string {
	if token == "" {
		return "any"
	}
	return token
}

// serveConnections lists the connections.
func (c *Console) serveConnections(w http.ResponseWriter, r *http.Request) {
	q, ok := c.readQuery(w, r, "headgate connections list", "company", "connection", "status", "suspect")
	if !ok {
		return
	}
	if q.Get("suspect") != "" { // the command's flag
		q.values.Del("suspect")
		q.values.Set("status", "Suspect")
	}
	if _, err := state.ConnectionKey(anyToken(q.Get("company")), anyToken(q.Get("connection"))); err != nil {
		c.badFilter(w, r, err)
		return
	}
	b := backward{stream: "KV_" + c.Source.StateBucket(state.ConnectionsName), before: q.Before, limit: pageRows}
	b.filter, b.few = c.keysOf(state.ConnectionsName, q.Get("company"), q.Get("connection"))
	page, err := newestRecords(r.Context(), c.JS, b, func(m *jetstream.RawStreamMsg) (connectionRow, bool) {
		var one state.Connection
		if json.Unmarshal(m.Data, &one) != nil {
			return connectionRow{}, false // a later version wrote it
		}
		return newConnectionRow(one), q.holds("status", connectionStatus(one)) && q.within(one.Changed)
	})
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	counts := c.hub.facts(r.Context()).survey.states.connections
	c.render(w, r, "connections", listView[connectionRow]{Query: q, Page: page, Chips: q.chips(counts, connectionStatusLevel)})
}

// A changeView is a change of a connection's status.
type changeView struct {
	state.ConnectionChange
	Status, From string
	Level        level
	Event        idLink
}

// A connectionView is what the page of a connection shows.
type connectionView struct {
	connectionRow
	Event   idLink       // by which the status came
	Related []idLink     // lists about the connection
	Changes []changeView // newest first
}

// serveConnection shows one connection.
func (c *Console) serveConnection(w http.ResponseWriter, r *http.Request) {
	company, id := r.PathValue("company"), r.PathValue("connection")
	record, err := one(r.Context(), c, state.OpenConnections, func(ctx context.Context, s state.Connections) (state.Connection, error) {
		return s.Get(ctx, company, id)
	})
	if err != nil {
		_, badKey := state.ConnectionKey(company, id)
		c.noRecord(w, r, err, badKey, missing{"No such connection", "No event has named this connection of this company.", "Connections lists those that are known."})
		return
	}
	v := connectionView{connectionRow: newConnectionRow(record), Event: idLink{ID: record.WebhookID}}
	for _, list := range []string{"events", "reads", "writes", "plans"} {
		v.Related = append(v.Related, idLink{list, "/" + list + "?connection=" + url.QueryEscape(id)})
	}
	for i := len(record.Timeline) - 1; i >= 0; i-- {
		change := record.Timeline[i]
		after := state.Connection{Status: change.Status, Deleted: change.Deleted}
		v.Changes = append(v.Changes, changeView{
			change, connectionStatus(after), string(change.From), connectionLevel(after), eventLink(change.WebhookID, change.Sequence),
		})
		if change.WebhookID != "" && change.WebhookID == record.WebhookID {
			v.Event = eventLink(change.WebhookID, change.Sequence)
		}
	}
	c.render(w, r, "connection", v)
}

// one opens the records of a state and reads one of them.
func one[S, R any](ctx context.Context, c *Console, open func(context.Context, jetstream.JetStream, stream.Source) (S, error), get func(context.Context, S) (R, error)) (r R, err error) {
	records, err := open(ctx, c.JS, c.Source)
	if err != nil {
		return r, err
	}
	return get(ctx, records)
}

// missing is what a page says of a record that is not there.
type missing struct{ Title, Text, Cure string }

// noRecord answers when a record could not be read, or cannot have the key of the address.
func (c *Console) noRecord(w http.ResponseWriter, r *http.Request, err, badKey error, m missing) {
	if badKey == nil && !errors.Is(err, jetstream.ErrKeyNotFound) && !errors.Is(err, stream.ErrNotProvisioned) && !errors.Is(err, plan.ErrNotFound) {
		c.unanswered(w, r, err)
		return
	}
	c.fail(w, r, problem{Status: http.StatusNotFound, Title: m.Title, Text: m.Text, Cure: m.Cure})
}
