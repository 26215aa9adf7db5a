// Package workertest runs a worker's handlers on given events and tells what became of each, without a server and in
// virtual time: waits of hours take microseconds. What decides is the worker runtime itself (claim, attempt, judge,
// settle) and not a model of it, so that a retry, a pause or a dead letter in a test is what production would do.
//
//	res := workertest.Run(t, worker, workertest.Example(t, "invoices.write.successful"))
//	if res.Fate != workertest.Done || len(res.Attempts) != 2 {
//		t.Errorf("after a 503 the ledger was not tried again:\n%s", res)
//	}
//
// # Time
//
// Run is a bubble of testing/synctest, and its limits are those of synctest. Time stands still while anything runs, and
// goes to the next timer when everything in the bubble waits. Therefore:
//
//   - A handler must not use channels, timers, wait groups or goroutines that were made outside of Run: waiting for them
//     stops the time for ever. Plain values, maps and mutexes may be shared with the test.
//   - Goroutines that a handler starts must end. When all that is left waits for nothing, synctest ends the test.
//   - While a handler waits for the network, a disk or a process, no time goes by, and its deadlines are not kept. Give it
//     a fake; what must meet the real thing is a test with package streamtest.
//   - Run cannot be called within a bubble of the test's own.
//
// Every wait has the whole length that its jitter could give it, so that each run of a test is like the other: a first
// retry comes after BackoffMin exactly. Events are handled one at a time.
package workertest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/examples"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers"
)

// Patience is for how long in virtual time an event may be without an end: as long as the source's stream would keep it.
const Patience = 16 * 24 * time.Hour

const source = stream.Source("codat")

// Event is an event as Codat sends it. Only the body must be given.
type Event struct {
	Body []byte
	// Type is the event's type; "" is what the body says, as in production.
	Type string
	// WebhookID is "msg_1" for the first event when it is "", and so on.
	WebhookID string
	// Redrive is the id of an operator's redrive, when it is one.
	Redrive string
	// Received is when the event arrives; the zero time is at once. The time of a run begins when the events were
	// generated, as far as they say so.
	Received time.Time
}

// Example is an event with the body that package pkg/codat/examples has for a type, such as "invoices.write.successful",
// or for a name, such as "trap/read-of-several-connections".
func Example(t testing.TB, name string) Event {
	t.Helper()
	e, ok := examples.Of(name)
	if !ok {
		t.Fatalf("there is no example of %s: package pkg/codat/examples lists them", name)
	}
	return Event{Body: e.Body}
}

// Fate is where an event ended.
type Fate string

// The fates of an event.
const (
	Done       Fate = "done"       // a handler succeeded
	Dead       Fate = "dead"       // it is a dead letter
	Unhandled  Fate = "unhandled"  // the worker has no handler for its type: it would wait for a version that has
	Unfinished Fate = "unfinished" // it is still tried again after Patience
)

// Result is what became of an event.
type Result struct {
	Fate Fate
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
	// Number is the attempt as the handler and the judge count it. One that did not count, because something was
	// Unavailable, has the number of the one that follows.
	Number int
	// After is the virtual time from the event's arrival to the attempt's beginning, and Took how long it ran.
	After, Took time.Duration
	// Err is what the handler answered. A panic is an error.
	Err error
	// Wait is how long the event had to wait after it, as the judge or RetryAfter said; 0 when it was the last.
	Wait time.Duration
}

// String lists the attempts, for a test that fails.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s after %s", r.Fate, r.Took)
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
			fmt.Fprintf(&b, "; then waits %s", a.Wait)
		}
	}
	return b.String()
}

// Run gives one event to the worker, until it has come to its end. The worker's Claims are not used.
func Run(t *testing.T, w workers.Worker, e Event) Result {
	t.Helper()
	return RunAll(t, w, e)[0]
}

// RunAll gives several events to one worker, until each has come to its end, and returns a result for each: for
// handlers that keep state, and for a worker that pauses because something is unavailable.
func RunAll(t *testing.T, w workers.Worker, events ...Event) []Result {
	t.Helper()
	results := make([]Result, len(events))
	synctest.Test(t, func(t *testing.T) {
		b := &broker{results: map[workers.Key]*Result{}}
		w.Claims = nil
		deliver, err := workers.Offline{
			Source: source, Claims: newClaims(b.waits), Publisher: b,
			Log: zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)), Answered: b.answered,
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
		b.run(deliver, w.Plan().AckWait)
	})
	return results
}

// head is what the ingress knows of an event.
func head(e Event) (codat.Head, error) {
	h, err := codat.Read(e.Body)
	if e.Type != "" {
		h.Type = e.Type
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("the ingress would put it into quarantine: %w", err)
	}
	return h, nil
}
