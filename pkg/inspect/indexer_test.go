package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// failer is a test, or a run of one.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// anEvent stores an event of these ids.
func anEvent(t failer, js jetstream.JetStream, id, company, push string) {
	t.Helper()
	head := codat.Head{Type: "invoices.write.successful", Company: company, Connection: "connection of " + company, PushOperation: push}
	m, err := source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, fmt.Appendf(nil, `{"id":"body of %s","eventType":"invoices.write.successful"}`, id))
	if err != nil {
		t.Fatalf("Message() = %v", err)
	}
	if _, err := js.PublishMsg(context.Background(), m); err != nil {
		t.Fatalf("PublishMsg() = %v", err)
	}
}

// keepIndex keeps an index that answers until the returned function is called.
func keepIndex(js jetstream.JetStream, limit int) (*Index, func()) {
	x := NewIndex(js, source, limit)
	x.ranges = 3
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { x.Run(ctx, func(error) {}) })
	running.Go(func() { _ = x.Answer(ctx, js.Conn()) })
	return x, func() { cancel(); running.Wait() }
}

// mustFind returns what FindEvents finds, and why it has read the stream: "" when it has not.
func mustFind(t failer, js jetstream.JetStream, q Search) ([]Match, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var scanned []string
	var found []Match
	q.Scanning = func(reason string) { scanned = append(scanned, reason) }
	err := FindEvents(ctx, js, source, q, func(m Match) error {
		found = append(found, m)
		return nil
	})
	if err != nil {
		t.Fatalf("FindEvents of %s = %v", q.ID, err)
	}
	return found, strings.Join(scanned, "\n")
}

// What is found with an index is what a scan finds: while the index is built and events arrive, when events were erased, and when
// the stream was made again.
func TestFindEvents_FindsWithAnIndexWhatAScanFinds(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	plain := func(t failer, q Search) (all []Match) { // without asking an index
		_, err := stream.Read(context.Background(), s.JS, source.Stream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
			if hit, ok := match(source, m, q.ID); ok {
				all = append(all, hit)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("Read() = %v", err)
		}
		slices.Reverse(all)
		if q.Limit > 0 {
			all = all[:min(q.Limit, len(all))]
		}
		return all
	}
	remake := func(t failer) {
		if err := s.JS.DeleteStream(context.Background(), source.Stream()); err != nil {
			t.Fatalf("DeleteStream() = %v", err)
		}
		if _, err := stream.Provision(context.Background(), s.JS, stream.Layout{Source: source}, false); err != nil {
			t.Fatalf("Provision() = %v", err)
		}
	}
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		remake(t)
		companies := rapid.SampledFrom([]string{"", "c1", "c2", "c3"})
		stop := func() {}
		defer func() { stop() }()
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				remake(t)
			case 1:
				stop()
				_, stop = keepIndex(s.JS, MinIndexBytes)
			case 2:
				st, err := s.JS.Stream(context.Background(), source.Stream())
				if err != nil {
					t.Fatalf("Stream() = %v", err)
				}
				if last := st.CachedInfo().State.LastSeq; last > 0 {
					err = st.SecureDeleteMsg(context.Background(), rapid.Uint64Range(1, last).Draw(t, "erased"))
				}
				if err != nil && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
					t.Fatalf("SecureDeleteMsg() = %v", err)
				}
			default:
				for range rapid.IntRange(1, 5).Draw(t, "events") {
					n++
					anEvent(t, s.JS, fmt.Sprintf("msg_%d", n), companies.Draw(t, "company"), companies.Draw(t, "push"))
				}
			}
		}
		for _, id := range []string{"c1", "c2", "c3", "connection of c1", fmt.Sprintf("msg_%d", n), fmt.Sprintf("body of msg_%d", n)} {
			q := Search{ID: id, Limit: rapid.IntRange(0, 4).Draw(t, "limit")}
			got, _ := mustFind(t, s.JS, q)
			if diff := cmp.Diff(plain(t, q), got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("FindEvents of %s, at most %d (-scan +found):\n%s", q.ID, q.Limit, diff)
			}
		}
	})
}

