// Package workertest runs a worker's handlers on given events and returns the outcome of each, without a server and in
// virtual time: waits of hours take microseconds. It runs the worker runtime itself (claim, attempt, judge, settle) and not
// a model of it, so that a test sees the retries, pauses and dead letters of production.
//
//	res := workertest.Run(t, worker, workertest.Example(t, "invoices.write.successful"))
//	if res.Outcome != workertest.Done || len(res.Attempts) != 2 {
//		t.Errorf("after a 503 the event was not retried:\n%s", res)
//	}
//
// # Time
//
// Run is a bubble of testing/synctest and has its limits. Time stands still while anything runs, and jumps to the next timer
// when everything in the bubble waits. Therefore:
//
//   - A handler must not use channels, timers, wait groups or goroutines that were made outside of Run: a wait for them
//     never ends. Plain values, maps and mutexes may be shared with the test.
//   - Goroutines that a handler starts must end. When all goroutines that are left wait for ever, synctest fails the test.
//   - While a handler waits for the network, a disk or a process, no time passes and no deadline fires. Use a fake, or a
//     test with package streamtest for the real thing.
//   - Run cannot be called within another bubble.
//
// Every wait has the full length that its jitter allows, so that two runs of a test are equal: a first retry comes after
// exactly BackoffMin. Events are handled one at a time.
package workertest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// MaxTime is the virtual time after which an event is Unfinished: for as long the source's stream would keep it.
const MaxTime = 16 * 24 * time.Hour

const source = stream.Source("codat")

// Event is an event as Codat sends it. Only Body is required.
type Event struct {
	Body []byte
	// Type is the event's type. When it is empty the body says it, as in production.
	Type string
	// WebhookID identifies the event. When it is empty it is "msg_1" for the first event, and so on.
	WebhookID string
	// Redrive is the id of the redrive when an operator has redriven the event.
	Redrive string
	// Received is when the event arrives; the zero time means at once. The time of a run begins when the newest event was
	// generated, as far as the events have a date.
	Received time.Time
}

// Example returns an event with the body that package pkg/codat/examples has for a type, such as
// "invoices.write.successful", or for a name, such as "trap/read-of-several-connections".
func Example(t testing.TB, name string) Event {
	t.Helper()
	e, ok := examples.Of(name)
	if !ok {
		t.Fatalf("no example %s: package pkg/codat/examples lists the examples", name)
	}
	return Event{Body: e.Body}
}

// Outcome says how an event ended.
type Outcome string

// The outcomes of an event.
const (
	Done       Outcome = "done"       // a handler succeeded
	Dead       Outcome = "dead"       // the event is a dead letter
	NoHandler  Outcome = "no_handler" // the worker has no handler for the type
	Unfinished Outcome = "unfinished" // it is still tried again after Patience
)

// Result says what happened to an event.
type Result struct {
	Outcome Outcome
	// Attempts are the runs of the handler, in order.
	Attempts []Attempt
	// Letter is the dead letter; nil unless Fate is Dead.
	Letter *deadletter.Letter
	// Took is the virtual time from the event's arrival to its end.
	Took time.Duration

	arrived time.Time
}

// Attempt is one run of a handler.
type Attempt struct {
	// Number is the number of the attempt as the handler sees it. An attempt that was not counted, because something was
	// Unavailable, has the same number as the one that follows.
	Number int
	// After is the virtual time from the event's arrival to the attempt, and Took is how long the attempt ran.
	After, Took time.Duration
	// Err is what the handler returned. A panic is an error.
	Err error
	// Wait is the pause before the next attempt; 0 when this was the last one.
	Wait time.Duration
}

// String lists the outcome and the attempts in lines, for the message of a test.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s after %s", r.Outcome, r.Took)
	if r.Letter != nil {
		fmt.Fprintf(&b, ", cause %s", r.Letter.Cause)
	}
	for _, a := range r.Attempts {
		fmt.Fprintf(&b, "\n  attempt %d after %s", a.Number, a.After)
		if a.Took > 0 {
			fmt.Fprintf(&b, " ran for %s", a.Took)
		}
		if a.Err != nil {
			fmt.Fprintf(&b, ": %v", a.Err)
		}
		if a.Wait > 0 {
			fmt.Fprintf(&b, "; next attempt after %s", a.Wait)
		}
	}
	return b.String()
}

// Run delivers one event to the worker until it is settled. The worker's Claims are not used.
func Run(t *testing.T, w workers.Worker, e Event) Result {
	t.Helper()
	return RunAll(t, w, e)[0]
}

// RunAll delivers several events to one worker until each is settled, and returns a result for each: for handlers that keep
// state, and for a worker that pauses because something is unavailable.
func RunAll(t *testing.T, w workers.Worker, events ...Event) []Result {
	t.Helper()
	results := make([]Result, len(events))
	synctest.Test(t, func(t *testing.T) {
		b := &broker{results: map[claims.Key]*Result{}}
		w.Claims = nil
		deliver, err := workers.Offline{
			Source: source, Claims: newClaims(b.waits), Publisher: b,
			Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)), AttemptEnded: b.attemptEnded,
		}.Deliverer(w)
		if err != nil {
			t.Fatal(err)
		}
		heads := make([]codat.Head, len(events))
		for i, e := range events {
			if heads[i], err = head(e); err != nil {
				t.Fatalf("event %d: %v", i+1, err)
			}
			if g := heads[i].Generated; g.After(time.Now()) {
				time.Sleep(time.Until(g))
			}
		}
		for i, e := range events {
			if e.WebhookID == "" {
				e.WebhookID = fmt.Sprintf("msg_%d", i+1)
			}
			if now := time.Now(); e.Received.Before(now) {
				e.Received = now
			}
			if err := b.arrive(e, heads[i], &results[i]); err != nil {
				t.Fatalf("event %d: %v", i+1, err)
			}
		}
		b.run(deliver, w.Spec().AckWait)
	})
	return results
}

// head returns what the ingress reads from an event.
func head(e Event) (codat.Head, error) {
	h, err := codat.Read(e.Body)
	if e.Type != "" {
		h.Type = e.Type
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("the ingress would store the event in the quarantine: %w", err)
	}
	return h, nil
}
