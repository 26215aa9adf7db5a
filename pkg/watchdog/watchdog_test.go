package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = streamtest.Source

// A setup is a server with the streams and buckets of the workers.
type setup struct {
	*streamtest.Server
	t *testing.T
}

func newSetup(t *testing.T) *setup {
	t.Helper()
	return &setup{streamtest.New(t, stream.WorkerSpec{
		Name: "writes", Types: []codat.Pattern{"*.write.*", "client.rateLimit.reset"},
		State: []string{state.WritesName, state.ReadsName, state.ConnectionsName},
	}), t}
}

// look looks with a watchdog until no request took too long, and everything must answer.
func (s *setup) look(w *Watchdog, now time.Time) Report {
	s.t.Helper()
	r, err := w.Look(s.t.Context(), now)
	for errors.Is(err, context.DeadlineExceeded) && s.t.Context().Err() == nil {
		r, err = w.Look(s.t.Context(), now)
	}
	if err != nil {
		s.t.Fatalf("Look = %v", err)
	}
	return r
}

// event stores an event and returns when it was stored.
func (s *setup) event(typ string) time.Time {
	s.t.Helper()
	subject, err := source.EventSubject(typ)
	if err != nil {
		s.t.Fatal(err)
	}
	ack, err := s.JS.PublishMsg(s.t.Context(), &nats.Msg{Subject: subject, Data: []byte("{}")})
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := stream.Get(s.t.Context(), s.JS, source.Stream(), ack.Sequence)
	if err != nil {
		s.t.Fatal(err)
	}
	return m.Time
}