// An index that has been built answers alone, by each id of an event, in pages, and since a time.
func TestFindEvents_ReadsNothingThatTheIndexKnows(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	const events = maxAnswer + 7
	for i := range events {
		anEvent(t, s.JS, fmt.Sprintf("msg_%d", i+1), "c1", fmt.Sprintf("push %d", i+1))
	}
	if _, scanned := mustFind(t, s.JS, Search{ID: "c1"}); !strings.Contains(scanned, "no headgate watch runs") {
		t.Errorf("without an index, the reason for a scan is %q", scanned)
	}
	x, stop := keepIndex(s.JS, MinIndexBytes)
	t.Cleanup(stop)
	streamtest.Wait(t, func() bool { return x.State().Events == events }, "the index is built")
	anEvent(t, s.JS, "msg_last", "c2", "")
	streamtest.Wait(t, func() bool { return x.State().Events == events+1 }, "the index has the newest event")
	for _, tt := range []struct {
		q     Search
		first string
		count int
		by    IDKind
	}{
		{Search{ID: "c1"}, fmt.Sprintf("msg_%d", events), events, ByCompany},
		{Search{ID: "connection of c1", Limit: 5}, fmt.Sprintf("msg_%d", events), 5, ByConnection},
		{Search{ID: "push 3"}, "msg_3", 1, ByPushOperation},
		{Search{ID: "msg_last"}, "msg_last", 1, ByWebhookID},
		{Search{ID: "body of msg_7"}, "msg_7", 1, ByBodyID},
		{Search{ID: "c1", Before: 4}, "msg_3", 3, ByCompany},
		{Search{ID: "c3"}, "", 0, ""},
	} {
		got, scanned := mustFind(t, s.JS, tt.q)
		if len(got) != tt.count || tt.count > 0 && (got[0].WebhookID != tt.first || got[0].By != tt.by) || scanned != "" {
			t.Errorf("FindEvents of %s = %d matches, %+v, and a scan %q; want %d from %s on by %s, without a scan", tt.q.ID, len(got), got[:min(len(got), 1)], scanned, tt.count, tt.first, tt.by)
		}
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := mustFind(t, s.JS, Search{ID: "c1", Since: m.Time}); len(got) != events-2 || got[events-3].Sequence != 3 {
		t.Errorf("FindEvents since message 3 = %d matches; want %d", len(got), events-2)
	}
}

// An index goes on when its server was away, and follows a stream that was made again.
func TestIndex_SurvivesRestartAndRemadeStream(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	anEvent(t, s.JS, "msg_1", "c1", "")
	x, stop := keepIndex(s.JS, MinIndexBytes)
	t.Cleanup(stop)
	streamtest.Wait(t, func() bool { return x.State().Events == 1 }, "the index is built")
	s.Restart()
	anEvent(t, s.JS, "msg_2", "c1", "")
	streamtest.Wait(t, func() bool { return x.State().Events == 2 }, "the index has the event after the restart")

	if err := s.JS.DeleteStream(t.Context(), source.Stream()); err != nil {
		t.Fatal(err)
	}
	streamtest.Provision(t, s.JS, stream.Layout{Source: source})
	for i := range 3 {
		anEvent(t, s.JS, fmt.Sprintf("msg_%d", i+3), "c1", "")
	}
	streamtest.Wait(t, func() bool {
		found, scanned := mustFind(t, s.JS, Search{ID: "c1"})
		return scanned == "" && len(found) == 3 && found[2].WebhookID == "msg_3"
	}, "the index is that of the new stream")
}

func TestIndex_RefusesWhatIsNoSearch(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	x, stop := keepIndex(s.JS, MinIndexBytes)
	t.Cleanup(stop)
	streamtest.Wait(t, func() bool { return !x.covers().Created.IsZero() }, "the index has begun")
	for _, body := range []string{"", "{", "{}"} {
		var text string
		streamtest.Wait(t, func() bool {
			m, err := s.NC.Request(source.FindSubject(), []byte(body), time.Minute)
			if err == nil {
				text = string(m.Data)
			}
			return err == nil
		}, "an answer")
		if !strings.Contains(text, `"error":"`) {
			t.Errorf("the answer to %q is %s; want an error", body, text)
		}
	}
}

// An index that is not complete serves a search of the time that it knows, and what it does not know is read.
func TestFindEvents_ReadsOnlyWhatIsOlderThanTheIndex(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for i := range 4 {
		anEvent(t, s.JS, fmt.Sprintf("msg_%d", i+1), "c1", "")
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	x := NewIndex(s.JS, source, MinIndexBytes) // as when it has looked at the newest two
	x.begin(st.CachedInfo())
	var at [5]time.Time
	for n := range uint64(4) {
		m, err := st.GetMsg(t.Context(), n+1)
		if err != nil {
			t.Fatal(err)
		}
		at[n+1] = m.Time
		if n >= 2 {
			continue
		}
		if m, err = st.GetMsg(t.Context(), 4-n); err != nil {
			t.Fatal(err)
		}
		x.index.addOlder(m.Sequence, m.Time.Add(-time.Hour), x.index.postings(nil, m.Sequence, m.Time, idsOf(NewEvent(source, m), m.Data)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = x.Answer(ctx, s.NC) })
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	streamtest.Wait(t, func() bool {
		_, scanned := mustFind(t, s.JS, Search{ID: "c1", Limit: 2})
		return scanned == ""
	}, "the index answers")
	found, scanned := mustFind(t, s.JS, Search{ID: "c1"})
	if len(found) != 4 || !strings.Contains(scanned, "does not go back to the oldest event") {
		t.Errorf("FindEvents = %d matches, and a scan %q; want all, and a scan of those that the index does not know", len(found), scanned)
	}
	if found, scanned := mustFind(t, s.JS, Search{ID: "c1", Since: at[4]}); len(found) != 1 || scanned != "" {
		t.Errorf("FindEvents since the newest = %d matches, and a scan %q; want one, without a scan", len(found), scanned)
	}
}

// An answer fits into a message, however long the ids of its events are.
func TestIndex_AnswersWithLongIDsInPages(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	company := strings.Repeat("<", 490) // six bytes each in an answer
	for i := range maxAnswer {
		anEvent(t, s.JS, fmt.Sprintf("msg_%d", i+1), company, "push")
	}
	x, stop := keepIndex(s.JS, MinIndexBytes)
	t.Cleanup(stop)
	streamtest.Wait(t, func() bool { return x.State().Events == maxAnswer }, "the index is built")
	streamtest.Wait(t, func() bool {
		found, scanned := mustFind(t, s.JS, Search{ID: "push"})
		if len(found) != maxAnswer || found[0].Company != company {
			t.Fatalf("FindEvents = %d matches; want %d of the company", len(found), maxAnswer)
		}
		return scanned == ""
	}, "the index answers")
	m, err := s.NC.Request(source.FindSubject(), []byte(`{"id":"push"}`), time.Minute)
	if err != nil || len(m.Data) > answerBytes+64<<10 || !strings.Contains(string(m.Data), `"next":`) {
		t.Errorf("an answer has %d bytes, %v; want %d at most and the place of the next page", len(m.Data), err, answerBytes+64<<10)
	}
}

// Processes that keep an index know more or less than each other, and one that is full drops events while it answers.
func TestFindEvents_FindsWhatTheIndexOfAnotherProcessDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for i := range 6 {
		anEvent(t, s.JS, fmt.Sprintf("msg_%d", i+1), "c1", "")
	}
	all, _ := mustFind(t, s.JS, Search{ID: "c1"}) // newest first
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	created := st.CachedInfo().Created
	for _, tt := range []struct {
		name    string
		limit   int
		answers []indexAnswer
		scans   bool
	}{
		{"a second one that is behind", 0, []indexAnswer{
			{Created: created, From: 1, Through: 6, Matches: all[:2], Next: 5},
			{Created: created, From: 1, Through: 3, Matches: all[3:]},
		}, false},
		{"a second one that has begun now", 0, []indexAnswer{
			{Created: created, From: 1, Through: 6, Matches: all[:2], Next: 5},
			{Created: created, From: 7, Through: 6},
		}, true},
		{"one that has dropped what it answers with", 0, []indexAnswer{{Created: created, From: 6, Through: 6, Matches: all[:3]}}, true},
		{"one of an earlier stream", 0, []indexAnswer{{Created: created.Add(-time.Hour), From: 1, Through: 6}}, true},
		{"one of a stream that a server has lost", 0, []indexAnswer{{Created: created, From: 1, Through: 60}}, true},
		{"two answers with as many as are wanted", 3, []indexAnswer{
			{Created: created, From: 1, Through: 6, Matches: all[:2], Next: 5},
			{Created: created, From: 1, Through: 6, Matches: all[2:3], Next: 4},
		}, false},
	} {
		asked := make(chan Search, len(tt.answers))
		sub, err := s.NC.Subscribe(source.FindSubject(), func(m *nats.Msg) {
			var q Search
			if err := json.Unmarshal(m.Data, &q); err != nil || len(asked) == len(tt.answers) {
				t.Errorf("%s: the request %d is %s, %v", tt.name, len(asked)+1, m.Data, err)
				return
			}
			body, _ := json.Marshal(tt.answers[len(asked)])
			asked <- q
			_ = m.Respond(body)
		})
		if err != nil {
			t.Fatal(err)
		}
		want := all
		if tt.limit > 0 {
			want = all[:tt.limit]
		}
		found, scanned := mustFind(t, s.JS, Search{ID: "c1", Limit: tt.limit})
		if diff := cmp.Diff(want, found); diff != "" || (scanned != "") != tt.scans {
			t.Errorf("%s: FindEvents scans: %q (-want +found):\n%s", tt.name, scanned, diff)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		close(asked)
		for wanted := tt.limit; tt.limit > 0 && wanted > 0; wanted -= 2 {
			if q := <-asked; q.Limit != wanted {
				t.Errorf("%s: it asks for %d; want %d, those that it does not have", tt.name, q.Limit, wanted)
			}
		}
	}
}

// Of a stream that has never had a message, an index knows all.
func TestFindEvents_ReadsNothingOfAnEmptyStream(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	_, stop := keepIndex(s.JS, MinIndexBytes)
	t.Cleanup(stop)
	streamtest.Wait(t, func() bool {
		found, scanned := mustFind(t, s.JS, Search{ID: "c1"})
		return len(found) == 0 && scanned == ""
	}, "the index answers")
}

// begunIndex returns an index that has begun before all messages of the stream, and knows none.
func begunIndex(t *testing.T, js jetstream.JetStream) *Index {
	t.Helper()
	x := NewIndex(js, source, MinIndexBytes)
	x.begin(infoOf(t, js))
	x.index.begin(0)
	return x
}

func infoOf(t *testing.T, js jetstream.JetStream) *jetstream.StreamInfo {
	t.Helper()
	st, err := js.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo()
}

// Two ids can have the same hash: the message says whether it has the id.
func TestIndex_AnswersWithNoMessageOfAnotherID(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	anEvent(t, s.JS, "msg_1", "c1", "")
	anEvent(t, s.JS, "msg_2", "c2", "")
	x := begunIndex(t, s.JS)
	x.index.addNewer(1, time.Now(), []string{"c1"})
	x.index.addNewer(2, time.Now(), []string{"c2", "c1"}) // as if c1 had the hash of c2
	a, err := x.search(t.Context(), Search{ID: "c1"})
	if err != nil || len(a.Matches) != 1 || a.Matches[0].Sequence != 1 {
		t.Errorf("search() = %+v, %v; want message 1 only", a, err)
	}
}

// A client reads what is behind Through: it would give twice what an answer had of that.
func TestIndex_AnswersWithNothingNewerThanItSays(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	x := begunIndex(t, s.JS)
	for n := range uint64(2) {
		anEvent(t, s.JS, fmt.Sprintf("msg_%d", n+1), "c1", "")
		x.index.addNewer(n+1, time.Now(), []string{"c1"})
	}
	x.index.through = 1 // as when message 2 comes after the answer has begun
	a, err := x.search(t.Context(), Search{ID: "c1", Before: math.MaxUint64})
	if err != nil || a.Through != 1 || len(a.Matches) != 1 || a.Matches[0].Sequence != 1 {
		t.Errorf("search() = %+v, %v; want message 1 only", a, err)
	}
}

// An answer ends in time when most of what it looks for was erased, and says where to go on.
func TestIndex_AnswersInTimeWhenEventsWereErased(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	x := begunIndex(t, s.JS)
	x.atMost = 0
	anEvent(t, s.JS, "msg_1", "c1", "")
	for n := range uint64(searchAtOnce + 2) { // of which none but the first is stored
		x.index.addNewer(n+1, time.Now(), []string{"c1"})
	}
	a, err := x.search(t.Context(), Search{ID: "c1"})
	if err != nil || len(a.Matches) != 0 || a.Next != 3 {
		t.Errorf("search() = %+v, %v; want no match, and that it goes on before 3", a, err)
	}
	a, err = x.search(t.Context(), Search{ID: "c1", Before: a.Next})
	if err != nil || len(a.Matches) != 1 {
		t.Errorf("search() = %+v, %v; want the match", a, err)
	}
}

// While it searches, an index may drop messages or begin again.
func TestIndex_AnswersWithWhatItStillKnows(t *testing.T) {
	t.Parallel()
	created, later := time.Unix(1, 0), time.Unix(2, 0)
	a := indexAnswer{Created: created, From: 5, Oldest: created, Through: 9}
	if got, err := a.at(indexAnswer{Created: created, From: 7, Oldest: later}); err != nil || got.From != 7 || !got.Oldest.Equal(later) {
		t.Errorf("of an index that has dropped some: %+v, %v; want from 7", got, err)
	}
	if got, err := a.at(indexAnswer{Created: created, From: 1}); err != nil || got.From != 5 || !got.Oldest.Equal(created) {
		t.Errorf("of an index that knows more: %+v, %v; want from 5", got, err)
	}
	if _, err := a.at(indexAnswer{Created: later, From: 5}); !errors.Is(err, stream.ErrRemade) {
		t.Errorf("of an index that has begun again: %v; want ErrRemade", err)
	}
}

// An index drops what has expired, and ends when the stream has lost what it knows.
func TestIndex_DropsWhatHasExpired(t *testing.T) {
	t.Parallel()
	s := streamtest.Empty(t)
	_, err := s.JS.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: source.Stream(), Subjects: []string{string(source) + ".>"}, FirstSeq: 2*blockSize + 1, AllowDirect: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	anEvent(t, s.JS, "msg_1", "c1", "")
	info := infoOf(t, s.JS)
	x := NewIndex(s.JS, source, MinIndexBytes)
	x.begin(info)
	for block := range uint64(3) {
		x.index.addNewer(block*blockSize+1, time.Now(), []string{"c1"})
	}
	x.index.from = 1
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := x.trim(ctx, info); err != nil {
			t.Errorf("trim() = %v", err)
		}
	})
	streamtest.Wait(t, func() bool { return x.covers().From == 2*blockSize }, "the blocks before the first message are dropped")
	cancel()
	running.Wait()

	x.index.addNewer(info.State.LastSeq+1, time.Now(), []string{"c1"})
	if err := x.trim(t.Context(), info); !errors.Is(err, stream.ErrRemade) {
		t.Errorf("trim() of a stream that has lost a message = %v; want ErrRemade", err)
	}
}

// Requests that wait do not take memory as a client wants.
func TestIndex_RefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	requests := make(chan *nats.Msg, 1)
	if _, err := s.NC.Subscribe(source.FindSubject(), func(m *nats.Msg) { enqueue(requests, m) }); err != nil {
		t.Fatal(err)
	}
	if err := s.NC.Publish(source.FindSubject(), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ id, want string }{
		{strings.Repeat("x", maxRequest), "too long"},
		{"x", "too many requests wait"},
	} {
		_, err := requestIndex(t.Context(), s.NC, source, indexRequest{Search: Search{ID: tt.id}})
		for errors.Is(err, context.DeadlineExceeded) { // the machine is slow
			_, err = requestIndex(t.Context(), s.NC, source, indexRequest{Search: Search{ID: tt.id}})
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("a request of %d bytes: %v; want %q", len(tt.id), err, tt.want)
		}
	}
	if len(requests) != 1 {
		t.Errorf("%d requests wait; want the first", len(requests))
	}
}

