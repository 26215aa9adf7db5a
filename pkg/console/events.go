package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// pageRows is how many rows a page has.
	pageRows = 50
	// mostLooked is how many sequences one page looks at.
	mostLooked = 20_000
)

// An eventsFilter is what the list of events is asked for, as it stands in the address.
type eventsFilter struct {
	Type, Company, Connection, Since, Until, Outcome string
	Before                                           uint64
}

// outcomes are what a worker can have made of an event, in the words of inspect.Handling.
var outcomes = []string{
	string(claims.Done), string(claims.Dead), string(claims.Parked), string(claims.Waiting), string(claims.Running),
	string(inspect.NotDelivered), string(inspect.Settled), string(inspect.Unclaimed),
}

// Query is the filter as a part of an address.
func (f eventsFilter) Query() string {
	q := url.Values{}
	for name, value := range map[string]string{"type": f.Type, "company": f.Company, "connection": f.Connection, "since": f.Since, "until": f.Until, "outcome": f.Outcome} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.Before != 0 {
		q.Set("before", strconv.FormatUint(f.Before, 10))
	}
	return q.Encode()
}

// Older is the address of the page that follows, of the events before a sequence.
func (f eventsFilter) Older(before uint64) string { f.Before = before; return "/events?" + f.Query() }

// Newest is the address of the first page.
func (f eventsFilter) Newest() string { f.Before = 0; return "/events?" + f.Query() }

// Filtered says what excludes events.
func (f eventsFilter) Filtered() bool { f.Before = 0; return f != eventsFilter{} }

// An eventRow is an event with what became of it.
type eventRow struct {
	inspect.Event
	Handlings []inspect.Handling
}

// An eventsPage is what the list of events shows.
type eventsPage struct {
	Filter   eventsFilter
	Types    []string
	Outcomes []string
	Rows     []eventRow
	Workers  []string
	Actions  []button
	Page     inspect.NewestPage
	Last     uint64 // sequence of the newest message of the stream when the page was made
	Took     time.Duration
}

// serveEvents lists events, newest first. An id that is pasted leads to what it names.
func (c *Console) serveEvents(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if id := strings.TrimSpace(q.Get("id")); id != "" {
		c.recognise(w, r, id)
		return
	}
	f := eventsFilter{
		Type: q.Get("type"), Company: strings.TrimSpace(q.Get("company")), Connection: strings.TrimSpace(q.Get("connection")),
		Since: q.Get("since"), Until: q.Get("until"), Outcome: q.Get("outcome"),
	}
	var err error
	query := inspect.NewestQuery{Type: codat.Pattern(f.Type), Company: f.Company, Connection: f.Connection, Limit: pageRows, Look: mostLooked}
	if f.Type != "" {
		err = query.Type.Validate()
	}
	f.Before, query.Since, query.Until, err = readBounds(q, c.Now(), err)
	if f.Outcome != "" && !slices.Contains(outcomes, f.Outcome) {
		err = errors.Join(err, fmt.Errorf("no outcome is %q: it is one of %s", f.Outcome, strings.Join(outcomes, ", ")))
	}
	if err != nil {
		c.fail(w, r, problem{Status: http.StatusBadRequest, Title: "The filter cannot be used", Text: err.Error(), Cure: "Change it in the address, or begin again at Events."})
		return
	}
	query.Before = f.Before
	if f.Outcome != "" {
		query.Keep = c.withOutcome(f.Outcome)
	}
	began := c.Now()
	page, err := inspect.Newest(r.Context(), c.JS, c.Source, query)
	var rows []eventRow
	if err == nil {
		rows, err = c.eventRows(r.Context(), page.Events)
	}
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	facts := c.hub.facts(r.Context())
	c.render(w, r, "events", eventsPage{
		Actions: c.replayMatching(userOf(r), f, workersOf(rows)),
		Filter:  f, Types: facts.types(), Outcomes: outcomes, Rows: rows, Workers: workersOf(rows), Page: page, Last: facts.last, Took: c.Now().Sub(began),
	})
}

// readBounds reads before, since and until of a filter. A time is a date, a time, or how long ago: 2h, 7d.
func readBounds(q url.Values, now time.Time, before error) (number uint64, since, until time.Time, err error) {
	var errs [3]error
	if text := q.Get("before"); text != "" {
		if number, errs[0] = strconv.ParseUint(text, 10, 64); errs[0] != nil {
			errs[0] = fmt.Errorf("before must be a number (got %q)", text)
		}
	}
	since, errs[1] = readTime("since", q.Get("since"), now)
	until, errs[2] = readTime("until", q.Get("until"), now)
	return number, since, until, errors.Join(before, errs[0], errs[1], errs[2])
}

// readTime reads a time as people type it: 2h and 7d are ago.
func readTime(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n <= 3650 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s must be a time in UTC, such as 2026-01-31 or 2026-01-31T12:00, or how long ago, such as 2h or 7d (got %q)", name, text)
}

