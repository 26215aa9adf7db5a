// Package writes is the worker that keeps, in KV buckets, what became of every write that was pushed to an accounting
// platform, and what is left of the client's quota. Package state describes and reads the records. A record depends on
// which events arrived and not on their order: an event that arrives late, twice or from a replay changes nothing that
// newer events have said.
package writes

import (
	"cmp"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

// Name is the worker's name.
const Name = "writes"

// rank orders the states of a write: a later one replaces an earlier one. A status that Codat adds is no outcome that we know.
func rank(s codat.PushStatus) int {
	switch s {
	case codat.Success:
		return 4
	case codat.Failed:
		return 3
	case codat.TimedOut:
		return 2
	case codat.Pending:
		return 0
	}
	return 1
}

// further reports whether f says more than g of the same write: a later status, or the same one first. Every fact is further
// than nil.
func further(f, g *state.WriteFact) bool {
	if g == nil {
		return true
	}
	if a, b := rank(f.Status), rank(g.Status); a != b {
		return a > b
	}
	return f.Sequence < g.Sequence
}

// with returns the record with one more fact of an event of the current or legacy types. It depends on the set of facts and
// not on their order.
func with(r state.Write, f state.WriteFact, legacy bool) state.Write {
	if legacy {
		r.Legacy = furthest(r.Legacy, &f)
	} else {
		r.Current = furthest(r.Current, &f)
	}
	return derived(r)
}

// withAnswer returns the record with one more answer of Codat's API, as with does.
func withAnswer(r state.Write, f state.WriteFact) state.Write {
	r.Asked = furthest(r.Asked, &f)
	return derived(r)
}

func furthest(kept, f *state.WriteFact) *state.WriteFact {
	if further(f, kept) {
		return f
	}
	return kept
}

// derived returns the record that follows from the furthest fact of each kind. A field comes from the fact with the furthest
// status that has it; of those with the same status an answer of the API says most, and a legacy event least. An outcome
// ends the mark that the write is overdue.
func derived(from state.Write) state.Write {
	r := state.Write{
		PushOperationKey: from.PushOperationKey, Plan: from.Plan, Step: from.Step,
		Current: from.Current, Legacy: from.Legacy, Asked: from.Asked,
	}
	facts := slices.DeleteFunc([]*state.WriteFact{r.Asked, r.Current, r.Legacy}, func(f *state.WriteFact) bool { return f == nil })
	slices.SortStableFunc(facts, func(a, b *state.WriteFact) int { return cmp.Compare(rank(b.Status), rank(a.Status)) })
	r.Status = facts[0].Status
	if !ended(r.Status) {
		r.Overdue = from.Overdue
	}
	for _, f := range facts {
		r.Company = cmp.Or(r.Company, f.Company)
		r.Connection = cmp.Or(r.Connection, f.Connection)
		r.DataType = cmp.Or(r.DataType, f.DataType)
		r.Kind = cmp.Or(r.Kind, f.Kind)
		r.Requested = orElse(r.Requested, f.Requested)
		r.Completed = orElse(r.Completed, f.Completed)
		r.Record = cmp.Or(r.Record, f.Record)
		r.Attachment = cmp.Or(r.Attachment, f.Attachment)
		if f.Status == r.Status && r.Reason == nil {
			r.Reason = f.Reason
		}
	}
	return r
}

// orElse returns a, or b when a is zero.
func orElse(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// newest returns the newer of two quotas: by the time of their events, and then by their place in the stream.
func newest(a, b state.Quota) state.Quota {
	at := func(q state.Quota) time.Time { return orElse(q.Generated, q.Received) }
	switch c := at(a).Compare(at(b)); {
	case c > 0, c == 0 && a.Sequence > b.Sequence:
		return a
	}
	return b
}