// A range that cannot be read is said, and does not end the index: what is newer is found.
func TestIndex_SaysWhatItCannotRead(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	anEvent(t, s.JS, "msg_1", "c1", "")
	x := NewIndex(s.JS, source, MinIndexBytes)
	info := infoOf(t, s.JS)
	x.begin(info)
	if err := s.JS.DeleteStream(t.Context(), source.Stream()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said []error
	err := x.build(ctx, info, func(err error) {
		said = append(said, err)
		cancel()
	})
	if err != nil || len(said) != 1 || !errors.Is(said[0], jetstream.ErrStreamNotFound) {
		t.Errorf("build() = %v, and says %v; want that there is no stream, once", err, said)
	}
}

func TestRetry_WaitsLongerEachTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r retry
		for _, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
			began := time.Now()
			if r.wait(t.Context()); time.Since(began) != want*time.Second {
				t.Errorf("it waits for %v; want %v", time.Since(began), want*time.Second)
			}
		}
	})
}

// The clock of the leader of a stream may be behind that of the leader before it.
func TestFindEvents_FindsWhatWasStoredSinceByAnotherClock(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t)
	for i := range 3 {
		anEvent(t, s.JS, fmt.Sprintf("msg_%d", i+1), "c1", "")
	}
	all, _ := mustFind(t, s.JS, Search{ID: "c1"}) // newest first
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	q := Search{ID: "c1", Since: m.Time, Limit: maxAnswer}
	var a indexAnswer
	if _, err := begunIndex(t, s.JS).read(t.Context(), q, []uint64{3, 1, 2}, &a); err != nil { // as if 2 was stored before 1
		t.Fatal(err)
	}
	if diff := cmp.Diff(all[:2], a.Matches); diff != "" {
		t.Errorf("an answer (-want +got):\n%s", diff)
	}

	a = indexAnswer{Created: st.CachedInfo().Created, From: 3, Through: 3, Oldest: q.Since.Add(-clockStep / 2), Matches: all[:1]}
	sub, err := s.NC.Subscribe(source.FindSubject(), func(m *nats.Msg) {
		body, _ := json.Marshal(a)
		_ = m.Respond(body)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	found, _ := mustFind(t, s.JS, q)
	if diff := cmp.Diff(all[:2], found); diff != "" {
		t.Errorf("FindEvents (-want +found):\n%s", diff)
	}
}