// withOutcome keeps the events that a worker has made an outcome of.
func (c *Console) withOutcome(outcome string) func(context.Context, []inspect.Event) ([]inspect.Event, error) {
	return func(ctx context.Context, events []inspect.Event) (kept []inspect.Event, err error) {
		all, err := inspect.Handlings(ctx, c.JS, c.Source, events)
		for i, handlings := range all {
			if slices.ContainsFunc(handlings, func(h inspect.Handling) bool { return string(h.State) == outcome }) {
				kept = append(kept, events[i])
			}
		}
		return kept, err
	}
}

// eventRows adds to events what became of them.
func (c *Console) eventRows(ctx context.Context, events []inspect.Event) ([]eventRow, error) {
	if len(events) == 0 {
		return nil, nil
	}
	all, err := inspect.Handlings(ctx, c.JS, c.Source, events)
	if err != nil {
		return nil, err
	}
	rows := make([]eventRow, len(events))
	for i, e := range events {
		rows[i] = eventRow{e, all[i]}
	}
	return rows, nil
}

// replayMatching gives all events that match a filter to one of the workers again. A replay has no
// filter by outcome.
func (c *Console) replayMatching(u User, f eventsFilter, workers []string) []button {
	if f.Outcome != "" {
		return nil
	}
	var fields []field
	for _, one := range []field{{"type", f.Type}, {"company", f.Company}, {"connection", f.Connection}, {"since", f.Since}, {"until", f.Until}} {
		if one.Value != "" {
			fields = append(fields, one)
		}
	}
	return c.replayButtons(u, workers, fields...)
}

func workersOf(rows []eventRow) []string {
	if len(rows) == 0 {
		return nil
	}
	var names []string
	for _, h := range rows[0].Handlings {
		names = append(names, h.Worker)
	}
	return names
}

// types are the types of the stored events, sorted.
func (f facts) types() []string {
	var all []string
	for typ := range f.stored {
		all = append(all, typ)
	}
	slices.Sort(all)
	return all
}

// handlingLevels are how the states of a handling are shown.
var handlingLevels = map[inspect.HandlingState]level{
	inspect.HandlingState(claims.Done): good, inspect.Settled: good,
	inspect.HandlingState(claims.Dead): alarm, inspect.HandlingState(claims.Burying): alarm,
	inspect.HandlingState(claims.Parked): waiting, inspect.HandlingState(claims.Waiting): waiting,
	inspect.HandlingState(claims.Running): waiting, inspect.NotDelivered: waiting, inspect.Unclaimed: waiting,
}

// unanswered answers when NATS did not.
func (c *Console) unanswered(w http.ResponseWriter, r *http.Request, err error) {
	p := problem{Status: http.StatusBadGateway, Title: "NATS did not answer", Text: stream.NotConnected(c.JS.Conn(), err).Error(), Cure: "Reload the page. headgate doctor says what is wrong with the servers."}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		p = problem{Status: http.StatusNotFound, Title: "Nothing is provisioned", Text: err.Error(), Cure: "Run headgate provision."}
	}
	c.fail(w, r, p)
}

// recognise leads from an id to what it names: an event, a company, a connection or a push operation.
func (c *Console) recognise(w http.ResponseWriter, r *http.Request, id string) {
	if n, err := strconv.ParseUint(strings.TrimPrefix(id, "#"), 10, 64); err == nil {
		http.Redirect(w, r, fmt.Sprintf("/events/%d", n), http.StatusSeeOther)
		return
	}
	matches, scanned, err := c.findID(r.Context(), id)
	if err != nil {
		c.unanswered(w, r, err)
		return
	}
	if len(matches) == 0 {
		text := fmt.Sprintf("Nothing that is stored has the id %q.", id)
		if scanned {
			text = fmt.Sprintf("None of the newest events has the id %q. Older ones were not read, because headgate watch does not answer.", id)
		}
		c.fail(w, r, problem{
			Status: http.StatusNotFound, Title: "Nothing has this id", Text: text,
			Cure: "The event is older or was erased, belongs to another source, or was refused: the ingress's log has a line with claimed_id for a request that it refused.",
		})
		return
	}
	to := fmt.Sprintf("/events/%d", matches[0].Sequence)
	switch matches[0].By {
	case inspect.ByCompany:
		to = "/events?company=" + url.QueryEscape(id)
		if href("/companies/x") != "" {
			to = "/companies/" + url.PathEscape(id)
		}
	case inspect.ByConnection:
		to = "/events?connection=" + url.QueryEscape(id)
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// findTime bounds the search for an id where no index answers.
const findTime = 10 * time.Second

// findID finds messages by an id. Without an index it reads as far back as the time allows, and says so.
func (c *Console) findID(ctx context.Context, id string) (matches []inspect.Match, scanned bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	q := inspect.Search{ID: id, Limit: pageRows, Scanning: func(string) { scanned = true }}
	err = inspect.FindEvents(ctx, c.JS, c.Source, q, func(m inspect.Match) error { matches = append(matches, m); return nil })
	if scanned && errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return matches, scanned, err
}
