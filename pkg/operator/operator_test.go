package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const source = streamtest.Source

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newOperator returns an operator of a source with a worker and three events of it.
func newOperator(t testing.TB) (*Operator, *streamtest.Server) {
	t.Helper()
	s := streamtest.New(t, stream.WorkerSpec{Name: "bookkeeper", Types: []codat.Pattern{"company.*"}})
	o, err := New(s.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	for _, id := range []string{"msg_1", "msg_2", "msg_3"} {
		m, err := source.Message(stream.Stored{ID: id, Head: codat.Head{Type: "company.created"}, Received: time.Now()}, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	return o, s
}

// records returns the steps and the counts of the operators' records.
func records(t testing.TB, js jetstream.JetStream) []Entry {
	t.Helper()
	var all []Entry
	_, err := stream.Read(t.Context(), js, source.OperatorStream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
		var e Entry
		err := json.Unmarshal(m.Data, &e)
		all = append(all, e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestOperator_RedriveRecordsBeginAndEnd(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper", IDs: []string{"msg_1", "msg_3"}})
	if err != nil {
		t.Fatal(err)
	}
	var progress []int
	opts := RedriveOptions{ID: "monday", Rate: 1000, Progress: func(done, _ int) { progress = append(progress, done) }}
	for _, want := range []RedriveResult{
		{Redrive: "monday", Chosen: 2, Given: 2},
		{Redrive: "monday", Chosen: 2, Before: 2}, // within one redrive nothing is given twice
	} {
		if got, err := o.Redrive(t.Context(), selection, opts); err != nil || got != want {
			t.Errorf("Redrive = %+v, %v; want %+v", got, err, want)
		}
	}
	if len(progress) != 4 || progress[1] != 2 {
		t.Errorf("Progress was called with %v; want 1 and 2, twice", progress)
	}
	all := records(t, s.JS)
	if len(all) != 4 || all[0].Step != StepBegin || all[1].Step != StepEnd || all[1].Given != 2 || all[3].Before != 2 ||
		all[0].Command != "replay" || all[0].Chosen["worker"] != "bookkeeper" || all[0].User == "" || all[0].Host == "" {
		t.Errorf("the records are %+v", all)
	}
}

func TestOperator_RedriveNamesExpiredEvents(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	got, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: "monday", Rate: 1000})
	if want := (RedriveResult{Redrive: "monday", Chosen: 3, Given: 2, NotGiven: 1}); got != want || err == nil || err.Error() != "event 2 was not given: it has expired since it was chosen" {
		t.Errorf("Redrive = %+v, %v; want %+v, and the event that was not given", got, err, want)
	}
	if all := records(t, s.JS); len(all) != 2 || all[1].Given != 2 || all[1].Error == "" {
		t.Errorf("the records are %+v; want the event that was not given in the second", all)
	}
}

func TestOperator_RedriveSkipsNothingWhereAReplicaIsBehind(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	events, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper"})
	if err != nil {
		t.Fatal(err)
	}
	letter := deadletter.Letter{Worker: "bookkeeper", Type: "company.created", WebhookID: "msg_1", Sequence: 1, NoBody: true}
	if err := deadletter.Bury(t.Context(), o.publisher, source, letter); err != nil {
		t.Fatal(err)
	}
	letters, err := o.SelectLetters(t.Context(), LettersOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.js = s.Behind(t)
	for name, selection := range map[string]*Selection{"events": events, "letters": letters} {
		got, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: name, Rate: 1000})
		if want := (RedriveResult{Redrive: name, Chosen: selection.Len(), Given: selection.Len()}); err != nil || got != want {
			t.Errorf("Redrive = %+v, %v; want %+v", got, err, want)
		}
	}
}

// An early version named events without a webhook-id by their sequence alone, which begins anew in a stream that is made again.
func TestOperator_RedriveNamesLettersThatShareAnID(t *testing.T) {
	t.Parallel()
	o, _ := newOperator(t)
	for i, body := range []string{"one", "two", "one"} {
		err := deadletter.Bury(t.Context(), o.publisher, source, deadletter.Letter{
			Worker: "bookkeeper", Type: "company.created", WebhookID: "sequence-7", Sequence: 7, LastAttempt: time.Now().Add(time.Duration(i) * time.Second), Body: []byte(body),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	selection, err := o.SelectLetters(t.Context(), LettersOptions{Again: true})
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: "monday", Rate: 1000})
	if want := (RedriveResult{Redrive: "monday", Chosen: 3, Given: 1, Before: 1, NotGiven: 1}); got != want || err == nil || !strings.Contains(err.Error(), "dead letter 2 was not given: it has the webhook-id and worker of dead letter 1") {
		t.Errorf("Redrive = %+v, %v; want %+v, and the letter that was not given", got, err, want)
	}
}

func TestOperator_RedriveStopsWithItsContext(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	got, err := o.Redrive(ctx, selection, RedriveOptions{ID: "slow", Rate: 0.001, Progress: func(int, int) { stop() }})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stopped before event 2") || got.Given != 1 {
		t.Errorf("Redrive = %+v, %v; want one given, and where it stopped", got, err)
	}
	if all := records(t, s.JS); len(all) != 2 || all[1].Given != 1 || all[1].Error == "" {
		t.Errorf("the records are %+v; want an end with the error", all)
	}
}

func TestOperator_DoesNothingThatItCannotRecord(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.JS.DeleteStream(t.Context(), source.OperatorStream()); err != nil {
		t.Fatal(err)
	}
	o.timeout = 50 * time.Millisecond
	got, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: "monday", Rate: 1000})
	if err == nil || got.Given != 0 {
		t.Errorf("Redrive without a stream for its record = %+v, %v; want an error and nothing given", got, err)
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if last := st.CachedInfo().State.LastSeq; last != 3 {
		t.Errorf("the stream ends at %d; want 3, without a redrive", last)
	}
}

func TestOperator_SelectRefusesWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	all, err := stream.Workers(t.Context(), s.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	metadata := all[0].Config.Metadata // which says that the consumer is a worker's
	if _, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "nobody"}); err == nil || !strings.Contains(err.Error(), `no worker "nobody" is provisioned`) {
		t.Errorf("SelectEvents = %v; want the worker that is not provisioned", err)
	}
	if err := s.JS.DeleteConsumer(t.Context(), source.Stream(), "bookkeeper"); err != nil {
		t.Fatal(err)
	}
	narrow := jetstream.ConsumerConfig{Durable: "bookkeeper", FilterSubject: source.EventFilter(">"), Metadata: metadata}
	if _, err := s.JS.CreateConsumer(t.Context(), source.Stream(), narrow); err != nil {
		t.Fatal(err)
	}
	if _, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper"}); err == nil || !strings.Contains(err.Error(), "does not take codat.redrive.bookkeeper.>") {
		t.Errorf("SelectEvents = %v; want the filter that the consumer does not have", err)
	}
	if _, err := o.SelectLetters(t.Context(), LettersOptions{Numbers: []uint64{7}}); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("SelectLetters = %v; want %v", err, deadletter.ErrNotFound)
	}
	if _, err := o.Release(t.Context(), 1, "company.created"); !errors.Is(err, inspect.ErrNotQuarantined) {
		t.Errorf("Release of an event = %v; want %v", err, inspect.ErrNotQuarantined)
	}
}

