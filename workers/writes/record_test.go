package writes

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

func TestWith_FollowsFromTheFurthestStatus(t *testing.T) {
	type facts []struct {
		status codat.PushStatus
		legacy bool
	}
	const current, legacy = false, true
	for _, tt := range []struct {
		name  string
		facts facts
		want  codat.PushStatus
	}{
		{"one", facts{{codat.Success, current}}, codat.Success},
		{"a success stays", facts{{codat.Success, current}, {codat.Failed, current}, {codat.TimedOut, legacy}, {codat.Pending, legacy}}, codat.Success},
		{"a late pending changes nothing", facts{{codat.Failed, current}, {codat.Pending, legacy}}, codat.Failed},
		{"what timed out can succeed", facts{{codat.TimedOut, current}, {codat.Success, legacy}}, codat.Success},
		{"what timed out can fail", facts{{codat.TimedOut, legacy}, {codat.Failed, current}}, codat.Failed},
		{"an unknown status is no outcome", facts{{"Novel", current}, {codat.Pending, legacy}}, "Novel"},
		{"an unknown status replaces no outcome", facts{{codat.TimedOut, current}, {"Novel", current}}, codat.TimedOut},
	} {
		r := state.Write{PushOperationKey: "key"}
		for i, f := range tt.facts {
			r = with(r, state.WriteFact{Status: f.status, Sequence: uint64(i + 1)}, f.legacy)
		}
		if r.Status != tt.want {
			t.Errorf("%s: the status is %q; want %q", tt.name, r.Status, tt.want)
		}
	}
}

// A legacy event has neither kind nor record: a current one of the same write has them, whichever decides the status.
func TestWith_TakesWhatALegacyEventLacksFromACurrentOne(t *testing.T) {
	timedOut := state.WriteFact{
		Type: "directCosts.write.unsuccessful", Sequence: 1, Status: codat.TimedOut, Company: "company", Connection: "connection",
		DataType: "directCosts", Kind: codat.WriteCreate, Requested: noon,
	}
	success := state.WriteFact{Type: "PushOperationStatusChanged", Sequence: 2, Status: codat.Success, Company: "company", DataType: "directCosts"}
	want := state.Write{
		PushOperationKey: "key", Status: codat.Success, Company: "company", Connection: "connection", DataType: "directCosts",
		Kind: codat.WriteCreate, Requested: noon, Current: &timedOut, Legacy: &success,
	}
	got := with(with(state.Write{PushOperationKey: "key"}, timedOut, false), success, true)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The record is a function of the set of facts: it depends neither on their order nor on repetitions, also when it is
// stored in between.
func TestWith_DoesNotDependOnTheOrderOfFacts(t *testing.T) {
	type said struct {
		state.WriteFact
		by string
	}
	add := func(r state.Write, f said) state.Write {
		switch f.by {
		case "api":
			return withAnswer(r, f.WriteFact)
		case "mark":
			return withOverdue(r, f.Completed)
		}
		return with(r, f.WriteFact, f.by == "legacy")
	}
	fact := rapid.Custom(func(t *rapid.T) said {
		return said{state.WriteFact{
			Status:     rapid.SampledFrom([]codat.PushStatus{codat.Pending, codat.TimedOut, codat.Failed, codat.Success, "Novel"}).Draw(t, "status"),
			Connection: rapid.SampledFrom([]string{"", "connection"}).Draw(t, "connection"),
			Record:     rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "record"),
			Completed:  noon.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "hour")) * time.Hour),
		}, rapid.SampledFrom([]string{"current", "legacy", "api", "mark"}).Draw(t, "by")}
	})
	rapid.Check(t, func(t *rapid.T) {
		facts := rapid.SliceOfN(fact, 1, 12).Draw(t, "facts")
		for i := range facts {
			facts[i].Sequence, facts[i].WebhookID = uint64(i+1), fmt.Sprintf("msg_%d", i)
		}
		fold := func(facts []said) (r state.Write) {
			r.PushOperationKey = "key"
			for _, f := range facts {
				stored, err := json.Marshal(add(r, f))
				if err != nil {
					t.Fatal(err)
				}
				r = state.Write{}
				if err := json.Unmarshal(stored, &r); err != nil {
					t.Fatal(err)
				}
			}
			return r
		}
		other := rapid.Permutation(append(facts, facts[0], facts[len(facts)-1])).Draw(t, "other order")
		if diff := cmp.Diff(fold(facts), fold(other)); diff != "" {
			t.Fatalf("the record depends on the order (-one +other):\n%s", diff)
		}
	})
}

func TestNewest_DoesNotDependOnTheOrderOfQuotas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var quotas []state.Quota
		for i := range rapid.IntRange(1, 8).Draw(t, "quotas") {
			q := state.Quota{Exhausted: rapid.Bool().Draw(t, "exhausted"), Received: noon.Add(time.Duration(i) * time.Minute), Sequence: uint64(i + 1)}
			if rapid.Bool().Draw(t, "dated") {
				q.Generated = noon.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "hour")) * time.Hour)
			}
			quotas = append(quotas, q)
		}
		fold := func(quotas []state.Quota) (q state.Quota) {
			for _, other := range quotas {
				q = newest(q, other)
			}
			return q
		}
		other := rapid.Permutation(append(quotas, quotas[0])).Draw(t, "other order")
		if diff := cmp.Diff(fold(quotas), fold(other)); diff != "" {
			t.Fatalf("the quota depends on the order (-one +other):\n%s", diff)
		}
	})
}
