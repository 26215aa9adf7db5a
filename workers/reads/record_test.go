package reads

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func hour(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }

// current is a fact of a current event, generated at a time and received a second later.
func current(status codat.DatasetStatus, modified bool, t time.Time) state.ReadFact {
	return state.ReadFact{Type: "read.completed", Status: status, RecordsModified: modified, Generated: t, Received: t.Add(time.Second)}
}

// initial is the fact of a first read, of which Codat says that it changed nothing.
func initial(t time.Time) state.ReadFact {
	f := current(codat.DatasetComplete, false, t)
	f.Type, f.First = "read.completed.initial", true
	return f
}

// legacy is a fact of a legacy event, which was received at a time.
func legacy(status codat.DatasetStatus, modified bool, dataset string, t time.Time) state.ReadFact {
	return state.ReadFact{Type: "DataSyncCompleted", Status: status, RecordsModified: modified, Dataset: dataset, Received: t}
}

// fold adds facts to a record that is stored in between.
func fold(t interface{ Fatal(...any) }, facts []state.ReadFact) state.Read {
	r := state.Read{Company: "c", Connection: "k", DataType: codat.DataBills}
	for _, f := range facts {
		stored, err := json.Marshal(with(r, f))
		if err != nil {
			t.Fatal(err)
		}
		r = state.Read{}
		if err := json.Unmarshal(stored, &r); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// said returns what a record says, without the events that say it.
func said(r state.Read) state.Read {
	r.Company, r.Connection, r.DataType, r.WebhookID, r.Facts = "", "", "", "", nil
	return r
}

func TestWith_FollowsFromTheNewestFacts(t *testing.T) {
	const complete, failed = codat.DatasetComplete, codat.DatasetFetchError
	ahead := current(complete, true, hour(100))
	ahead.Received = hour(1)
	issues := current(complete, false, hour(1))
	issues.Issues = map[string]int{"warning.validation": 2}
	for _, tt := range []struct {
		name  string
		facts []state.ReadFact
		want  state.Read
	}{
		{"a success", []state.ReadFact{current(complete, true, hour(1))}, state.Read{Status: complete, LastRead: hour(1), LastSuccess: hour(1), LastModified: hour(1), RecordsModified: true}},
		{"a failure keeps the last success", []state.ReadFact{current(failed, false, hour(2)), current(complete, true, hour(1))}, state.Read{Status: failed, LastRead: hour(2), LastSuccess: hour(1), LastModified: hour(1)}},
		{"a read without changes keeps when records were changed", []state.ReadFact{current(complete, true, hour(1)), current(complete, false, hour(2))}, state.Read{Status: complete, LastRead: hour(2), LastSuccess: hour(2), LastModified: hour(1)}},
		{"a late failure changes nothing", []state.ReadFact{current(complete, false, hour(2)), current(failed, false, hour(1))}, state.Read{Status: complete, LastRead: hour(2), LastSuccess: hour(2)}},
		{"a status that Codat adds is no success", []state.ReadFact{current("Novel", false, hour(1))}, state.Read{Status: "Novel", LastRead: hour(1)}},
		{"the issues are those of the last read", []state.ReadFact{issues, current(complete, false, hour(0))}, state.Read{Status: complete, LastRead: hour(1), LastSuccess: hour(1), Issues: map[string]int{"warning.validation": 2}}},
		{"and end with the next", []state.ReadFact{issues, current(complete, false, hour(2))}, state.Read{Status: complete, LastRead: hour(2), LastSuccess: hour(2)}},
		{"a first read has changed records", []state.ReadFact{initial(hour(1))}, state.Read{Status: complete, LastRead: hour(1), LastSuccess: hour(1), LastModified: hour(1), First: true, RecordsModified: true}},
		{"also when its other event says no", []state.ReadFact{initial(hour(1)), current(complete, false, hour(1).Add(time.Second))}, state.Read{Status: complete, LastRead: hour(1).Add(time.Second), LastSuccess: hour(1).Add(time.Second), LastModified: hour(1), First: true, RecordsModified: true}},
		{"the second read is not the first", []state.ReadFact{initial(hour(1)), current(complete, false, hour(2))}, state.Read{Status: complete, LastRead: hour(2), LastSuccess: hour(2), LastModified: hour(1)}},
		{"it is again after another link", []state.ReadFact{initial(hour(1)), current(complete, false, hour(2)), initial(hour(3))}, state.Read{Status: complete, LastRead: hour(3), LastSuccess: hour(3), LastModified: hour(3), First: true, RecordsModified: true}},
		{"a date in the future is not believed", []state.ReadFact{ahead, current(failed, false, hour(2))}, state.Read{Status: failed, LastRead: hour(2), LastSuccess: hour(1), LastModified: hour(1)}},

		{"legacy events go by their arrival", []state.ReadFact{legacy(failed, false, "2", hour(2)), legacy(complete, false, "1", hour(1))}, state.Read{Status: failed, LastRead: hour(2), LastSuccess: hour(1)}},
		{"two of one read say one thing", []state.ReadFact{legacy(complete, true, "1", hour(1)), legacy(complete, false, "1", hour(2))}, state.Read{Status: complete, LastRead: hour(2), LastSuccess: hour(2), LastModified: hour(1), RecordsModified: true}},
		{"two of two reads do not", []state.ReadFact{legacy(complete, true, "1", hour(1)), legacy(complete, false, "2", hour(2))}, state.Read{Status: complete, LastRead: hour(2), LastSuccess: hour(2), LastModified: hour(1)}},
		{"nor do two without a dataset", []state.ReadFact{legacy(complete, true, "", hour(1)), legacy(complete, false, "", hour(2))}, state.Read{Status: complete, LastRead: hour(2), LastSuccess: hour(2), LastModified: hour(1)}},
		{"a legacy one never overwrites a current one of the last 28 hours", []state.ReadFact{current(failed, false, hour(0)), legacy(complete, true, "1", hour(28))}, state.Read{Status: failed, LastRead: hour(0)}},
		{"but it does an older one", []state.ReadFact{current(failed, false, hour(0)), legacy(complete, true, "1", hour(29))}, state.Read{Status: complete, LastRead: hour(29), LastSuccess: hour(29), LastModified: hour(29), RecordsModified: true}},
		{"no success is later than the last read", []state.ReadFact{current(complete, false, hour(0)), current(failed, false, hour(40)), legacy(complete, false, "1", hour(41))}, state.Read{Status: failed, LastRead: hour(40), LastSuccess: hour(0)}},
		{"a success between is known of the legacy one", []state.ReadFact{current(complete, false, hour(0)), current(failed, false, hour(40)), legacy(complete, false, "1", hour(39))}, state.Read{Status: failed, LastRead: hour(40), LastSuccess: hour(39)}},
	} {
		for i := range tt.facts {
			tt.facts[i].Sequence = uint64(i + 1)
		}
		if diff := cmp.Diff(tt.want, said(fold(t, tt.facts))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// numbered gives each fact an event of its own.
func numbered(facts []state.ReadFact) []state.ReadFact {
	for i := range facts {
		facts[i].Sequence, facts[i].WebhookID = uint64(i+1), fmt.Sprintf("msg_%d", i)
	}
	return facts
}

// statuses are what a read can end with in a property test.
var statuses = rapid.SampledFrom([]codat.DatasetStatus{"", codat.DatasetComplete, codat.DatasetFetchError, codat.DatasetAuthError, "Novel"})

// anyFact draws facts of all kinds, within three days.
var anyFact = rapid.Custom(func(t *rapid.T) state.ReadFact {
	when := noon.Add(time.Duration(rapid.IntRange(0, 72*20).Draw(t, "3 minutes")) * 3 * time.Minute)
	status, modified := statuses.Draw(t, "status"), rapid.Bool().Draw(t, "modified")
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return legacy(status, modified, rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "dataset"), when)
	case 1:
		return initial(when)
	case 2:
		f := current(status, modified, when)
		f.Received = when.Add(time.Duration(rapid.IntRange(-48, 28).Draw(t, "later")) * time.Hour)
		return f
	}
	f := current(status, modified, when)
	f.Issues = map[string]int{"warning": rapid.IntRange(1, 3).Draw(t, "issues")}
	return f
})

// again draws the facts in another order, with some of them repeated, as a replay and a second delivery repeat them.
func again(t *rapid.T, facts []state.ReadFact) []state.ReadFact {
	order := rapid.Permutation(facts).Draw(t, "order")
	for _, f := range rapid.SliceOf(rapid.SampledFrom(facts)).Draw(t, "repeated") {
		at := rapid.IntRange(0, len(order)).Draw(t, "at")
		order = append(order[:at:at], append([]state.ReadFact{f}, order[at:]...)...)
	}
	return order
}

// The record is a function of the set of facts: it depends neither on their order nor on repetitions, also when it is
// stored in between. It keeps no more than the newest facts of four kinds, with and without a date.
func TestWith_DoesNotDependOnTheOrderOfFacts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts := numbered(rapid.SliceOfN(anyFact, 1, 16).Draw(t, "facts"))
		want := fold(t, facts)
		if diff := cmp.Diff(want, fold(t, again(t, facts))); diff != "" {
			t.Fatalf("another order gives another record (-one +other):\n%s", diff)
		}
		if len(want.Facts) > 8 || want.LastSuccess.After(want.LastRead) || want.LastModified.After(want.LastRead) {
			t.Fatalf("the record has %d facts, or something later than its last read: %+v", len(want.Facts), said(want))
		}
	})
}

