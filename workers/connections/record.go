// Package connections is the worker that keeps the state of every connection of every company in a KV bucket, whose
// records package state describes and reads. A record depends on which events arrived and not on their order: an event
// that arrives late, twice or from a replay changes nothing that newer events have said.
package connections

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/workers"
)

// Name is the worker's name.
const Name = "connections"

// retryPeriod is how long Codat retries an event: an event without a date was generated at most this long before its
// arrival.
const retryPeriod = 28 * time.Hour

// at returns when the fact was true: when Codat generated the event, or when it was received.
func at(f *state.ConnectionFact) time.Time {
	if f.Generated.IsZero() {
		return f.Received
	}
	return f.Generated
}

// newer reports whether f is newer than g, a fact of the same kind: by time, and then by the place in the stream. Every
// fact is newer than nil.
func newer(f, g *state.ConnectionFact) bool {
	if g == nil {
		return true
	}
	if a, b := at(f), at(g); !a.Equal(b) {
		return a.After(b)
	}
	return f.Sequence > g.Sequence
}

// with returns the record with one more fact. It depends on the set of facts and not on their order.
func with(r state.Connection, f state.ConnectionFact) state.Connection {
	kind := &r.Dated
	switch {
	case strings.Contains(f.Type, "read.completed"):
		kind = &r.Read
	case f.Generated.IsZero():
		kind = &r.Undated
	}
	if newer(&f, *kind) {
		*kind = &f
	}

	// An event without a date may be as old as Codat's retries: it counts only if it is newer even then.
	status := r.Dated
	if r.Undated != nil && (r.Dated == nil || r.Undated.Received.After(r.Dated.Generated.Add(retryPeriod))) {
		status = r.Undated
	}
	if status != nil {
		r.Status, r.Deleted, r.Changed = status.Status, status.Deleted, at(status)
		r.Platform, r.PlatformName, r.SourceType = status.Platform, status.PlatformName, status.SourceType
	}
	r.Suspect = r.Read != nil && r.Read.AuthError && !r.Deleted && at(r.Read).After(r.Changed)
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
