// Package reads is the worker that keeps, in a KV bucket, when Codat last read each data type over each connection, and how that
// ended. Package state describes and reads the records. A record depends on which events arrived and not on their order: an
// event that arrives late, twice or from a replay changes nothing that newer events have said.
package reads

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

// Name is the worker's name.
const Name = "reads"

const (
	// retryPeriod is how long Codat retries an event: an event without a date was generated at most this long before its
	// arrival.
	retryPeriod = 28 * time.Hour
	// oneRead is the time within which Codat generates all events of one read. Of a first one, one event says that it is the
	// first, and others, such as that of its product, do not.
	oneRead = 5 * time.Minute
)

// compare orders facts by time, and then by their place in the stream.
func compare(a, b state.ReadFact) int {
	return cmp.Or(a.Time().Compare(b.Time()), cmp.Compare(a.Sequence, b.Sequence), strings.Compare(a.WebhookID, b.WebhookID))
}

// sameEvent reports whether one event says both facts.
func sameEvent(a, b state.ReadFact) bool {
	return a.Sequence == b.Sequence && a.WebhookID == b.WebhookID
}

// The kinds of facts of which a record keeps the newest.
func anyRead(state.ReadFact) bool       { return true }
func successful(f state.ReadFact) bool  { return f.Status == codat.DatasetComplete }
func modifying(f state.ReadFact) bool   { return f.RecordsModified || f.First }
func firstOfLink(f state.ReadFact) bool { return f.First }

// with returns the record with one more fact. It depends on the set of facts and not on their order.
func with(r state.Read, f state.ReadFact) state.Read {
	facts := append(slices.Clone(r.Facts), f)
	r = state.Read{Company: r.Company, Connection: r.Connection, DataType: r.DataType}
	pick := func(kind func(state.ReadFact) bool) *state.ReadFact {
		dated, undated := newest(facts, kind)
		for _, f := range []*state.ReadFact{dated, undated} {
			if f != nil {
				r.Facts = append(r.Facts, *f)
			}
		}
		return chosen(dated, undated, r.LastRead)
	}
	last := pick(anyRead)
	r.Status, r.LastRead, r.WebhookID, r.Issues = last.Status, last.Time(), last.WebhookID, last.Issues
	if f := pick(successful); f != nil {
		r.LastSuccess = f.Time()
	}
	if f := pick(modifying); f != nil {
		r.LastModified = f.Time()
	}
	if f := pick(firstOfLink); f != nil {
		r.First = !r.LastRead.After(f.Time().Add(oneRead))
	}
	slices.SortFunc(r.Facts, compare)
	r.Facts = slices.CompactFunc(r.Facts, sameEvent)
	r.RecordsModified = r.First || slices.ContainsFunc(r.Facts, func(f state.ReadFact) bool {
		// Of a read that changed records there are two legacy events, of which one says so.
		return f.RecordsModified && (sameEvent(f, *last) || f.Dataset != "" && f.Dataset == last.Dataset)
	})
	return r
}

// newest returns the newest fact of a kind with a date, and the newest without one; nil without one.
func newest(facts []state.ReadFact, kind func(state.ReadFact) bool) (dated, undated *state.ReadFact) {
	for i, f := range facts {
		of := &dated
		if f.Generated.IsZero() {
			of = &undated
		}
		if kind(f) && (*of == nil || compare(f, **of) > 0) {
			*of = &facts[i]
		}
	}
	return dated, undated
}

// chosen returns which of the newest facts of a kind counts, nil for none. An event without a date may be as old as Codat's
// retries: beside one with a date it counts only if it is newer even then. Nothing is later than the last read, unless that
// is zero.
func chosen(dated, undated *state.ReadFact, lastRead time.Time) *state.ReadFact {
	if undated == nil || !lastRead.IsZero() && undated.Received.After(lastRead) {
		return dated
	}
	if dated != nil && !undated.Received.After(dated.Time().Add(retryPeriod)) {
		return dated
	}
	return undated
}
