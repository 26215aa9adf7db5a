package operator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// bury stores a dead letter of the bookkeeper.
func bury(t testing.TB, o *Operator, id, redrive, body string) {
	t.Helper()
	err := deadletter.Bury(t.Context(), o.publisher, source, deadletter.Letter{
		Worker: "bookkeeper", Type: "company.created", WebhookID: id, Sequence: 1, LastAttempt: time.Now(), Body: []byte(body),
		Header: map[string][]string{stream.HeaderRedrive: {redrive}}, Redrive: redrive,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// claim writes the bookkeeper's claim of a redrive.
func claim(t testing.TB, s *streamtest.Server, id, redrive string, state claims.State) {
	t.Helper()
	record, err := json.Marshal(claims.Record{State: state})
	if err != nil {
		t.Fatal(err)
	}
	key := claims.Key{WebhookID: id, Redrive: redrive}
	if _, err := s.JS.Publish(t.Context(), "$KV."+source.ClaimsBucket("bookkeeper")+"."+key.String(), record); err != nil {
		t.Fatal(err)
	}
}

// redrive gives the chosen letters again.
func redrive(t testing.TB, o *Operator, id string, opts LettersOptions) RedriveResult {
	t.Helper()
	selection, err := o.SelectLetters(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	result, err := o.Redrive(t.Context(), selection, RedriveOptions{ID: id, Rate: 10000})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// wantStates compares the letters with lines such as "1 done", "2 replaced by 4" or "3 given: waiting".
func wantStates(t testing.TB, o *Operator, f deadletter.Filter, want ...string) {
	t.Helper()
	var got []string
	err := Letters(t.Context(), o.js, source, LettersQuery{Filter: f}, func(l Letter) error {
		line := fmt.Sprintf("%d %s", l.Number, l.State)
		if l.ReplacedBy > 0 {
			line += fmt.Sprintf(" by %d", l.ReplacedBy)
		}
		if l.Replaces > 0 {
			line += fmt.Sprintf(" after %d", l.Replaces)
		}
		for _, g := range l.Given {
			line += fmt.Sprintf(", %s: %s", g.Redrive, g.Outcome)
		}
		got = append([]string{line}, got...)
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the letters are %q, %v; want %q", got, err, want)
	}
}

func TestLetters_TellWhatCameOfEach(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	for _, id := range []string{"msg_1", "msg_2", "msg_3", "msg_4"} {
		bury(t, o, id, "", id)
	}
	wantStates(t, o, deadletter.Filter{}, "1 open", "2 open", "3 open", "4 open")
	redrive(t, o, "monday", LettersOptions{Numbers: []uint64{1, 2, 3}})
	claim(t, s, "msg_1", "monday", claims.Done)
	claim(t, s, "msg_2", "monday", claims.Dead)
	bury(t, o, "msg_2", "monday", "msg_2")
	wantStates(t, o, deadletter.Filter{}, "1 done, monday: done", "2 replaced by 5, monday: dead", "3 given, monday: waiting", "4 open", "5 open after 2")
	claim(t, s, "msg_3", "monday", claims.Parked)
	wantStates(t, o, deadletter.Filter{Worker: "bookkeeper", Type: "company.*"},
		"1 done, monday: done", "2 replaced by 5, monday: dead", "3 given, monday: parked", "4 open", "5 open after 2")

	// Only what is open is given again, and what the same redrive had given before.
	if got := redrive(t, o, "tuesday", LettersOptions{}); got.Given != 2 || got.LeftOut != 3 {
		t.Errorf("Redrive = %+v; want letters 4 and 5 given, and three left out", got)
	}
	if got := redrive(t, o, "monday", LettersOptions{Redrive: "monday"}); got.Chosen != 2 || got.Before != 2 || got.LeftOut != 3 {
		t.Errorf("Redrive = %+v; want letters 1 and 3, given before", got)
	}
	claim(t, s, "msg_2", "tuesday", claims.Done)
	claim(t, s, "msg_4", "tuesday", claims.Running)
	after := []string{"1 done, monday: done", "2 replaced by 5, monday: dead", "3 given, monday: parked", "4 given, tuesday: running", "5 done after 2, tuesday: done"}
	wantStates(t, o, deadletter.Filter{}, after...)
	l, err := ReadLetter(t.Context(), o.js, source, 5)
	if err != nil || l.State != LetterDone || l.Replaces != 2 || string(l.Body) != "msg_2" || l.Given[0].Command != "dead replay" || l.Given[0].By == "" {
		t.Errorf("ReadLetter = %+v, %v; want letter 5 with its body, and who gave it", l, err)
	}

	// The records name the letters for longer than the stream has the redrives.
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Purge(t.Context(), jetstream.WithPurgeSubject(source.RedriveFilter("bookkeeper"))); err != nil {
		t.Fatal(err)
	}
	wantStates(t, o, deadletter.Filter{}, after...)
	bucket, err := s.JS.Stream(t.Context(), "KV_"+source.ClaimsBucket("bookkeeper"))
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStates(t, o, deadletter.Filter{}, "1 given, monday: unknown", "2 replaced by 5, monday: dead", "3 given, monday: unknown",
		"4 given, tuesday: unknown", "5 given after 2, tuesday: unknown")
}

// As with claims in PostgreSQL, which `headgate dead` does not read.
func TestLetters_WithoutBucketOfClaims(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	bury(t, o, "msg_1", "", "{}")
	redrive(t, o, "monday", LettersOptions{})
	if err := s.JS.DeleteStream(t.Context(), "KV_"+source.ClaimsBucket("bookkeeper")); err != nil {
		t.Fatal(err)
	}
	wantStates(t, o, deadletter.Filter{}, "1 given, monday: waiting")
	consumer, err := s.JS.Consumer(t.Context(), source.Stream(), "bookkeeper")
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.JS.Stream(t.Context(), source.Stream())
	if err != nil {
		t.Fatal(err)
	}
	for settled := uint64(0); settled < st.CachedInfo().State.LastSeq; { // a new worker begins with the redrive, or before
		m, err := consumer.Next(jetstream.FetchMaxWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		md, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		settled = md.Sequence.Stream
	}
	wantStates(t, o, deadletter.Filter{}, "1 given, monday: settled")
}

// An early version named events without a webhook-id by their sequence alone.
func TestLetters_OfOtherEventsReplaceNothing(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	bury(t, o, "sequence-7", "", "one")
	bury(t, o, "sequence-7", "", "two")
	redrive(t, o, "monday", LettersOptions{Numbers: []uint64{2}})
	claim(t, s, "sequence-7", "monday", claims.Done)
	wantStates(t, o, deadletter.Filter{}, "1 open", "2 done, monday: done")
}

// The records of an archive that was deleted name numbers that other letters have now.
func TestLetters_IgnoreOlderRecords(t *testing.T) {
	t.Parallel()
	o, _ := newOperator(t)
	b := &book{source: source, events: map[eventKey][]*deadEvent{}}
	b.add(hashLetter(deadletter.Letter{Worker: "bookkeeper", WebhookID: "msg_1", Number: 1, Buried: time.Now()}))
	b.name(Entry{Redrive: "old", At: time.Now().Add(-time.Hour)}, 1, 9)
	if got := b.of(b.letters[0]).givings; len(got) != 0 {
		t.Errorf("letter 1 was given by %v; want nothing, because it is newer than the record", got)
	}
	wantStates(t, o, deadletter.Filter{})
}

func TestGivenLog_RecordsManyNumbersInParts(t *testing.T) {
	t.Parallel()
	o, s := newOperator(t)
	l := &givenLog{operator: o, entry: Entry{Command: "dead replay", Redrive: "monday"}}
	for n := uint64(1); n <= givenPerRecord+2; n++ {
		if err := l.add(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	all := records(t, s.JS)
	if len(all) != 1 || all[0].Step != StepGiven || all[0].Letters != "1-10000" || joinNumbers(l.numbers) != "10001-10002" {
		t.Errorf("the records are %+v, and %d numbers are left; want 1-10000, and two left", all, len(l.numbers))
	}
}

func TestJoinNumbers_IsReadBySplitNumbers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		numbers []uint64
		want    string
	}{
		{nil, ""},
		{[]uint64{7}, "7"},
		{[]uint64{3, 1, 2, 2, 9, 11, 12}, "1-3,9,11-12"},
	} {
		got := joinNumbers(tt.numbers)
		var back []string
		splitNumbers(got, func(first, last uint64) {
			if first == last {
				back = append(back, fmt.Sprint(first))
			} else {
				back = append(back, fmt.Sprintf("%d-%d", first, last))
			}
		})
		if got != tt.want || strings.Join(back, ",") != tt.want {
			t.Errorf("joinNumbers(%v) = %q, read back as %q; want %q", tt.numbers, got, back, tt.want)
		}
	}
	splitNumbers("x,4-y,-,5-6", func(first, last uint64) {
		if first != 5 || last != 6 {
			t.Errorf("splitNumbers reads %d-%d of what it cannot read", first, last)
		}
	})
}