// A record of very many numbers must still be a message.
func TestLettersOptions_RecordsSomeOfManyNumbers(t *testing.T) {
	t.Parallel()
	numbers := make([]uint64, 500_000)
	for i := range numbers {
		numbers[i] = uint64(i) + 1
	}
	record, err := encode(LettersOptions{Numbers: numbers}.chosen())
	if err != nil || len(record) > 64<<10 || !strings.HasPrefix(string(record), `{"numbers":[1,2,3,`) {
		t.Errorf("of %d numbers the record has %d bytes, %v; want the first of them", len(numbers), len(record), err)
	}
}

func TestOperator_SelectsEachNumberOnceOldestFirst(t *testing.T) {
	t.Parallel()
	o, _ := newOperator(t)
	for _, id := range []string{"msg_1", "msg_2", "msg_3"} {
		bury(t, o, id, "", id)
	}
	s, err := o.SelectLetters(t.Context(), LettersOptions{Numbers: []uint64{3, 1, 3, 2, 1}, Limit: 2})
	if err != nil || !slices.Equal(s.numbers, []uint64{1, 2}) {
		t.Errorf("SelectLetters = %v, %v; want 1 and 2, as dead list prints the newest first", s.numbers, err)
	}
}

func TestRedriveOptions_Validate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		opts RedriveOptions
		ok   bool
	}{
		{"a new ID", RedriveOptions{ID: NewRedriveID(), Rate: 1}, true},
		{"no ID", RedriveOptions{Rate: 1}, false},
		{"an ID with a colon", RedriveOptions{ID: "a:b", Rate: 1}, false},
		{"no rate", RedriveOptions{ID: "monday"}, false},
		{"the smallest rate", RedriveOptions{ID: "monday", Rate: 0.001}, true},
		{"a rate that would never give the second event", RedriveOptions{ID: "monday", Rate: 1e-300}, false},
		{"a rate that is no number", RedriveOptions{ID: "monday", Rate: math.NaN()}, false},
		{"a rate without a limit", RedriveOptions{ID: "monday", Rate: math.Inf(1)}, false},
	}
	for _, tt := range tests {
		if err := tt.opts.Validate(); (err == nil) != tt.ok {
			t.Errorf("%s: Validate = %v; want an error: %t", tt.name, err, !tt.ok)
		}
	}
}

