package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// A NewestQuery chooses stored events, without redrives and the quarantine. A zero field chooses all.
type NewestQuery struct {
	Type                codat.Pattern
	Company, Connection string
	// Since and Until bound the time of storage; Until is exclusive.
	Since, Until time.Time
	// Before chooses only events with a lower sequence.
	Before uint64
	// Keep chooses among the events of a range, which are newest first; nil: all.
	Keep func(context.Context, []Event) ([]Event, error)
	// Limit is how many events are wanted; it must be positive.
	Limit int
	// Look bounds how many messages are read; it must be positive.
	Look uint64
}

// A NewestPage are events, newest first.
type NewestPage struct {
	Events []Event
	// Looked is how many sequences were looked at, in the stream or in the index, and Oldest when the oldest event among them was received; zero without one.
	Looked uint64
	Oldest time.Time
	// Next is Before of the query for what follows, and 0 when there is no more.
	Next uint64

	stored time.Time // when the oldest message that was looked at was stored
}

// firstLook and largestLook are how many sequences are read at once.
const (
	firstLook   = 128
	largestLook = 4096
)

// Newest returns the newest events that a query chooses. The index of headgate watch, when one answers, tells where those of a company
// or a connection are, unless the query has Until. The stream is read backwards in ranges where the index does not tell. Newest ends when
// it has found enough or has looked at as much as it may: then Next says where to go on. It needs the permissions of FindEvents.
func Newest(ctx context.Context, js jetstream.JetStream, s stream.Source, q NewestQuery) (NewestPage, error) {
	st, err := js.Stream(ctx, s.Stream())
	if err != nil {
		return NewestPage{}, fmt.Errorf("stream %s: %w", s.Stream(), err)
	}
	var found NewestPage
	state := st.CachedInfo().State
	first, through := max(state.FirstSeq, 1), state.LastSeq
	if q.Before != 0 {
		through = min(through, q.Before-1)
	}
	if q.Type == "" {
		q.Type = ">"
	}
	if through, err = q.end(ctx, js, s, through); err != nil {
		return found, err
	}
	rest := span{after: first - 1, through: through}
	complete, err := q.ask(ctx, js, s, &rest, &found)
	if complete || err != nil {
		return found, err
	}
	through = rest.through
	for size := uint64(firstLook); through >= first && found.Looked < q.Look; size = min(2*size, largestLook) {
		after := through - min(size, through-first+1)
		some, err := q.read(ctx, js, s, stream.ReadOptions{After: after, Through: through}, &found)
		if err != nil {
			return found, err
		}
		through = after
		if q.Keep != nil && len(some) > 0 {
			if some, err = q.Keep(ctx, some); err != nil {
				return found, err
			}
		}
		if found.Events = append(found.Events, some...); len(found.Events) >= q.Limit {
			found.cut(q.Limit, through >= first)
			return found, nil
		}
		if !found.stored.IsZero() && found.stored.Before(q.Since.Add(-clockStep)) {
			return found, nil
		}
	}
	if through >= first {
		found.Next = through + 1
	}
	return found, nil
}

// cut ends a page that is full; more says that older sequences have not been looked at.
func (p *NewestPage) cut(limit int, more bool) {
	if len(p.Events) > limit || more {
		p.Events = p.Events[:limit]
		p.Next = p.Events[limit-1].Sequence
	}
}

// ask adds the events of a company or a connection that the index tells of, and leaves in rest what is to be read from the stream. It
// reports whether the page is complete.
func (q NewestQuery) ask(ctx context.Context, js jetstream.JetStream, s stream.Source, rest *span, page *NewestPage) (complete bool, err error) {
	id := cmp.Or(q.Connection, q.Company)
	if id == "" || !q.Until.IsZero() {
		return false, nil
	}
	newest := rest.through
	for read := uint64(0); rest.through > rest.after; {
		matches, all, err := askSome(ctx, js, s, Search{ID: id, Since: q.Since, Before: rest.through + 1, Limit: q.Limit})
		if err != nil {
			return false, err
		}
		var some []Event
		for _, m := range matches {
			rest.through, page.Oldest = m.Sequence-1, m.Time
			if m.Redrive == "" && m.Subject == s.EventFilter(codat.Pattern(m.Type)) && q.holds(m.Event) {
				some = append(some, m.Event)
			}
		}
		if page.Looked = newest - rest.through; q.Keep != nil && len(some) > 0 {
			if some, err = q.Keep(ctx, some); err != nil {
				return false, err
			}
		}
		page.Events = append(page.Events, some...)
		switch full := len(page.Events) >= q.Limit; {
		case all && len(matches) < q.Limit:
			page.Looked = newest - rest.after
			if full {
				page.cut(q.Limit, false)
			}
			return true, nil
		case full:
			page.cut(q.Limit, rest.through > rest.after)
			return true, nil
		case !all:
			return false, nil
		}
		if read += uint64(len(matches)); read >= q.Look {
			page.Next = rest.through + 1
			return true, nil
		}
	}
	return newest > rest.after, nil
}

