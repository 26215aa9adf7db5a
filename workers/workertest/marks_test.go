package workertest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/workertest"
)

// An event that a handler skips is done, and is no sign that what others need is available: their attempts are not counted.
func TestErrSkip_IsDoneAndNoSuccess(t *testing.T) {
	skipped, tried := 0, 0
	act := func(_ context.Context, e codat.Event[codat.Write]) error {
		if e.WebhookID == "msg_1" {
			if tried++; tried < 8 {
				return workers.Unavailable(errBoom)
			}
			return nil
		}
		skipped++
		return workers.ErrSkip
	}
	begin := time.Date(2100, 1, 1, 12, 0, 0, 0, time.UTC)
	var events []workertest.Event
	for i := range 6 {
		e := workertest.Example(t, invoices)
		e.Received = begin.Add(time.Duration(i) * 20 * time.Second)
		events = append(events, e)
	}
	results := workertest.RunAll(t, worker(act), events...)
	for i, r := range results {
		if r.Outcome != workertest.Done {
			t.Errorf("event %d: %s; want it done", i+1, r)
		}
	}
	if last := results[0].Attempts[len(results[0].Attempts)-1]; last.Number != 1 || skipped != 5 {
		t.Errorf("%d events were skipped, and the one that was unavailable is done at attempt %d; want 5 and 1:\n%s", skipped, last.Number, results[0])
	}
}

// An unavailable event waits for as long as the handler asks for, and no attempt is counted.
func TestUnavailable_WaitsForRetryAfter(t *testing.T) {
	r := workertest.Run(t, worker(until(2, workers.Unavailable(workers.RetryAfter(40*time.Minute, errBoom)))), workertest.Example(t, invoices))
	if len(r.Attempts) != 2 || r.Attempts[0].Wait != 40*time.Minute || r.Attempts[1].Number != 1 {
		t.Errorf("got %s; want a wait of 40 minutes that counts no attempt", r)
	}
}

// The dead letter has the detail of its error in a header that only --payload shows; the texts of the errors do not.
func TestWithDetail_IsInTheLetterOnly(t *testing.T) {
	r := workertest.Run(t, worker(until(2, workers.Permanent(workers.WithDetail(errBoom, "it said\n"+strings.Repeat("x", 2000))))), workertest.Example(t, invoices))
	if r.Outcome != workertest.Dead {
		t.Fatalf("got %s; want a dead letter", r)
	}
	if r.Letter.LastError != "boom" || r.Letter.FirstError != "boom" {
		t.Errorf("the errors are %q and %q; want boom", r.Letter.FirstError, r.Letter.LastError)
	}
	if got := r.Letter.Header.Get(deadletter.HeaderDetail); !strings.HasPrefix(got, "it said xxx") || len(got) != 1024 {
		t.Errorf("the detail is %q; want one line of 1 KiB", got)
	}
}
