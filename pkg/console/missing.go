package console

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// endpointsFor is how long an answer of Codat serves all viewers.
	endpointsFor = time.Minute
	// codatTimeout bounds how long a page waits for Codat.
	codatTimeout = 5 * time.Second
)

// endpoints are the endpoints at Codat, as it said last.
type endpoints struct {
	mu    sync.Mutex // guards what follows, and lets one viewer ask at a time
	all   []api.Webhook
	err   error
	asked time.Time
}

// ask returns the endpoints and when Codat was asked. Codat is asked once a minute at most.
func (e *endpoints) ask(ctx context.Context, now time.Time, ask func(context.Context) ([]api.Webhook, error)) ([]api.Webhook, time.Time, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.asked.IsZero() || now.Sub(e.asked) > endpointsFor {
		// What one viewer has asked serves the others, so that its leaving does not cut the question off.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), codatTimeout)
		defer cancel()
		e.all, e.err = ask(asking)
		e.asked = now
	}
	return e.all, e.asked, e.err
}

// A missingRow is something that should have come and has not.
type missingRow struct {
	state.Expected
	Link, CompanyLink, ConnectionLink idLink
	Late                              time.Duration // since it was due
}

// An unsubscribedType is a type that no endpoint has.
type unsubscribedType struct {
	Type  string
	Taken bool // by a consumer of the source
}

// A missingView is what the page of missing things shows.
type missingView struct {
	Loading                bool
	Watched                bool // headgate watch has looked, or had nothing to look at
	Silent, Overdue, Stale []missingRow
	Most                   int // records that headgate watch keeps of a kind

	AsksCodat    bool
	Asked        time.Time
	Problem      string
	Endpoints    []api.Webhook
	Unsubscribed []unsubscribedType
}

// mostMissing is how many records headgate watch keeps of each kind.
const mostMissing = 1000

// serveMissing shows what should have come from Codat and has not.
func (c *Console) serveMissing(w http.ResponseWriter, r *http.Request) {
	survey := c.hub.facts(r.Context()).survey
	v := missingView{Loading: survey.at.IsZero(), Watched: survey.expected.watched, Most: mostMissing, AsksCodat: c.Endpoints != nil}
	bucket := survey.stream("KV_" + c.Source.StateBucket(stream.ExpectedState))
	if bucket.LastSequence == 0 && !survey.snapshot.LastEvent.IsZero() {
		v.Watched = false // it writes with the first event
	}
	for _, e := range survey.expected.all {
		row := newMissingRow(e, c.Now())
		switch e.Kind {
		case state.SilentType:
			v.Silent = append(v.Silent, row)
		case state.OverdueWrite:
			v.Overdue = append(v.Overdue, row)
		case state.StaleRead:
			v.Stale = append(v.Stale, row)
		}
	}
	if v.AsksCodat {
		var err error
		if v.Endpoints, v.Asked, err = c.endpoints.ask(r.Context(), c.Now(), c.Endpoints); err != nil {
			v.Problem = err.Error()
		} else {
			v.Unsubscribed, err = c.unsubscribed(r.Context(), v.Endpoints)
			if err != nil {
				c.unanswered(w, r, err)
				return
			}
		}
	}
	c.render(w, r, "missing", v)
}

func newMissingRow(e state.Expected, now time.Time) missingRow {
	row := missingRow{Expected: e, CompanyLink: companyLink(e.Company), ConnectionLink: idLink{ID: e.Connection}, Late: now.Sub(e.Due).Round(time.Second)}
	if e.Company != "" {
		row.ConnectionLink = connectionLink(e.Company, e.Connection)
	}
	switch e.Kind {
	case state.SilentType:
		row.Link = idLink{e.Type, "/events?type=" + url.QueryEscape(e.Type)}
	case state.OverdueWrite:
		row.Link = writeLink(e.PushOperationKey)
	case state.StaleRead:
		row.Link = idLink{string(e.DataType), readHref(state.Read{Company: e.Company, Connection: e.Connection, DataType: e.DataType})}
	}
	return row
}

// unsubscribed returns the types that no endpoint has, those that a worker takes first.
func (c *Console) unsubscribed(ctx context.Context, all []api.Webhook) ([]unsubscribedType, error) {
	needed, err := inspect.ConsumedTypes(ctx, c.JS, c.Source)
	if err != nil {
		return nil, err
	}
	var taken, others []unsubscribedType
	for _, typ := range api.Unsubscribed(all) {
		if slices.ContainsFunc(needed, func(p codat.Pattern) bool { return p.Match(typ) }) {
			taken = append(taken, unsubscribedType{typ, true})
		} else {
			others = append(others, unsubscribedType{Type: typ})
		}
	}
	return append(taken, others...), nil
}
