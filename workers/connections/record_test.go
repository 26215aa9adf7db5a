package connections

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

// answer is what Codat says at a time when it is asked.
func answer(status codat.ConnectionStatus, at time.Time, found bool) state.ConnectionFact {
	return state.ConnectionFact{Status: status, Generated: at, Received: at.Add(clockSkew), Found: found}
}

func TestWith_FollowsFromTheNewestFacts(t *testing.T) {
	hour := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	for _, tt := range []struct {
		name  string
		facts []state.ConnectionFact
		want  state.Connection
	}{
		{"the newer of two wins", []state.ConnectionFact{dated("connection.created", "PendingAuth", hour(0)), dated("connection.connected", "Linked", hour(1))}, state.Connection{Status: "Linked", From: "PendingAuth", Changed: hour(1)}},
		{"a late one changes nothing", []state.ConnectionFact{dated("connection.connected", "Linked", hour(1)), dated("connection.created", "PendingAuth", hour(0))}, state.Connection{Status: "Linked", From: "PendingAuth", Changed: hour(1)}},
		{"deleted is the type's and not the status's", []state.ConnectionFact{dated("connection.deleted", "Linked", hour(1))}, state.Connection{Status: "Linked", Deleted: true, DeletedAt: hour(1), Changed: hour(1)}},
		{"what is deleted stays so for late events", []state.ConnectionFact{dated("connection.deleted", "Linked", hour(2)), dated("connection.disconnected", "Unlinked", hour(1))}, state.Connection{Status: "Linked", From: "Unlinked", Deleted: true, DeletedAt: hour(2), Changed: hour(2)}},
		{"undated ones go by their arrival", []state.ConnectionFact{undated("Unlinked", hour(2)), undated("Linked", hour(1))}, state.Connection{Status: "Unlinked", From: "Linked", Changed: hour(2)}},
		{"an undated one never overwrites a dated one of the last 28 hours", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), undated("Unlinked", hour(28))}, state.Connection{Status: "Linked", Changed: hour(0)}},
		{"but it does an older one", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), undated("Unlinked", hour(29))}, state.Connection{Status: "Unlinked", From: "Linked", Changed: hour(29)}},
		{"a dated one overwrites an undated one", []state.ConnectionFact{undated("Unlinked", hour(1)), dated("connection.reconnected", "Linked", hour(2))}, state.Connection{Status: "Linked", From: "Unlinked", Changed: hour(2)}},
		{"a read without authorisation makes it suspect", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), readAt(true, hour(1))}, state.Connection{Status: "Linked", Suspect: true, Changed: hour(0)}},
		{"a later good read clears it", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), readAt(false, hour(2)), readAt(true, hour(1))}, state.Connection{Status: "Linked", Changed: hour(0), LastRead: hour(2)}},
		{"and so does a later status", []state.ConnectionFact{readAt(true, hour(1)), dated("connection.reconnected", "Linked", hour(2))}, state.Connection{Status: "Linked", Changed: hour(2)}},
		{"a read of an unknown connection is kept", []state.ConnectionFact{readAt(true, hour(1))}, state.Connection{Suspect: true}},
		{"a deleted one is not suspect", []state.ConnectionFact{dated("connection.deleted", "Linked", hour(0)), readAt(true, hour(1))}, state.Connection{Status: "Linked", Deleted: true, DeletedAt: hour(0), Changed: hour(0)}},
		{"an answer is newer than an older event", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), answer("Deauthorized", hour(2), true), dated("connection.failed", "PendingAuth", hour(1))}, state.Connection{Status: "Deauthorized", From: "PendingAuth", Changed: hour(2)}},
		{"and older than a newer one", []state.ConnectionFact{answer("Deauthorized", hour(1), true), dated("connection.reconnected", "Linked", hour(2))}, state.Connection{Status: "Linked", From: "Deauthorized", Changed: hour(2)}},
		{"an undated event that came after an answer is newer", []state.ConnectionFact{answer("Linked", hour(1), false), undated("Unlinked", hour(2))}, state.Connection{Status: "Unlinked", From: "Linked", Changed: hour(2)}},
		{"the same status again changes nothing", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), dated("connection.reconnected", "Linked", hour(5)), answer("Linked", hour(9), false)}, state.Connection{Status: "Linked", Changed: hour(0)}},
		{"an answer clears what a read has made suspect", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), readAt(true, hour(1)), answer("Linked", hour(2), false)}, state.Connection{Status: "Linked", Changed: hour(0)}},
		{"or confirms it", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), readAt(true, hour(1)), answer("Deauthorized", hour(2), true)}, state.Connection{Status: "Deauthorized", From: "Linked", Changed: hour(2)}},
		{"a read after the answer makes it suspect again", []state.ConnectionFact{answer("Linked", hour(2), false), readAt(true, hour(3))}, state.Connection{Status: "Linked", Suspect: true, Changed: hour(2)}},
		{"the last authorised read stays", []state.ConnectionFact{readAt(false, hour(2)), readAt(true, hour(3)), readAt(false, hour(1))}, state.Connection{Suspect: true, LastRead: hour(2)}},
		{"a deletion of both generations leaves what was before", []state.ConnectionFact{dated("connection.connected", "Linked", hour(0)), {Type: "SyncConnectionDeleted", Deleted: true, Received: hour(30)}}, state.Connection{Status: "Linked", From: "Linked", Deleted: true, DeletedAt: hour(30), Changed: hour(30)}},
		{"a date far after the arrival counts as the arrival", []state.ConnectionFact{{Type: "connection.connected", Status: "Linked", Generated: hour(100_000), Received: hour(1)}, dated("connection.disconnected", "Unlinked", hour(2))}, state.Connection{Status: "Unlinked", From: "Linked", Changed: hour(2)}},
		{"a product's read counts", []state.ConnectionFact{{Type: "loans.read.completed", AuthError: true, Generated: hour(1)}}, state.Connection{Suspect: true}},
	} {
		got := state.Connection{}
		for i, f := range tt.facts {
			f.Sequence = uint64(i + 1)
			got = with(got, f)
		}
		if diff := cmp.Diff(tt.want, got, ignored); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// The fields that a case of the table does not name.
var ignored = cmpopts.IgnoreFields(state.Connection{}, "Dated", "Undated", "Asked", "Read", "Timeline", "Unchanged", "Type", "WebhookID", "Reconciled")

// fold returns the record of facts, which is stored after each.
func fold(t interface{ Fatal(...any) }, r state.Connection, facts []state.ConnectionFact) state.Connection {
	for _, f := range facts {
		stored, err := json.Marshal(with(r, f))
		if err != nil {
			t.Fatal(err)
		}
		r = state.Connection{}
		if err := json.Unmarshal(stored, &r); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// The record, with its timeline, is a function of the set of facts: it depends neither on their order nor on repetitions, also
// when more come than are kept.
func TestWith_DoesNotDependOnTheOrderOfFacts(t *testing.T) {
	fact := rapid.Custom(func(t *rapid.T) state.ConnectionFact {
		at := noon.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "quarter")) * 15 * time.Minute)
		status := rapid.SampledFrom([]codat.ConnectionStatus{"PendingAuth", "Linked", "Unlinked", "Deauthorized", "Novel"}).Draw(t, "status")
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return undated(status, at)
		case 1:
			return readAt(rapid.Bool().Draw(t, "broken"), at)
		case 2:
			return dated("connection.deleted", status, at)
		case 3:
			return answer(status, at, rapid.Bool().Draw(t, "found"))
		case 4:
			return state.ConnectionFact{Type: "connection.connected", Status: status, Generated: at.Add(1000 * time.Hour), Received: at} // a wrong date
		}
		return dated("connection.connected", status, at)
	})
	rapid.Check(t, func(t *rapid.T) {
		facts := rapid.SliceOfN(fact, 1, rapid.SampledFrom([]int{12, 12, 300}).Draw(t, "most")).Draw(t, "facts")
		for i := range facts {
			if facts[i].Type != "" {
				facts[i].Sequence, facts[i].WebhookID = uint64(i+1), fmt.Sprintf("msg_%d", i)
			}
		}
		want := fold(t, state.Connection{}, facts)
		again := append(rapid.Permutation(facts).Draw(t, "order"), rapid.SliceOf(rapid.SampledFrom(facts)).Draw(t, "repeated")...)
		if diff := cmp.Diff(want, fold(t, state.Connection{}, again)); diff != "" {
			t.Fatalf("another order gives another state (-one +other):\n%s", diff)
		}
	})
}

