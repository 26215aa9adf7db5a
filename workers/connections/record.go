// Package connections is the worker that keeps the state of every connection of every company in a KV bucket, whose
// records package state describes and reads. A record depends on which events arrived and not on their order: an event
// that arrives late, twice or from a replay changes nothing that newer events have said. With an API key of Codat the worker
// also asks, from time to time, for what no event has told.
package connections

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers"
)

// Name is the worker's name.
const Name = "connections"

const (
	// retryPeriod is how long Codat retries an event: an event without a date was generated at most this long before its
	// arrival.
	retryPeriod = 28 * time.Hour
	// clockSkew is how far Codat's clock and ours may be apart.
	clockSkew = time.Minute
	// maxAhead is how far the date of an event may be after its arrival.
	maxAhead = time.Hour
	// maxChanges is how many reports of a status are kept of each kind, and how many changes the timeline has.
	maxChanges = 50
	// maxName is the longest text of a payload that a record keeps, in bytes: Codat's own have less than 40.
	maxName = 256
)

// at returns when the fact was true: when Codat generated the event, or when it was received. A date that is more than maxAhead
// after the arrival is wrong: no later event, and no answer, would count until it is over.
func at(f *state.ConnectionFact) time.Time {
	if f.Generated.IsZero() || !f.Received.IsZero() && f.Generated.After(f.Received.Add(maxAhead)) {
		return f.Received
	}
	return f.Generated
}

// newer reports whether f is newer than g, a fact of the same kind: by time, and then by the place in the stream. Every
// fact is newer than nil.
func newer(f, g *state.ConnectionFact) bool {
	return g == nil || inTime(report(f), report(g)) > 0
}

// inTime compares two reports by time, then by their places in the stream, and then by what they say.
func inTime(a, b state.ConnectionChange) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Sequence, b.Sequence), compareReports(a, b))
}

