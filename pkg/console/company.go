package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/state"
)

// A companyPage is what support asks of a company: did it arrive, and what became of it.
type companyPage struct {
	ID          string
	Verdict     stateWord
	Connections []connectionRow
	Writes      []writeRow
	Reads       []state.Read
	Rows        []eventRow
	Looked      uint64
	Oldest      time.Time // back to when events were looked at
	More        bool
	Dead        []deadRow
	Query       string // of the company in addresses
}

// companyRows is how many rows of each kind the page has at most.
const companyRows = 50

// serveCompany shows what is known of one company.
func (c *Console) serveCompany(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	p := companyPage{ID: id, Query: url.QueryEscape(id)}
	ctx, cancel := context.WithTimeout(r.Context(), findTime)
	defer cancel()
	if err := errors.Join(c.companyEvents(ctx, &p), c.companyStates(ctx, &p), c.companyDead(ctx, &p)); err != nil {
		c.unanswered(w, r, err)
		return
	}
	p.conclude()
	c.render(w, r, "company", p)
}

// companyEvents reads the newest events: those that the index knows, and without it those among the newest of the stream.
func (c *Console) companyEvents(ctx context.Context, p *companyPage) error {
	page, err := inspect.Newest(ctx, c.JS, c.Source, inspect.NewestQuery{Company: p.ID, Limit: companyRows, Look: mostLooked})
	if err != nil {
		return err
	}
	p.Looked, p.Oldest, p.More = page.Looked, page.Oldest, page.Next != 0
	p.Rows, err = c.eventRows(ctx, page.Events)
	return err
}

// companyStates reads the records of the company's connections, writes and reads.
func (c *Console) companyStates(ctx context.Context, p *companyPage) error {
	if _, err := state.ConnectionKey(p.ID, "any"); err != nil {
		return nil // no record can have it
	}
	b := backward{stream: "KV_" + c.Source.StateBucket(state.ConnectionsName), limit: companyRows}
	b.filter, b.few = c.keysOf(state.ConnectionsName, p.ID, "")
	connections, err := newestRecords(ctx, c.JS, b, func(m *jetstream.RawStreamMsg) (connectionRow, bool) {
		var one state.Connection
		bad := json.Unmarshal(m.Data, &one) // a later version wrote it
		return newConnectionRow(one), bad == nil
	})
	if err != nil {
		return err
	}
	b = backward{stream: "KV_" + c.Source.StateBucket(state.WritesName), limit: companyRows}
	writes, err := newestRecords(ctx, c.JS, b, func(m *jetstream.RawStreamMsg) (writeRow, bool) {
		var one state.Write
		bad := json.Unmarshal(m.Data, &one)
		return newWriteRow(one), bad == nil && one.Company == p.ID
	})
	if err != nil {
		return err
	}
	b = backward{stream: "KV_" + c.Source.StateBucket(state.ReadsName), limit: companyRows}
	b.filter, b.few = c.keysOf(state.ReadsName, p.ID, "", "")
	reads, err := newestRecords(ctx, c.JS, b, func(m *jetstream.RawStreamMsg) (state.Read, bool) {
		var one state.Read
		bad := json.Unmarshal(m.Data, &one)
		return one, bad == nil
	})
	p.Connections, p.Writes, p.Reads = connections.Rows, writes.Rows, reads.Rows
	return err
}

// companyDead reads the company's open dead letters.
func (c *Console) companyDead(ctx context.Context, p *companyPage) error {
	looked := 0
	err := operator.Letters(ctx, c.JS, c.Source, operator.LettersQuery{Filter: deadletter.Filter{Company: p.ID}}, func(l operator.Letter) error {
		if looked++; l.State == operator.LetterOpen {
			p.Dead = append(p.Dead, newDeadRow(l))
		}
		if len(p.Dead) == companyRows || looked == mostRecords {
			return errPageFull
		}
		return nil
	})
	if errors.Is(err, errPageFull) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// conclude says in a sentence whether the company's events arrive and are handled.
func (p *companyPage) conclude() {
	open := 0
	for _, row := range p.Rows {
		for _, h := range row.Handlings {
			if handlingLevels[h.State] == waiting {
				open++
			}
		}
	}
	revoked := 0
	for _, row := range p.Connections {
		if row.Connection.Status == codat.Deauthorized || row.Suspect {
			revoked++
		}
	}
	switch {
	case len(p.Rows) == 0 && len(p.Connections)+len(p.Writes)+len(p.Reads) == 0:
		p.Verdict = stateWord{"No event of this company was found", waiting}
	case len(p.Rows) == 0:
		p.Verdict = stateWord{"Events have arrived before, and none among the newest of the stream", neutral}
	case len(p.Dead) > 0:
		p.Verdict = stateWord{fmt.Sprintf("Its events arrive, and %d could not be handled", len(p.Dead)), alarm}
	case open > 0:
		p.Verdict = stateWord{fmt.Sprintf("Its events arrive, and %d handlings are still to come", open), waiting}
	case revoked > 0:
		p.Verdict = stateWord{fmt.Sprintf("Its events arrive and are handled; connections that are not authorised: %d", revoked), waiting}
	default:
		p.Verdict = stateWord{"Its events arrive and are handled", good}
	}
}
