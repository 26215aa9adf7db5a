package connections

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// dated is a fact that was generated and received at a time.
func dated(typ string, status codat.ConnectionStatus, at time.Time) Fact {
	return Fact{Type: typ, Status: status, Generated: at, Received: at.Add(time.Second), Deleted: typ == "connection.deleted"}
}

// undated is a legacy fact that was received at a time.
func undated(status codat.ConnectionStatus, at time.Time) Fact {
	return Fact{Type: "DataConnectionStatusChanged", Status: status, Received: at}
}

func readAt(authError bool, at time.Time) Fact {
	return Fact{Type: "read.completed", AuthError: authError, Generated: at, Received: at}
}

func TestWhatAConnectionsFactsSay(t *testing.T) {
	hour := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	for _, tt := range []struct {
		name  string
		facts []Fact
		want  State
	}{
		{"the newer of two wins", []Fact{dated("connection.created", "PendingAuth", hour(0)), dated("connection.connected", "Linked", hour(1))}, State{Status: "Linked", Changed: hour(1)}},
		{"a late one changes nothing", []Fact{dated("connection.connected", "Linked", hour(1)), dated("connection.created", "PendingAuth", hour(0))}, State{Status: "Linked", Changed: hour(1)}},
		{"deleted is the type's and not the status's", []Fact{dated("connection.deleted", "Linked", hour(1))}, State{Status: "Linked", Deleted: true, Changed: hour(1)}},
		{"what is deleted stays so for late events", []Fact{dated("connection.deleted", "Linked", hour(2)), dated("connection.disconnected", "Unlinked", hour(1))}, State{Status: "Linked", Deleted: true, Changed: hour(2)}},
		{"undated ones go by their arrival", []Fact{undated("Unlinked", hour(2)), undated("Linked", hour(1))}, State{Status: "Unlinked", Changed: hour(2)}},
		{"an undated one never overwrites a dated one of the last 28 hours", []Fact{dated("connection.connected", "Linked", hour(0)), undated("Unlinked", hour(28))}, State{Status: "Linked", Changed: hour(0)}},
		{"but it does an older one", []Fact{dated("connection.connected", "Linked", hour(0)), undated("Unlinked", hour(29))}, State{Status: "Unlinked", Changed: hour(29)}},
		{"a dated one overwrites an undated one", []Fact{undated("Unlinked", hour(1)), dated("connection.reconnected", "Linked", hour(2))}, State{Status: "Linked", Changed: hour(2)}},
		{"a read without authorisation makes it suspect", []Fact{dated("connection.connected", "Linked", hour(0)), readAt(true, hour(1))}, State{Status: "Linked", Suspect: true, Changed: hour(0)}},
		{"a later good read clears it", []Fact{dated("connection.connected", "Linked", hour(0)), readAt(false, hour(2)), readAt(true, hour(1))}, State{Status: "Linked", Changed: hour(0)}},
		{"and so does a later status", []Fact{readAt(true, hour(1)), dated("connection.reconnected", "Linked", hour(2))}, State{Status: "Linked", Changed: hour(2)}},
		{"a read of an unknown connection is kept", []Fact{readAt(true, hour(1))}, State{Suspect: true}},
		{"a deleted one is not suspect", []Fact{dated("connection.deleted", "Linked", hour(0)), readAt(true, hour(1))}, State{Status: "Linked", Deleted: true, Changed: hour(0)}},
		{"a product's read counts", []Fact{{Type: "loans.read.completed", AuthError: true, Generated: hour(1)}}, State{Suspect: true}},
	} {
		got := State{}
		for i, f := range tt.facts {
			f.Sequence = uint64(i + 1)
			got = got.with(f)
		}
		got.Dated, got.Undated, got.Read = nil, nil, nil
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// The state is a function of the set of events: any order, any repetition, and what is stored in between.
func TestTheStateDoesNotDependOnTheOrderOfEvents(t *testing.T) {
	fact := rapid.Custom(func(t *rapid.T) Fact {
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
		fold := func(facts []Fact) State {
			s := State{Company: "c", Connection: "x"}
			for _, f := range facts {
				stored, err := json.Marshal(s.with(f))
				if err != nil {
					t.Fatal(err)
				}
				s = State{}
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

func TestAnIDThatReachesOtherKeysIsRefused(t *testing.T) {
	for _, id := range []string{"", "*", ">", "a.b", "a b", "ü", "a\n"} {
		if k, err := key("company", id); err == nil {
			t.Errorf("key(company, %q) = %q; want it refused", id, k)
		}
		if k, err := key(id, "connection"); err == nil {
			t.Errorf("key(%q, connection) = %q; want it refused", id, k)
		}
	}
}