// While endpoints of both generations are there, each fact comes twice, under two ids. It changes the record once, at the time
// that the event of the current type says, however late and in which order they come.
func TestWith_AFactOfBothGenerationsChangesOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var current, all []state.ConnectionFact
		at, before := noon, codat.ConnectionStatus("")
		statuses := []codat.ConnectionStatus{"PendingAuth", "Linked", "Unlinked", "Deauthorized"}
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			at = at.Add(time.Duration(rapid.IntRange(1, 100_000).Draw(t, "after")) * time.Second)
			status := rapid.SampledFrom(slices.DeleteFunc(slices.Clone(statuses), func(s codat.ConnectionStatus) bool { return s == before })).Draw(t, "status")
			before = status
			f := dated("connection.connected", status, at)
			f.WebhookID = fmt.Sprintf("msg_%d", len(all))
			late := time.Duration(rapid.IntRange(0, int(retryPeriod/time.Second)).Draw(t, "late")) * time.Second
			legacy := undated(status, at.Add(late))
			legacy.WebhookID = "legacy_" + f.WebhookID
			current, all = append(current, f), append(all, f, legacy)
		}
		for i := range all {
			all[i].Sequence = uint64(i + 1)
		}
		for i := range current {
			current[i].Sequence = uint64(2*i + 1)
		}
		want := fold(t, state.Connection{}, current)
		got := fold(t, state.Connection{}, rapid.Permutation(all).Draw(t, "order"))
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(state.Connection{}, "Undated", "Unchanged")); diff != "" || len(got.Timeline) != len(current) {
			t.Fatalf("%d changes; want %d (-current +both):\n%s", len(got.Timeline), len(current), diff)
		}
	})
}

