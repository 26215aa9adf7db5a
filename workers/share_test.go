package workers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A worker whose events are all parked, or all dead letters, leaves room for the other workers and loses none of its own: what is
// over its share waits and counts no attempt.
func TestShare_KeepsRoomForOtherWorkers(t *testing.T) {
	for _, tt := range []struct {
		name          string
		ends          error
		stored, waits claims.State
		stream        string
		subject       string // of another worker
		layout        stream.Layout
	}{
		{
			"parked events", RetryAfter(time.Hour, errBoom), claims.Parked, claims.Waiting,
			source.ParkedStream(), source.ParkedSubject("another", "company.created"),
			stream.Layout{Source: source, ParkedMaxBytes: 64 << 10},
		},
		{
			"dead letters", Permanent(errBoom), claims.Dead, claims.Burying,
			source.DeadStream(), source.DeadSubject("another", "company.created"),
			stream.Layout{Source: source, DeadMaxBytes: 64 << 10},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFixture(t, Worker{ParkAfter: time.Second, Concurrency: 4}, func(context.Context, write) error { return tt.ends })
			streamtest.Provision(t, r.JS, tt.layout)
			const events = 200 // more than twice as much as the stream may hold
			r.postAll("msg", events)
			p, _ := r.running()
			states := map[claims.State]int{}
			streamtest.Wait(t, func() bool {
				clear(states)
				for i := range events {
					states[r.state(fmt.Sprintf("msg_%d", i))]++
				}
				return states[tt.stored]+states[tt.waits] == events
			}, "every event to be stored or to wait")
			if states[tt.stored] < events/5 || states[tt.waits] < events/5 {
				t.Errorf("%v; want some %s and the rest %s", states, tt.stored, tt.waits)
			}
			if n := r.messages(tt.stream); n != uint64(states[tt.stored]) {
				t.Errorf("%s has %d messages of %d events", tt.stream, n, states[tt.stored])
			}
			if _, err := r.JS.Publish(t.Context(), tt.subject, make([]byte, 8<<10)); err != nil {
				t.Errorf("another worker cannot store 8 KiB in %s: %v", tt.stream, err)
			}
			for i := range events {
				if rec := r.record(claims.Key{WebhookID: fmt.Sprintf("msg_%d", i)}); rec.State == claims.Waiting && rec.Attempts != 0 {
					t.Fatalf("an event that could not be parked has counted %d attempts; want 0", rec.Attempts)
				}
			}
			streamtest.Wait(t, func() bool {
				return shareOf(t, p, tt.stream) == 1
			}, "the metric to say that the share is reached")
		})
	}
}

// A share is four times what is free, whatever other messages there are, and follows what the stream holds and may hold.
func TestShare_IsFourTimesWhatIsFree(t *testing.T) {
	now := time.Now()
	var u stream.Usage
	var answer error
	s := &share{worker: "tested", stream: "CODAT_PARKED", flag: "--parked-max-bytes", now: func() time.Time { return now }, usage: func(context.Context) (stream.Usage, error) {
		return u, answer
	}}
	for _, tt := range []struct {
		name  string
		usage stream.Usage
		err   error
		full  bool
	}{
		{"an empty stream", stream.Usage{MaxBytes: 1000}, nil, false},
		{"alone, less than four fifths", stream.Usage{Bytes: 700, MaxBytes: 1000, Messages: 70, Matching: 70}, nil, false},
		{"alone, more than four fifths", stream.Usage{Bytes: 850, MaxBytes: 1000, Messages: 85, Matching: 85}, nil, true},
		{"the same with a higher limit", stream.Usage{Bytes: 850, MaxBytes: 2000, Messages: 85, Matching: 85}, nil, false},
		{"half of a stream that is nearly full", stream.Usage{Bytes: 950, MaxBytes: 1000, Messages: 90, Matching: 45}, nil, true},
		{"nothing of a stream that others have filled", stream.Usage{Bytes: 1000, MaxBytes: 1000, Messages: 90}, nil, false},
		{"a stream without a limit", stream.Usage{Bytes: 850, Messages: 85, Matching: 85}, nil, false},
		{"a stream that does not answer", stream.Usage{}, errBoom, false},
	} {
		now, u, answer = now.Add(shareRetry), tt.usage, tt.err
		s.stored, s.copies = 0, 0
		if err := s.admit(t.Context(), 10); errors.Is(err, stream.ErrFull) != tt.full {
			t.Errorf("%s: admit = %v; want full: %t", tt.name, err, tt.full)
		}
	}

	// The worker's own messages are larger than those of the others: their size counts and not only their number.
	now, u, answer = now.Add(shareRetry), stream.Usage{Bytes: 900, MaxBytes: 1000, Messages: 90, Matching: 10}, nil
	s.stored, s.copies = 5000, 100
	if err := s.admit(t.Context(), 10); !errors.Is(err, stream.ErrFull) {
		t.Errorf("admit = %v; want full with 10 messages of 50 bytes beside 100 free bytes", err)
	}
	// A stream is not measured for each message.
	now, u = now.Add(shareRetry), stream.Usage{MaxBytes: 1 << 20}
	measured := 0
	s.usage = func(context.Context) (stream.Usage, error) { measured++; return u, nil }
	for range 100 {
		if err := s.admit(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
	}
	if measured != 1 {
		t.Errorf("the stream was measured %d times for 100 messages; want once", measured)
	}
}

// shareOf is what the metrics of a process say of a stream.
func shareOf(t *testing.T, p *process.Process, name string) float64 {
	t.Helper()
	families, err := p.Gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "headgate_worker_stream_share" && l.GetValue() == name {
					return m.GetGauge().GetValue()
				}
			}
		}
	}
	return -1
}