// askSome returns what a search finds without reading the stream for what no index knows, and whether there is no more of it than the
// limit of the search.
func askSome(ctx context.Context, js jetstream.JetStream, s stream.Source, q Search) (matches []Match, all bool, err error) {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	all = true
	q.Scanning = func(string) { all = false; stop() }
	err = FindEvents(asking, js, s, q, func(m Match) error { matches = append(matches, m); return nil })
	if !all && ctx.Err() == nil {
		err = nil
	}
	return matches, all, err
}

// holds reports whether an event is one of the query's type, company and connection.
func (q NewestQuery) holds(e Event) bool {
	return q.Type.Match(e.Type) && (q.Company == "" || e.Company == q.Company) && (q.Connection == "" || e.Connection == q.Connection)
}

// end is the last sequence that can be before Until.
func (q NewestQuery) end(ctx context.Context, js jetstream.JetStream, s stream.Source, through uint64) (uint64, error) {
	if q.Until.IsZero() {
		return through, nil
	}
	n, err := stream.SequenceAt(ctx, js, s.Stream(), q.Until.Add(clockStep))
	if err != nil || n == 0 {
		return through, err
	}
	return min(through, n-1), nil
}

// read reads the events between two sequences that the query chooses but for Keep, newest first.
func (q NewestQuery) read(ctx context.Context, js jetstream.JetStream, s stream.Source, o stream.ReadOptions, page *NewestPage) (some []Event, err error) {
	oldest := true
	o.Filters = []string{s.EventFilter(q.Type)}
	_, err = stream.Read(ctx, js, s.Stream(), o, func(m *jetstream.RawStreamMsg) error {
		e := NewEvent(s, m)
		if oldest {
			page.Oldest, page.stored, oldest = e.Time, m.Time, false
		}
		if q.holds(e) && !m.Time.Before(q.Since) && (q.Until.IsZero() || m.Time.Before(q.Until)) {
			some = append(some, e)
		}
		return nil
	})
	page.Looked += o.Through - o.After
	slices.Reverse(some)
	return some, err
}

// Handlings returns what became of each event in each worker, in the order of the events and of the workers' names. It needs the
// permissions of stream.Last on the buckets of claims.
func Handlings(ctx context.Context, js jetstream.JetStream, s stream.Source, events []Event) ([][]Handling, error) {
	workers, err := stream.Workers(ctx, js, s)
	if err != nil {
		return nil, err
	}
	records := make([]map[string]claims.Record, len(workers)) // of each worker, by subject
	var reading errgroup.Group
	reading.SetLimit(concurrentRequests)
	for i, w := range workers {
		reading.Go(func() (err error) { records[i], err = claimsOn(ctx, js, s, w.Name, events); return err })
	}
	if err := reading.Wait(); err != nil {
		return nil, err
	}
	all := make([][]Handling, len(events))
	for i, e := range events {
		for n, w := range workers {
			r, claimed := records[n][claimSubject(s, w.Name, e)]
			all[i] = append(all[i], handlingOf(w, e, r, claimed))
		}
	}
	return all, nil
}

func claimSubject(s stream.Source, worker string, e Event) string {
	return "$KV." + s.ClaimsBucket(worker) + "." + claims.Key{WebhookID: e.WebhookID, Redrive: e.Redrive}.String()
}

// claimsOn reads the claims of a worker on events, by their subjects. A worker without a bucket keeps its claims elsewhere.
func claimsOn(ctx context.Context, js jetstream.JetStream, s stream.Source, worker string, events []Event) (map[string]claims.Record, error) {
	subjects := make([]string, len(events))
	for i, e := range events {
		subjects[i] = claimSubject(s, worker, e)
	}
	slices.Sort(subjects)
	found := map[string]claims.Record{}
	err := stream.Last(ctx, js, bucketStream(s.ClaimsBucket(worker)), slices.Compact(subjects), func(m *jetstream.RawStreamMsg) error {
		if m.Header.Get("KV-Operation") != "" { // deleted by hand
			return nil
		}
		var r claims.Record
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return fmt.Errorf("a claim of %s cannot be read: a newer version of the worker may have written it: %w", worker, err)
		}
		found[m.Subject] = r
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = nil
	}
	return found, err
}
