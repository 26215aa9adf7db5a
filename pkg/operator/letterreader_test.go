package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// keepIndex keeps an index that answers until the returned function is called.
func keepIndex(js jetstream.JetStream) (*inspect.Index, func()) {
	x := inspect.NewIndex(js, source, inspect.MinIndexBytes)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { x.Run(ctx, func(error) {}) })
	running.Go(func() { _ = x.Answer(ctx, js.Conn()) })
	return x, func() { cancel(); running.Wait() }
}

// page returns at most limit letters as JSON, and why all were read: "" when they were not.
func page(js jetstream.JetStream, q LettersQuery, limit int) (lines []string, scanned string, err error) {
	enough := errors.New("enough")
	q.Scanning = func(reason string) { scanned = reason }
	err = Letters(context.Background(), js, source, q, func(l Letter) error {
		if len(lines) == limit {
			return enough
		}
		line, err := json.Marshal(l)
		lines = append(lines, string(line))
		return err
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return lines, scanned, err
}

// A history is what happens to dead letters in a run of a property test.
type history struct {
	*rapid.T
	operator *Operator
	server   *streamtest.Server
	run      int
}

func (h history) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatalf("the history: %v", err)
	}
}

func (h history) id() string {
	return fmt.Sprintf("msg_%d_%d", h.run, rapid.IntRange(1, 3).Draw(h.T, "event"))
}

func (h history) redrive() string {
	return rapid.SampledFrom([]string{"monday", "tuesday"}).Draw(h.T, "redrive")
}

func (h history) worker() string {
	return rapid.SampledFrom([]string{"bookkeeper", "clerk"}).Draw(h.T, "worker")
}

func (h history) letter() deadletter.Letter {
	redrive := ""
	if rapid.Bool().Draw(h.T, "redriven") {
		redrive = h.redrive()
	}
	l := deadletter.Letter{
		Worker: h.worker(), Type: "company.created", WebhookID: h.id(), Sequence: rapid.Uint64Range(1, 2).Draw(h.T, "sequence"),
		LastAttempt: time.Now(), Cause: rapid.SampledFrom([]string{"attempts", "permanent"}).Draw(h.T, "cause"),
		Redrive: redrive, Header: map[string][]string{stream.HeaderRedrive: {redrive}},
	}
	l.NoBody = rapid.IntRange(0, 9).Draw(h.T, "body") == 0
	if !l.NoBody {
		l.Body = []byte(rapid.SampledFrom([]string{"one", "two"}).Draw(h.T, "body"))
	}
	return l
}

// last is the newest number of a stream.
func (h history) last(name string) uint64 {
	st, err := h.server.JS.Stream(context.Background(), name)
	h.must(err)
	return st.CachedInfo().State.LastSeq
}

// erase removes a message of a stream, if it has one.
func (h history) erase(name string) {
	st, err := h.server.JS.Stream(context.Background(), name)
	h.must(err)
	if last := st.CachedInfo().State.LastSeq; last > 0 {
		_ = st.DeleteMsg(context.Background(), rapid.Uint64Range(max(last, 9)-8, last+8).Draw(h.T, "erased")) // that there is, or not
	}
}

// goesOn does what can happen next.
func (h history) goesOn() {
	ctx := context.Background()
	switch step := rapid.IntRange(0, 13).Draw(h.T, "step"); {
	case step < 6:
		h.must(deadletter.Bury(ctx, h.operator.publisher, source, h.letter()))
	case step < 9:
		l := h.letter()
		if !l.NoBody {
			_, err := h.operator.redriver().Redrive(ctx, h.redrive(), l)
			h.must(err)
		}
	case step < 10:
		last := h.last(source.DeadStream())
		numbers := rapid.SliceOfN(rapid.Uint64Range(max(last, 7)-6, last+1), 0, 4).Draw(h.T, "numbers")
		e := Entry{Command: "dead replay", Step: rapid.SampledFrom([]string{StepBegin, StepGiven, StepEnd}).Draw(h.T, "record"), Redrive: h.redrive()}
		e.Letters = joinNumbers(numbers)
		h.must(h.operator.Record(ctx, e))
	case step < 12:
		record := fmt.Appendf(nil, `{"state":%q}`, rapid.SampledFrom([]claims.State{claims.Done, claims.Dead, claims.Running, claims.Parked}).Draw(h.T, "claim"))
		key := claims.Key{WebhookID: h.id(), Redrive: h.redrive()}
		_, err := h.server.JS.Publish(ctx, "$KV."+source.ClaimsBucket("bookkeeper")+"."+key.String(), record)
		h.must(err)
	default:
		h.erase(rapid.SampledFrom([]string{source.DeadStream(), source.Stream()}).Draw(h.T, "stream"))
	}
}