// compareReports is 0 when two reports of one time say the same in the same way: of the same event or, where there are two
// endpoints, of the same fact.
func compareReports(a, b state.ConnectionChange) int {
	return cmp.Or(cmp.Compare(kindOf(a), kindOf(b)), cmp.Compare(a.Status, b.Status), compareBools(a.Deleted, b.Deleted))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// The kinds of reports.
const (
	kindAsked = iota
	kindFound
	kindUndated
	kindDated
)

func kindOf(c state.ConnectionChange) int {
	switch {
	case c.Found:
		return kindFound
	case c.Type == "":
		return kindAsked
	case c.Undated:
		return kindUndated
	}
	return kindDated
}

// with returns the record with one more fact. It depends on the set of facts and not on their order.
func with(r state.Connection, f state.ConnectionFact) state.Connection {
	f.Status, f.SourceType = limited(f.Status), limited(f.SourceType)
	f.Platform, f.PlatformName = limited(f.Platform), limited(f.PlatformName)
	reports := kept(r)
	var newest **state.ConnectionFact
	switch {
	case strings.Contains(f.Type, "read.completed"):
		newest = &r.Read
		r.LastRead = lastRead(lastRead(r.LastRead, r.Read), &f)
	case f.Type == "":
		newest = &r.Asked
	case f.Generated.IsZero():
		newest = &r.Undated
	default:
		newest = &r.Dated
	}
	if newest != &r.Read && (newest != &r.Asked || f.Found) {
		reports = append(reports, report(&f))
	}
	if newer(&f, *newest) {
		*newest = &f
	}
	return derived(r, reports)
}

// limited returns a text, or its beginning.
func limited[S ~string](text S) S {
	return S(strings.ToValidUTF8(string(text[:min(len(text), maxName)]), ""))
}

// lastRead returns the later of two times at which a read was authorised. An early version of the record has no LastRead.
func lastRead(t time.Time, read *state.ConnectionFact) time.Time {
	if read != nil && !read.AuthError && at(read).After(t) {
		return at(read).UTC()
	}
	return t
}

// report returns what a fact says of the status.
func report(f *state.ConnectionFact) state.ConnectionChange {
	return state.ConnectionChange{
		At: at(f).UTC(), Undated: f.Generated.IsZero(), Status: f.Status, Deleted: f.Deleted,
		Type: f.Type, WebhookID: f.WebhookID, Sequence: f.Sequence, Found: f.Found,
	}
}

// kept returns the reports that a record has: of an early version those of its facts. Of the answers that told nothing new the
// newest alone counts, because one comes in each period.
func kept(r state.Connection) []state.ConnectionChange {
	reports := slices.Concat(r.Timeline, r.Unchanged)
	for _, f := range []*state.ConnectionFact{r.Dated, r.Undated} {
		if f != nil {
			reports = append(reports, report(f))
		}
	}
	return slices.DeleteFunc(reports, func(c state.ConnectionChange) bool { return kindOf(c) == kindAsked })
}

// newestOfEach returns the newest reports of each kind, each once, in the order of time.
func newestOfEach(reports []state.ConnectionChange) []state.ConnectionChange {
	slices.SortFunc(reports, func(a, b state.ConnectionChange) int {
		return cmp.Or(b.At.Compare(a.At), compareReports(a, b), cmp.Compare(b.Sequence, a.Sequence))
	})
	reports = slices.CompactFunc(reports, func(a, b state.ConnectionChange) bool { return a.At.Equal(b.At) && compareReports(a, b) == 0 })
	slices.SortFunc(reports, inTime)
	var count [kindDated + 1]int
	all := reports[:0:0]
	for _, c := range slices.Backward(reports) {
		if count[kindOf(c)]++; count[kindOf(c)] <= maxChanges {
			all = append(all, c)
		}
	}
	slices.Reverse(all)
	return all
}

// derived returns the record that follows from its newest facts and from the reports of the status.
func derived(r state.Connection, reports []state.ConnectionChange) state.Connection {
	reports = newestOfEach(reports)
	if r.Asked != nil && !r.Asked.Found {
		reports = append(reports, report(r.Asked))
		slices.SortFunc(reports, inTime)
	}
	r.Timeline, r.Unchanged = nil, nil
	var last, change state.ConnectionChange // the newest report that counts, and the first with its status
	for _, c := range reports {
		c.From = ""
		switch {
		case toldByDated(reports, c):
			r.Unchanged = append(r.Unchanged, c)
			continue
		case len(r.Timeline) > 0 && same(change, c):
			r.Unchanged = append(r.Unchanged, c)
		default:
			c.From = change.Status
			change = c
			r.Timeline = append(r.Timeline, c)
		}
		last = c
	}
	if older := len(r.Timeline) - maxChanges; older > 0 {
		r.Timeline, r.Unchanged = r.Timeline[older:], slices.Concat(r.Timeline[:older], r.Unchanged)
	}
	r.Status, r.Changed, r.From, r.Type, r.WebhookID = last.Status, change.At, change.From, change.Type, change.WebhookID
	r.Deleted, r.DeletedAt = last.Deleted, time.Time{}
	if r.Deleted {
		r.Status, r.DeletedAt = cmp.Or(last.Status, change.From), change.At
	}
	r.Suspect = r.Read != nil && r.Read.AuthError && !r.Deleted && at(r.Read).After(last.At)
	return described(r)
}

// toldByDated reports whether a report is of an event without a date that may be the same fact as one with a date, or an older
// one: it may be as old as Codat's retries, and so counts only if it is newer even then.
func toldByDated(reports []state.ConnectionChange, c state.ConnectionChange) bool {
	return kindOf(c) == kindUndated && slices.ContainsFunc(reports, func(d state.ConnectionChange) bool {
		return kindOf(d) == kindDated && !c.At.Before(d.At.Add(-clockSkew)) && !c.At.After(d.At.Add(retryPeriod))
	})
}

// same reports whether two reports say the same of a connection. A deletion has the status of before, or none.
func same(a, b state.ConnectionChange) bool {
	return a.Deleted && b.Deleted || a.Deleted == b.Deleted && a.Status == b.Status
}

// described returns the record with what its newest facts say beside the status.
func described(r state.Connection) state.Connection {
	facts := slices.DeleteFunc([]*state.ConnectionFact{r.Dated, r.Undated, r.Asked}, func(f *state.ConnectionFact) bool { return f == nil })
	slices.SortStableFunc(facts, func(a, b *state.ConnectionFact) int { return at(b).Compare(at(a)) })
	r.Platform, r.PlatformName, r.SourceType = "", "", ""
	for _, f := range facts {
		r.Platform = cmp.Or(r.Platform, f.Platform)
		r.PlatformName = cmp.Or(r.PlatformName, f.PlatformName)
		r.SourceType = cmp.Or(r.SourceType, f.SourceType)
	}
	if r.Asked != nil {
		r.Reconciled = r.Asked.Received
	}
	return r
}

// Store writes the records of one source. The zero Store is enough for the Spec of a Worker.
type Store struct{ bucket jetstream.KeyValue }

// add adds a fact to a connection's record. Adding it again changes nothing. Its errors are those of workers.UpdateRecord,
// and a permanent one for ids that no key can have.
func (s Store) add(ctx context.Context, company, connection string, f state.ConnectionFact) error {
	key, err := state.ConnectionKey(company, connection)
	if err != nil {
		return workers.Permanent(err)
	}
	return workers.UpdateRecord(ctx, s.bucket, key, func(r state.Connection) state.Connection {
		r.Company, r.Connection = company, connection
		return with(r, f)
	})
}
