package connections

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

// dated is a fact that was generated and received at a time.
func dated(typ string, status codat.ConnectionStatus, at time.Time) state.ConnectionFact {
	return state.ConnectionFact{Type: typ, Status: status, Generated: at, Received: at.Add(time.Second), Deleted: typ == "connection.deleted"}
}

// undated is a legacy fact that was received at a time.
func undated(status codat.ConnectionStatus, at time.Time) state.ConnectionFact {
	return state.ConnectionFact{Type: "DataConnectionStatusChanged", Status: status, Received: at}
}

func readAt(authError bool, at time.Time) state.ConnectionFact {
	return state.ConnectionFact{Type: "read.completed", AuthError: authError, Generated: at, Received: at}
}

func TestWith_FollowsFromTheNewestFacts(t *testing.T) {
	hour := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	for _, tt := range []struct {
		name  string
		facts []state.ConnectionFact
		want  state.Connection
	}{
		{"the newer of two wins", []state.ConnectionFact{dated("connection.created", "PendingAuth", hour(0)), dated("connection.connected", "Linked", hour(1))}, state.Connection{Status: "Linked", Changed: hour(1)}},
		{"a late one changes nothing", []state.ConnectionFact{dated("connection.connected", "Linked", hour(1)), dated("connection.created", "PendingAuth", hour(0))}, state.Connection{Status: "Linked", Changed: hour(1)}},
		{"deleted is the type's and not the status's", []state.ConnectionFact{dated("connection.deleted", "Linked", hour(1))}, state.Connection{Status: "Linked", Deleted: true, Changed: hour(1)}},
		{"what is deleted stays so for late events", []state.ConnectionFact{dated("connection.deleted", "Linked", hour(2)), dated("connection.disconnected", "Unlinked", hour(1))}, state.Connection{Status: "Linked", Deleted: true, Changed: hour(2)}},
		{"undated ones go by their arrival", []state.ConnectionFact{undated("Unlinked", hour(2)), undated("Linked", hour(1))}, state.Connection{Status: "Unlinked", Changed: hour(2)}},
		{"an undated one never overwrites a dated one of the last 28 hours", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), undated("Unlinked", hour(28))}, state.Connection{Status: "Linked", Changed: hour(0)}},
		{"but it does an older one", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), undated("Unlinked", hour(29))}, state.Connection{Status: "Unlinked", Changed: hour(29)}},
		{"a dated one overwrites an undated one", []state.ConnectionFact{undated("Unlinked", hour(1)), dated("connection.reconnected", "Linked", hour(2))}, state.Connection{Status: "Linked", Changed: hour(2)}},
		{"a read without authorisation makes it suspect", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), readAt(true, hour(1))}, state.Connection{Status: "Linked", Suspect: true, Changed: hour(0)}},
		{"a later good read clears it", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), readAt(false, hour(2)), readAt(true, hour(1))}, state.Connection{Status: "Linked", Changed: hour(0)}},
		{"and so does a later status", []state.ConnectionFact{readAt(true, hour(1)), dated("connection.reconnected", "Linked", hour(2))}, state.Connection{Status: "Linked", Changed: hour(2)}},
		{"a read of an unknown connection is kept", []state.ConnectionFact{readAt(true, hour(1))}, state.Connection{Suspect: true}},
		{"a deleted one is not suspect", []state.ConnectionFact{dated("connection.deleted", "Linked", hour(0)), readAt(true, hour(1))}, state.Connection{Status: "Linked", Deleted: true, Changed: hour(0)}},
		{"a product's read counts", []state.ConnectionFact{{Type: "loans.read.completed", AuthError: true, Generated: hour(1)}}, state.Connection{Suspect: true}},
	} {
		got := state.Connection{}
		for i, f := range tt.facts {
			f.Sequence = uint64(i + 1)
			got = with(got, f)
		}
		got.Dated, got.Undated, got.Read = nil, nil, nil
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// The record is a function of the set of facts: it depends neither on their order nor on repetitions, also when it is
// stored in between.
func TestWith_DoesNotDependOnTheOrderOfFacts(t *testing.T) {
	fact := rapid.Custom(func(t *rapid.T) state.ConnectionFact {
		at := noon.Add(time.Duration(rapid.IntRange(0, 80).Draw(t, "hour")) * time.Hour)
		status := rapid.SampledFrom([]codat.ConnectionStatus{"PendingAuth", "Linked", "Unlinked", "Deauthorized", "Novel"}).Draw(t, "status")
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return undated(status, at)
		case 1:
			return readAt(rapid.Bool().Draw(t, "broken"), at)
		case 2:
			return dated("connection.deleted", status, at)
		}
		return dated("connection.connected", status, at)
	})
	rapid.Check(t, func(t *rapid.T) {
		facts := rapid.SliceOfN(fact, 1, 12).Draw(t, "facts")
		for i := range facts {
			facts[i].Sequence, facts[i].WebhookID = uint64(i+1), fmt.Sprintf("msg_%d", i)
		}
		fold := func(facts []state.ConnectionFact) state.Connection {
			s := state.Connection{Company: "c", Connection: "x"}
			for _, f := range facts {
				stored, err := json.Marshal(with(s, f))
				if err != nil {
					t.Fatal(err)
				}
				s = state.Connection{}
				if err := json.Unmarshal(stored, &s); err != nil {
					t.Fatal(err)
				}
			}
			return s
		}
		want := fold(facts)
		again := append(rapid.Permutation(facts).Draw(t, "order"), rapid.SliceOf(rapid.SampledFrom(facts)).Draw(t, "repeated")...)
		if diff := cmp.Diff(want, fold(again)); diff != "" {
			t.Fatalf("another order gives another state (-one +other):\n%s", diff)
		}
	})
}