// A service subscribes to the current and to the legacy types, as while it changes from these to those. Each read is told by a
// current event, and by one or two legacy ones with other ids, up to 28 hours later. The record says what it says without
// the legacy ones, in any order, so that each read changes the state once.
func TestWith_LegacyAndCurrentEventsOfOneReadAreOneRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var currents, all []state.ReadFact
		for n := range rapid.IntRange(1, 6).Draw(t, "reads") {
			when := noon.Add(time.Duration(rapid.IntRange(0, 72*20).Draw(t, "3 minutes")) * 3 * time.Minute)
			f := current(statuses.Draw(t, "status"), rapid.Bool().Draw(t, "modified"), when)
			if rapid.Bool().Draw(t, "first") {
				f = initial(when)
			}
			f.WebhookID, f.Sequence = fmt.Sprintf("msg_current_%d", n), uint64(10*n+1)
			currents, all = append(currents, f), append(all, f)
			for i := range rapid.IntRange(1, 2).Draw(t, "legacy events") {
				g := legacy(f.Status, f.RecordsModified && i == 0, fmt.Sprint(n), when.Add(time.Duration(rapid.IntRange(0, 28*60).Draw(t, "minutes later"))*time.Minute))
				g.WebhookID, g.Sequence = fmt.Sprintf("msg_legacy_%d_%d", n, i), uint64(10*n+2+i)
				all = append(all, g)
			}
		}
		want, got := fold(t, currents), fold(t, again(t, all))
		if diff := cmp.Diff(said(want), said(got)); diff != "" || want.WebhookID != got.WebhookID {
			t.Fatalf("the record follows from %s and not %s (-current +both):\n%s", got.WebhookID, want.WebhookID, diff)
		}
	})
}

// Of current events that were received after they were generated, the record is what a look at all of them says.
func TestWith_SaysWhatAllFactsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts := numbered(rapid.SliceOfN(anyFact.Filter(func(f state.ReadFact) bool {
			return !f.Generated.IsZero() && !f.Generated.After(f.Received)
		}), 1, 12).Draw(t, "facts"))
		var want state.Read
		var linked time.Time
		for _, f := range facts { // a later one of the same time counts
			if !f.Generated.Before(want.LastRead) {
				want.LastRead, want.Status, want.Issues, want.RecordsModified = f.Generated, f.Status, f.Issues, f.RecordsModified
			}
			if f.Status == codat.DatasetComplete && f.Generated.After(want.LastSuccess) {
				want.LastSuccess = f.Generated
			}
			if (f.RecordsModified || f.First) && f.Generated.After(want.LastModified) {
				want.LastModified = f.Generated
			}
			if f.First && f.Generated.After(linked) {
				linked = f.Generated
			}
		}
		if !linked.IsZero() && want.LastRead.Sub(linked) <= oneRead {
			want.First, want.RecordsModified = true, true
		}
		if diff := cmp.Diff(want, said(fold(t, again(t, facts)))); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}