// At a high rate, messages are given some at once: each once, and of an ordered worker in their order.
func TestOperator_RedrivesFast(t *testing.T) {
	t.Parallel()
	const events = 400
	s := streamtest.New(t, stream.WorkerSpec{Name: "bookkeeper", Types: []codat.Pattern{"company.*"}},
		stream.WorkerSpec{Name: "ordered", Types: []codat.Pattern{"company.*"}, MaxAckPending: 1})
	o, err := New(s.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	for i := range events {
		m, err := source.Message(stream.Stored{ID: fmt.Sprintf("msg_%d", i), Head: codat.Head{Type: "company.created"}, Received: time.Now()}, []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.JS.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	<-s.JS.PublishAsyncComplete()
	for _, worker := range []string{"bookkeeper", "ordered"} {
		selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: worker, Limit: events - 1})
		if err != nil {
			t.Fatal(err)
		}
		got, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: "monday", Rate: 5000})
		if want := (RedriveResult{Redrive: "monday", Chosen: events - 1, Given: events - 1}); err != nil || got != want {
			t.Errorf("Redrive = %+v, %v; want %+v", got, err, want)
		}
		seen, last := map[uint64]bool{}, uint64(0)
		read := stream.ReadOptions{Filters: []string{source.RedriveFilter(worker)}}
		_, err = stream.Read(t.Context(), s.JS, source.Stream(), read, func(m *jetstream.RawStreamMsg) error {
			n := source.OpenRaw(m).Sequence
			if worker == "ordered" && n < last {
				t.Errorf("event %d is given after event %d", n, last)
			}
			seen[n], last = true, n
			return nil
		})
		if err != nil || len(seen) != events-1 || seen[events] {
			t.Errorf("%d different events were given, %v; want the %d oldest", len(seen), err, events-1)
		}
	}
}

// What follows an event that could not be given does not overtake it.
func TestOperator_RedriveStopsAtAFailureInOrder(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, stream.WorkerSpec{Name: "ordered", Types: []codat.Pattern{"company.*"}, MaxAckPending: 1})
	o, err := New(s.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	for i, body := range []string{"{}", `"` + strings.Repeat("x", 8000) + `"`, "{}"} {
		m, err := source.Message(stream.Stored{ID: fmt.Sprintf("msg_%d", i), Head: codat.Head{Type: "company.created"}, Received: time.Now()}, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.JS.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "ordered"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	small := st.CachedInfo().Config
	small.MaxMsgSize = 4000
	if _, err := s.JS.UpdateStream(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	got, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: "monday", Rate: 5000})
	if want := (RedriveResult{Redrive: "monday", Chosen: 3, Given: 1}); !errors.Is(err, stream.ErrTooLarge) || got != want {
		t.Errorf("Redrive = %+v, %v; want %+v and that the second is too large", got, err, want)
	}
}

// A redrive whose context ends before a message is read says so: it has not given all.
func TestRedriveRun_StopsBeforeWhatIsNotRead(t *testing.T) {
	t.Parallel()
	o, _ := newOperator(t)
	selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // the run may look at ctx or at the message first
		run := newRedriveRun(o, selection, RedriveOptions{ID: "monday", Rate: 5000}, Entry{})
		if err := run.all(ctx); !errors.Is(err, context.Canceled) || run.given > 0 {
			t.Fatalf("%d given, %v; want none and that the context has ended", run.given, err)
		}
	}
}

func TestOperator_RedriveRefusesAFullStream(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	selection, err := o.SelectEvents(t.Context(), EventsOptions{Worker: "bookkeeper"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	full := st.CachedInfo().Config
	full.MaxBytes = int64(st.CachedInfo().State.Bytes) + 1
	if _, err := s.JS.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	got, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: "monday", Rate: 1000})
	if !errors.Is(err, stream.ErrFull) || got.Given != 0 {
		t.Errorf("Redrive = %+v, %v; want ErrFull and nothing given", got, err)
	}
}
