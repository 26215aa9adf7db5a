package inspect

import (
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
	// Look bounds how many sequences are looked at; it must be positive.
	Look uint64
}

// A NewestPage are events, newest first.
type NewestPage struct {
	Events []Event
	// Looked is how many sequences were looked at, and Oldest when the oldest event among them was received; zero without one.
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

// Newest returns the newest events that a query chooses. It reads the stream backwards in ranges, and ends when it has found enough or
// has looked at as much as it may: then Next says where to go on. It needs the permissions of stream.Read.
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
			if len(found.Events) > q.Limit || through >= first {
				found.Events = found.Events[:q.Limit]
				found.Next = found.Events[q.Limit-1].Sequence
			}
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
		if (q.Company == "" || e.Company == q.Company) && (q.Connection == "" || e.Connection == q.Connection) &&
			!m.Time.Before(q.Since) && (q.Until.IsZero() || m.Time.Before(q.Until)) {
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