func (s *setup) bucket(name string) jetstream.KeyValue {
	s.t.Helper()
	kv, err := stream.Bucket(s.t.Context(), s.JS, source.StateBucket(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return kv
}

// put writes a record.
func (s *setup) put(bucket, key string, value any) {
	s.t.Helper()
	text, err := json.Marshal(value)
	if err == nil {
		_, err = s.bucket(bucket).Put(s.t.Context(), key, text)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// wants compares the records of CODAT_expected.
func (s *setup) wants(want ...state.Expected) {
	s.t.Helper()
	got, err := state.ListExpected(s.t.Context(), s.JS, source)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		s.t.Errorf("CODAT_expected (-want +got), error %v:\n%s", err, diff)
	}
	for _, e := range want {
		key, err := e.Key()
		if err != nil {
			s.t.Fatal(err)
		}
		if got, err := state.GetExpected(s.t.Context(), s.JS, source, key); err != nil || !cmp.Equal(got, e) {
			s.t.Errorf("record %s = %+v, %v; want %+v", key, got, err, e)
		}
	}
}

func TestWatchdog_NoticesSilenceAndItsEnd(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	const typ = "invoices.write.successful"
	stored := s.event(typ)
	begin := stored.Add(LookEvery)

	// An earlier process has learned for three weeks that it comes in every look.
	l := new(learned)
	l.run(stored.Add(-21*day), stored, func(time.Time) bool { return true })
	s.put(stream.ExpectedState, learnedPrefix+typ, l)

	w := New(s.JS, Options{Source: source})
	if r := s.look(w, begin); r.Learned != 1 || len(r.Silent) != 0 {
		t.Errorf("at first %+v; want one type learned and none silent", r)
	}
	now := begin
	for ; now.Before(begin.Add(2 * time.Hour)); now = now.Add(LookEvery) {
		s.look(w, now)
	}
	r := s.look(w, now)
	if !slices.Equal(r.Silent, []string{typ}) || r.Missing[state.SilentType] != 1 {
		t.Fatalf("after two hours %+v; want silence", r)
	}
	all, err := state.ListExpected(t.Context(), s.JS, source, state.SilentType)
	if err != nil || len(all) != 1 || all[0].Due.Sub(stored) < 50*time.Minute || all[0].Due.Sub(stored) > 70*time.Minute {
		t.Fatalf("ListExpected = %+v, %v; want one, due about an hour after %v", all, err, stored)
	}
	silent := state.Expected{Kind: state.SilentType, Type: typ, Due: all[0].Due, Last: stored}
	s.wants(silent)

	// Another process takes over what is known, and writes nothing again.
	before := s.sequence()
	other := New(s.JS, Options{Source: source})
	if r := s.look(other, now.Add(time.Minute)); !slices.Equal(r.Silent, []string{typ}) {
		t.Errorf("another process: %+v; want silence", r)
	}
	if after := s.sequence(); after != before {
		t.Errorf("another process has written %d records; want none", after-before)
	}
	s.wants(silent)

	s.event(typ)
	for _, w := range []*Watchdog{w, other} {
		if r := s.look(w, now.Add(2*time.Minute)); len(r.Silent) != 0 || r.Missing[state.SilentType] != 0 {
			t.Errorf("after an event %+v; want no silence", r)
		}
	}
	s.wants()
	if _, err := state.GetExpected(t.Context(), s.JS, source, "silent."+typ); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("GetExpected = %v; want ErrKeyNotFound", err)
	}
}

// sequence is that of the newest record in CODAT_expected.
func (s *setup) sequence() uint64 {
	s.t.Helper()
	st, err := s.JS.Stream(s.t.Context(), "KV_"+source.StateBucket(stream.ExpectedState))
	if err != nil {
		s.t.Fatal(err)
	}
	return st.CachedInfo().State.LastSeq
}

func TestWatchdog_IgnoresTypes(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	stored := s.event("invoices.write.successful")
	l := new(learned)
	l.run(stored.Add(-21*day), stored, func(time.Time) bool { return true })
	s.put(stream.ExpectedState, learnedPrefix+"invoices.write.successful", l)
	w := New(s.JS, Options{
		Source: source, Ignore: []codat.Pattern{"invoices.>", "client.>"},
		Endpoints: func(context.Context) ([]api.Webhook, error) { return nil, nil },
	})
	r := s.look(w, stored.Add(5*day))
	if len(r.Silent) != 0 || slices.Contains(r.NotSubscribed, "client.rateLimit.reset") || !slices.Contains(r.NotSubscribed, "company.created") {
		t.Errorf("%+v; want nothing of what is ignored", r)
	}
}

// What is learned is written, so that another process goes on with it, and is deleted when the type has ended.
func TestWatchdog_KeepsWhatItHasLearned(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	stored := s.event("company.created")
	w := New(s.JS, Options{Source: source})
	now := stored.Add(time.Minute)
	for range 30 {
		s.look(w, now)
		now = now.Add(LookEvery)
	}
	other := New(s.JS, Options{Source: source})
	s.look(other, now)
	if got := other.types["company.created"].Looks; got < 12 || got > 30 {
		t.Errorf("another process goes on with %d looks; want those of the last hour before it at the most to be lost", got)
	}
	if s.look(other, stored.Add(endedAfter)); other.types["company.created"] != nil {
		t.Error("a type without an event for four weeks has not ended")
	}
	if _, err := s.bucket(stream.ExpectedState).Get(t.Context(), learnedPrefix+"company.created"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the record of a type that has ended: %v; want ErrKeyNotFound", err)
	}
}

func TestWatchdog_ListsOverdueWritesUntilTheirOutcome(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	due := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	write := func(key string, overdue time.Time) {
		s.put(state.WritesName, key, state.Write{PushOperationKey: key, Status: codat.Pending, Company: "c", Connection: "k", DataType: "bills", Requested: due, Overdue: overdue})
	}
	write("one", due)
	write("two", time.Time{})
	s.put(state.WritesName, "unreadable", "text")
	w := New(s.JS, Options{Source: source})
	one := state.Expected{Kind: state.OverdueWrite, Due: due, Last: due, PushOperationKey: "one", Company: "c", Connection: "k", DataType: "bills"}
	if r := s.look(w, time.Now()); r.Missing[state.OverdueWrite] != 1 {
		t.Errorf("%+v; want one overdue write", r)
	}
	s.wants(one)
	write("two", due.Add(time.Minute))
	s.look(w, time.Now())
	two := one
	two.PushOperationKey, two.Due = "two", due.Add(time.Minute)
	s.wants(one, two)
	write("one", time.Time{})
	if err := s.bucket(state.WritesName).Delete(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	s.look(w, time.Now())
	s.wants()
}

// Of many, those that are due first have records, and all are counted. A look reads only what has changed.
func TestWatchdog_BoundsRecords(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	due := time.Now().UTC().Truncate(time.Second)
	const count = MaxRecords + 3
	for n := range count {
		key := fmt.Sprint("w", n)
		text, err := json.Marshal(state.Write{PushOperationKey: key, Overdue: due.Add(time.Duration(n) * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.JS.PublishAsync("$KV."+source.StateBucket(state.WritesName)+"."+key, text); err != nil {
			t.Fatal(err)
		}
	}
	<-s.JS.PublishAsyncComplete()
	w := New(s.JS, Options{Source: source})
	if r := s.look(w, due); r.Missing[state.OverdueWrite] != count {
		t.Errorf("%d overdue writes; want %d", r.Missing[state.OverdueWrite], count)
	}
	all, err := state.ListExpected(t.Context(), s.JS, source, state.OverdueWrite)
	if err != nil || len(all) != MaxRecords || all[MaxRecords-1].PushOperationKey != fmt.Sprint("w", MaxRecords-1) {
		t.Errorf("%d records, %v; want %d, those that are due first", len(all), err, MaxRecords)
	}
	before := w.overdue.after
	w.overdue.keep = func(string, *jetstream.RawStreamMsg) (state.Expected, bool) {
		t.Error("a record that has not changed is read again")
		return state.Expected{}, false
	}
	if s.look(w, due); w.overdue.after != before {
		t.Errorf("the place is %d; want %d", w.overdue.after, before)
	}
}

func TestWatchdog_ListsStaleReadsOfLinkedConnections(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	now := time.Now().UTC().Truncate(time.Second)
	read := func(connection string, dataType codat.DataType, success time.Time) {
		s.put(state.ReadsName, "c."+connection+"."+string(dataType), state.Read{
			Company: "c", Connection: connection, DataType: dataType, LastRead: now, LastSuccess: success,
			Facts: []state.ReadFact{{Generated: now.Add(-50 * time.Hour), Received: now}},
		})
	}
	connection := func(id string, status codat.ConnectionStatus) {
		s.put(state.ConnectionsName, "c."+id, state.Connection{Company: "c", Connection: id, Status: status})
	}
	read("linked", "invoices", now.Add(-49*time.Hour))
	read("linked", "bills", now.Add(-47*time.Hour))
	read("linked", "items", time.Time{}) // never with success, for 50 h
	read("unlinked", "invoices", now.Add(-100*time.Hour))
	connection("linked", codat.Linked)
	connection("unlinked", codat.Unlinked)

	if r := s.look(New(s.JS, Options{Source: source}), now); r.Missing[state.StaleRead] != 0 {
		t.Errorf("without the setting %+v; want no stale reads", r)
	}
	w := New(s.JS, Options{Source: source, StaleReadsAfter: 48 * time.Hour})
	s.look(w, now)
	items := state.Expected{Kind: state.StaleRead, Due: now.Add(-2 * time.Hour), Company: "c", Connection: "linked", DataType: "items"}
	invoices := state.Expected{Kind: state.StaleRead, Due: now.Add(-time.Hour), Last: now.Add(-49 * time.Hour), Company: "c", Connection: "linked", DataType: "invoices"}
	s.wants(items, invoices)
	read("linked", "items", now)
	s.look(w, now)
	s.wants(invoices)
	connection("linked", codat.Deauthorized)
	s.look(w, now)
	s.wants()
}

// What headgate erase has removed leaves no mark in its bucket; the watchdog does not write it again, not even as deleted.
func TestWatchdog_WritesNothingOfWhatWasErased(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	due := time.Now().UTC().Truncate(time.Second)
	for _, key := range []string{"erased", "kept", "erased-before-it-is-written"} {
		s.put(state.WritesName, key, state.Write{PushOperationKey: key, Overdue: due.Add(time.Hour)})
	}
	w := New(s.JS, Options{Source: source})
	erase := func(bucket, key string) {
		st, err := s.JS.Stream(t.Context(), "KV_"+source.StateBucket(bucket))
		if err == nil {
			err = st.Purge(t.Context(), jetstream.WithPurgeSubject("$KV."+source.StateBucket(bucket)+"."+key))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.look(w, due)
	erase(state.WritesName, "erased-before-it-is-written")
	erase(state.WritesName, "erased")
	erase(stream.ExpectedState, "overdue.erased")
	erase(stream.ExpectedState, "overdue.erased-before-it-is-written")
	for range 2 {
		if r := s.look(w, due); r.Missing[state.OverdueWrite] != 1 {
			t.Errorf("it counts %d; want the one that is left", r.Missing[state.OverdueWrite])
		}
		s.wants(state.Expected{Kind: state.OverdueWrite, Due: due.Add(time.Hour), PushOperationKey: "kept"})
		_, err := stream.Read(t.Context(), s.JS, "KV_"+w.stored.bucket, stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
			if strings.Contains(m.Subject, "erased") {
				t.Errorf("the bucket has %s", m.Subject)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be read stays as it was, and is not counted.
func TestWatchdog_KeepsRecordsWhileABucketDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	due := time.Now().UTC().Truncate(time.Second)
	s.put(state.WritesName, "one", state.Write{PushOperationKey: "one", Overdue: due})
	w := New(s.JS, Options{Source: source})
	s.look(w, due)
	one := state.Expected{Kind: state.OverdueWrite, Due: due, PushOperationKey: "one"}
	s.wants(one)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := w.Look(ended, due); err == nil || !cmp.Equal(r.Missing, map[state.ExpectedKind]int{state.StaleRead: 0}) {
		t.Errorf("Look = %+v, %v; want an error, and the count of what is not looked for", r, err)
	}
	s.wants(one)

	// A bucket that was made again has nothing of the earlier one.
	if err := s.JS.DeleteKeyValue(t.Context(), source.StateBucket(state.WritesName)); err != nil {
		t.Fatal(err)
	}
	s.look(w, due)
	s.wants()
}

func TestWatchdog_SaysWhichNeededTypesNoEndpointHas(t *testing.T) {
	t.Parallel()
	s := newSetup(t)
	var answer []api.Webhook
	var fails error
	w := New(s.JS, Options{Source: source, Endpoints: func(context.Context) ([]api.Webhook, error) { return answer, fails }})
	now := time.Now()
	fails = api.ErrUnavailable
	if r := s.look(w, now); r.Endpoints != nil || r.EndpointsError == nil || r.Unanswered != 0 || r.NotSubscribed != nil {
		t.Errorf("before an answer %+v", r)
	}
	if r := s.look(w, now.Add(time.Hour)); r.Unanswered != time.Hour {
		t.Errorf("after an hour without an answer %v", r.Unanswered)
	}
	fails = nil
	if r := s.look(w, now.Add(2*time.Hour)); r.Endpoints == nil || r.Unanswered != 0 || len(r.NotSubscribed) != len(codat.Current()) || len(r.NeededNotSubscribed) != 37 {
		t.Errorf("without endpoints %d types are missing, %d of them needed: %q; want 37, those of the writes and one", len(r.NotSubscribed), len(r.NeededNotSubscribed), r.NeededNotSubscribed)
	}
	answer = []api.Webhook{{ID: "e", Disabled: true, EventTypes: slices.DeleteFunc(codat.Current(), func(typ string) bool { return typ == "company.created" || typ == "bills.write.successful" })}}
	r := s.look(w, now.Add(3*time.Hour))
	if !slices.Equal(r.NotSubscribed, []string{"bills.write.successful", "company.created"}) || !slices.Equal(r.NeededNotSubscribed, []string{"bills.write.successful"}) || !r.Endpoints[0].Disabled {
		t.Errorf("%+v", r)
	}
	fails = api.ErrUnavailable
	if r := s.look(w, now.Add(4*time.Hour)); r.Unanswered != time.Hour || len(r.Endpoints) != 1 || len(r.NotSubscribed) != 2 {
		t.Errorf("while Codat does not answer %+v; want what it said before", r)
	}
}
