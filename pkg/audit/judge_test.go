package audit

import (
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A record that is done does not say when its first attempt began: the worker was there when it was written.
func TestClaimSet_KnowsSinceWhenTheWorkerIsThere(t *testing.T) {
	t.Parallel()
	s := streamtest.New(t, stream.WorkerSpec{Name: "tested"})
	a := &Audit{JS: s.JS, Source: streamtest.Source, Progress: func(string, uint64, uint64) {}}
	kv, err := s.JS.KeyValue(t.Context(), a.Source.ClaimsBucket("tested"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, record string) time.Time {
		t.Helper()
		if _, err := kv.Put(t.Context(), key, []byte(record)); err != nil {
			t.Fatal(err)
		}
		e, err := kv.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return e.Created()
	}
	first := func(want time.Time) {
		t.Helper()
		c, err := a.readClaims(t.Context(), "tested")
		if err != nil || !c.first.Equal(want) {
			t.Errorf("the first attempt of all began at %v, %v; want %v", c.first, err, want)
		}
	}
	first(time.Time{})
	written := put("one", `{"state":"done","seq":1}`)
	put("two", `{"state":"done","seq":2}`)
	first(written)
	earlier := written.Add(-time.Hour)
	put("three", `{"state":"waiting","seq":3,"first":"`+earlier.Format(time.RFC3339Nano)+`"}`)
	first(earlier)
}

// A worker that has no claim left is known by its bucket.
func TestAssessment_KnowsAWorkerByItsBucket(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name     string
		policy   jetstream.DeliverPolicy
		consumer time.Time
		want     int64
	}{
		{"a consumer that was made with its bucket", jetstream.DeliverNewPolicy, made.Add(time.Second), math.MaxInt64},
		{"one that was made again and begins with new events", jetstream.DeliverNewPolicy, made.Add(time.Hour), made.Add(clockSkew).UnixNano()},
		{"one that was made again and begins at a time", jetstream.DeliverByStartTimePolicy, made.Add(time.Hour), math.MaxInt64},
	}
	for _, tt := range tests {
		a := assessment{claims: &claimSet{}, bucket: made, consumer: &jetstream.ConsumerInfo{
			Created: tt.consumer, Config: jetstream.ConsumerConfig{DeliverPolicy: tt.policy},
		}}
		if got := a.knownSince(); got != tt.want {
			t.Errorf("%s: knownSince = %d; want %d", tt.name, got, tt.want)
		}
	}
}

func TestJudge_GivesEveryEventOneState(t *testing.T) {
	// The consumer has acknowledged up to 10, delivered up to 20, and will deliver from 30 on.
	p := position{floor: 10, delivered: 20, next: 30}
	const acknowledged, delivered, passed, ahead = 5, 15, 25, 35
	tests := []struct {
		name string
		e    evidence
		want verdict
	}{
		{"done", evidence{owned: true, sequence: acknowledged, claim: claims.Done}, verdict{state: Done}},
		{"done, and its ack was lost", evidence{owned: true, sequence: delivered, claim: claims.Done}, verdict{state: Done}},
		{"done before the worker changed what it takes", evidence{sequence: acknowledged, claim: claims.Done}, verdict{state: Done}},
		{"done, and its parked copy is not acknowledged yet", evidence{owned: true, sequence: acknowledged, claim: claims.Done, copy: true}, verdict{state: Done}},
		{"done and dead", evidence{owned: true, sequence: acknowledged, claim: claims.Done, letter: true}, verdict{wrong: DoneAndDead}},
		{"dead", evidence{owned: true, sequence: acknowledged, claim: claims.Dead, letter: true}, verdict{state: Dead}},
		{"dead without a letter", evidence{owned: true, sequence: acknowledged, claim: claims.Dead}, verdict{wrong: NoLetter}},
		{"parked", evidence{owned: true, sequence: acknowledged, claim: claims.Parked, copy: true}, verdict{state: Parked}},
		{"parked without a copy", evidence{owned: true, sequence: acknowledged, claim: claims.Parked}, verdict{wrong: NoCopy}},
		{"waiting for another delivery", evidence{owned: true, sequence: delivered, claim: claims.Waiting}, verdict{state: Waiting, outstanding: true}},
		{"running", evidence{owned: true, sequence: delivered, claim: claims.Running}, verdict{state: Waiting, outstanding: true}},
		{"burying", evidence{owned: true, sequence: delivered, claim: claims.Burying, letter: true}, verdict{state: Waiting, outstanding: true}},
		{"running as its parked copy", evidence{owned: true, sequence: acknowledged, claim: claims.Running, copy: true}, verdict{state: Waiting}},
		{"waiting after the consumer went back", evidence{owned: true, sequence: ahead, claim: claims.Waiting}, verdict{state: Waiting}},
		{"waiting, and acknowledged", evidence{owned: true, sequence: acknowledged, claim: claims.Waiting}, verdict{wrong: Stranded}},
		{"running, and acknowledged", evidence{owned: true, sequence: acknowledged, claim: claims.Running}, verdict{wrong: Stranded}},
		{"burying, and acknowledged", evidence{owned: true, sequence: acknowledged, claim: claims.Burying}, verdict{wrong: Stranded}},
		{"waiting, and passed over", evidence{owned: true, sequence: passed, claim: claims.Waiting}, verdict{wrong: Stranded}},
		{"not begun, and to be delivered", evidence{owned: true, sequence: ahead}, verdict{state: ToCome}},
		{"not begun, and delivered", evidence{owned: true, sequence: delivered}, verdict{state: ToCome, outstanding: true}},
		{"acknowledged without a claim", evidence{owned: true, sequence: acknowledged}, verdict{wrong: Skipped}},
		{"passed over", evidence{owned: true, sequence: passed}, verdict{wrong: Skipped}},
		{"without a claim, and its copy will run", evidence{owned: true, sequence: acknowledged, copy: true}, verdict{state: ToCome}},
		{"not the worker's", evidence{sequence: acknowledged}, verdict{state: notOwned}},
		{"not the worker's any more, and its copy will run", evidence{sequence: acknowledged, copy: true}, verdict{state: Parked}},
		{"a state of another version", evidence{owned: true, sequence: acknowledged, claim: "dreaming"}, verdict{wrong: UnknownState}},
	}
	for _, tt := range tests {
		if got := judge(tt.e, p); got != tt.want {
			t.Errorf("%s: judge(%+v) = %+v; want %+v", tt.name, tt.e, got, tt.want)
		}
	}
}

func TestSnapshot_ReconfirmKeepsWhatDidNotChange(t *testing.T) {
	at := func(kind Kind, key string, revision uint64) finding {
		return finding{Exception: Exception{Kind: kind}, key: key, revision: revision, judged: true}
	}
	out := func(keys ...string) map[string]uint64 {
		m := map[string]uint64{}
		for _, k := range keys {
			m[k] = 7
		}
		return m
	}
	tests := []struct {
		name          string
		first, second snapshot
		want          []Kind
	}{
		{"found twice", snapshot{found: []finding{at(NoCopy, "a", 1)}}, snapshot{found: []finding{at(NoCopy, "a", 1)}}, []Kind{NoCopy}},
		{"found twice, and written in between", snapshot{found: []finding{at(NoCopy, "a", 1)}}, snapshot{found: []finding{at(NoCopy, "a", 2)}}, nil},
		{"found once, then another", snapshot{found: []finding{at(NoCopy, "a", 1)}}, snapshot{found: []finding{at(NoCopy, "b", 1)}}, nil},
		{"found twice as different things", snapshot{found: []finding{at(NoCopy, "a", 1)}}, snapshot{found: []finding{at(Stranded, "a", 1)}}, nil},
		{"more outstanding than pending acks", snapshot{outstanding: out("a", "b")}, snapshot{outstanding: out("a", "b"), acks: 1}, []Kind{Acknowledged}},
		{"as many outstanding as pending acks", snapshot{outstanding: out("a", "b")}, snapshot{outstanding: out("a", "b"), acks: 2}, nil},
		{"others outstanding than before", snapshot{outstanding: out("a", "b")}, snapshot{outstanding: out("c", "d"), acks: 1}, nil},
	}
	for _, tt := range tests {
		tt.second.reconfirm(tt.first)
		var got []Kind
		for _, f := range tt.second.found {
			got = append(got, f.Kind)
		}
		if len(got) != len(tt.want) || len(got) == 1 && got[0] != tt.want[0] {
			t.Errorf("%s: reconfirm = %q; want %q", tt.name, got, tt.want)
		}
	}
}