// Where only legacy events come, each of them counts.
func TestWith_LegacyEventsAloneMakeTheTimeline(t *testing.T) {
	r := fold(t, state.Connection{}, []state.ConnectionFact{
		undated("PendingAuth", noon), undated("Linked", noon.Add(time.Hour)), undated("Linked", noon.Add(2*time.Hour)), undated("Deauthorized", noon.Add(3*time.Hour)),
	})
	if len(r.Timeline) != 3 || r.Status != codat.Deauthorized || r.From != codat.Linked || r.Timeline[2].From != codat.Linked || !r.Timeline[2].Undated {
		t.Errorf("the record is %+v; want three changes", r)
	}
}

// A record of a version without a timeline keeps what it says, and its facts begin the timeline.
func TestWith_KeepsWhatAnOldRecordSays(t *testing.T) {
	var old state.Connection
	text := `{"company":"c","connection":"x","status":"Linked","changed":"2026-11-21T12:00:00Z","platform":"gbol",
		"dated":{"type":"connection.connected","webhook_id":"msg_1","generated":"2026-11-21T12:00:00Z","received":"2026-11-21T12:00:01Z","sequence":7,"status":"Linked","platform":"gbol"},
		"undated":{"type":"DataConnectionStatusChanged","webhook_id":"msg_0","received":"2026-11-19T12:00:00Z","sequence":5,"status":"PendingAuth"},
		"read":{"type":"read.completed","webhook_id":"msg_2","generated":"2026-11-21T13:00:00Z","received":"2026-11-21T13:00:01Z","sequence":9}}`
	if err := json.Unmarshal([]byte(text), &old); err != nil {
		t.Fatal(err)
	}
	f := dated("connection.disconnected", "Deauthorized", noon.Add(5*time.Hour))
	f.Sequence, f.WebhookID, f.Platform = 10, "msg_3", "gbol"
	got := fold(t, old, []state.ConnectionFact{readAt(true, noon.Add(4*time.Hour)), f})
	want := []state.ConnectionChange{
		{At: noon.Add(-48 * time.Hour), Undated: true, Status: "PendingAuth", Type: "DataConnectionStatusChanged", WebhookID: "msg_0", Sequence: 5},
		{At: noon, From: "PendingAuth", Status: "Linked", Type: "connection.connected", WebhookID: "msg_1", Sequence: 7},
		{At: noon.Add(5 * time.Hour), From: "Linked", Status: "Deauthorized", Type: "connection.disconnected", WebhookID: "msg_3", Sequence: 10},
	}
	if diff := cmp.Diff(want, got.Timeline); diff != "" || !got.LastRead.Equal(noon.Add(time.Hour)) || got.Platform != "gbol" {
		t.Errorf("the last read was at %s (-want +got):\n%s", got.LastRead, diff)
	}
}

// A record with as many changes as are kept, all of them with the longest texts, is far smaller than the largest message.
// docs/operate.md has the sizes.
func TestWith_SizeOfARecord(t *testing.T) {
	const uuid, id = "ca5cade0-0000-4000-8000-00000000000a", "msg_2b5Xh1k7QmY9sVw3T4uZ8r6Pq0L"
	size := func(changes int, id, typ string, status func(int) codat.ConnectionStatus) int {
		r := state.Connection{Company: uuid, Connection: uuid}
		for i := range changes {
			f := dated(typ, status(i), noon.Add(time.Duration(i)*time.Hour+123456700))
			f.WebhookID, f.Sequence, f.Platform, f.PlatformName, f.SourceType = id, uint64(1_000_000+i), "gbol", "Sandbox", codat.SourceAccounting
			u := undated(f.Status, f.Generated.Add(time.Second))
			u.WebhookID, u.Sequence = id, f.Sequence+1
			a := answer(f.Status, f.Generated, true)
			r = with(r, f)
			if changes > 10 {
				r = with(with(r, u), a)
			}
		}
		last := answer(status(changes-1), noon.Add(time.Duration(changes)*time.Hour), false)
		last.Platform, last.PlatformName, last.SourceType = "gbol", "Sandbox", codat.SourceAccounting
		r = with(with(r, readAt(false, noon)), last)
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return len(text)
	}
	turns := func(i int) codat.ConnectionStatus {
		return []codat.ConnectionStatus{codat.Linked, codat.Deauthorized}[i%2]
	}
	longest := func(i int) codat.ConnectionStatus {
		return codat.ConnectionStatus(strings.Repeat(string(rune('a'+i%2)), 1<<20))
	}
	two, full := size(2, id, "connection.reconnected", turns), size(200, id, "connection.reconnected", turns)
	most := size(200, strings.Repeat("w", 128), strings.Repeat("t", 128), longest)
	t.Logf("two changes %d bytes, 150 reports %d, the longest %d", two, full, most)
	if two > 1600 || full > 40<<10 || most > 256<<10 {
		t.Errorf("two changes have %d bytes, 150 reports %d, the longest %d; want at most 1,600, 40 KiB and 256 KiB", two, full, most)
	}
}