// What came of the letters is the same whether they are read at once or in ranges, with an index or without, whatever happened to
// them.
func TestLetters_OfAPageAreThoseOfTheWholeArchive(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	streamtest.Provision(t, s.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{{Name: "clerk", Types: []codat.Pattern{"company.*"}}}})
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		h := history{T: t, operator: o, server: s, run: run}
		for _, name := range []string{source.DeadStream(), source.Stream(), source.OperatorStream()} {
			st, err := s.JS.Stream(context.Background(), name)
			h.must(err)
			h.must(st.Purge(context.Background()))
		}
		stop := func() {}
		defer func() { stop() }()
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			if rapid.IntRange(0, 12).Draw(t, "index") == 0 {
				stop()
				_, stop = keepIndex(s.JS)
			}
			h.goesOn()
		}
		f := deadletter.Filter{
			Worker: rapid.SampledFrom([]string{"", "", "bookkeeper", "clerk"}).Draw(t, "of"),
			Cause:  rapid.SampledFrom([]string{"", "", "permanent"}).Draw(t, "because"),
		}
		q := LettersQuery{Filter: f, Before: h.last(source.DeadStream()) + 2 - rapid.Uint64Range(0, 4).Draw(t, "before")}
		b, err := readBook(context.Background(), s.JS, source, deadletter.Filter{}, nil)
		h.must(err)
		var want []string
		for _, l := range slices.Backward(b.letters) {
			if f.Match(l.Letter) && l.Number < q.Before {
				line, err := json.Marshal(l)
				h.must(err)
				want = append(want, string(line))
			}
		}
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		want = want[:min(limit, len(want))]
		got, scanned, err := page(s.JS, q, limit)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("Letters(%+v), read at once because %q = %v (-of the archive +got):\n%s", q, scanned, err, diff)
		}
	})
}

// With an index nothing is read but a page, and the letters, redrives and claims that it depends on.
func TestLetters_AskTheIndex(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	for i := range 2 * firstRange {
		bury(t, o, fmt.Sprintf("msg_%d", i+1), "", "{}")
	}
	if _, scanned, err := page(s.JS, LettersQuery{}, 3); err != nil || scanned == "" {
		t.Errorf("without an index, Letters = %v, and reads all because %q; want a reason", err, scanned)
	}
	x, stop := keepIndex(s.JS)
	t.Cleanup(stop)
	redrive(t, o, "monday", LettersOptions{Numbers: []uint64{1, 3}})
	claim(t, s, "msg_1", "monday", claims.Done)
	bury(t, o, "msg_3", "monday", "{}")
	streamtest.Wait(t, func() bool {
		_, scanned, err := page(s.JS, LettersQuery{}, 1)
		return x.State().Events == 5 && err == nil && scanned == ""
	}, "the index answers, and knows three events and two redrives")
	var got []string
	q := LettersQuery{Scanning: func(reason string) { t.Errorf("all are read: %s", reason) }}
	for range 2 { // as pages
		err := Letters(t.Context(), s.JS, source, q, func(l Letter) error {
			got = append(got, fmt.Sprintf("%d %s", l.Number, l.State))
			if q.Before = l.Number; len(got)%100 == 0 {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
	}
	if len(got) != 2*firstRange+1 || got[0] != "129 open" || got[126] != "3 replaced" || got[127] != "2 open" || got[128] != "1 done" {
		t.Errorf("Letters = %q; want 129 letters, newest first, of which 3 was replaced and 1 is done", got)
	}
	redrive(t, o, "tuesday", LettersOptions{Numbers: []uint64{9}}) // which the index need not know yet
	l, err := ReadLetter(t.Context(), s.JS, source, 9)
	if err != nil || l.State != LetterGiven || len(l.Given) != 1 || l.Given[0].Outcome != OutcomeWaiting {
		t.Errorf("ReadLetter(9) = %+v, %v; want one that was given just now", l, err)
	}
	l, err = ReadLetter(t.Context(), s.JS, source, 3)
	if err != nil || l.State != LetterReplaced || l.ReplacedBy != 129 {
		t.Errorf("ReadLetter(3) = %+v, %v; want one that 129 has replaced", l, err)
	}
}

func TestLetters_ReadsOnlyThePeriod(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	for i := range 3 {
		bury(t, o, fmt.Sprintf("msg_%d", i+1), "", "{}")
	}
	second, err := deadletter.Get(t.Context(), s.JS, source, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		since, until   time.Time
		after, through uint64
		want           int
	}{
		{time.Time{}, time.Time{}, 0, 3, 3},
		{second.Buried, time.Time{}, 0, 3, 2}, // a clock may have been set back by a minute
		{time.Time{}, second.Buried, 0, 3, 1},
		{second.Buried.Add(2 * clockStep), time.Time{}, 3, 3, 0},
		{time.Time{}, second.Buried.Add(-2 * clockStep), 0, 0, 0},
	} {
		q := LettersQuery{Filter: deadletter.Filter{Since: tt.since, Until: tt.until}}
		after, through, err := q.bounds(t.Context(), s.JS, source)
		got, _, letters := page(s.JS, q, 9)
		if after != tt.after || through != tt.through || len(got) != tt.want || err != nil || letters != nil {
			t.Errorf("%+v is between %d and %d, %v, and Letters = %d, %v; want %d and %d, and %d letters", q.Filter, after, through, err, len(got), letters, tt.after, tt.through, tt.want)
		}
	}
}
