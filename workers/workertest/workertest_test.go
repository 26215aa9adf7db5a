package workertest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/workertest"
)

const invoices = "invoices.write.successful"

var errBoom = errors.New("boom")

// worker is one whose attempts are done by act.
func worker(act func(context.Context, codat.Event[codat.Write]) error) workers.Worker {
	return workers.Worker{Name: "tested", Handlers: []workers.Handler{workers.Handle(codat.AnyWriteSuccessful, act)}}
}

// until fails with err before the attempt of that number, however attempts are counted.
func until(attempt int, err error) func(context.Context, codat.Event[codat.Write]) error {
	n := 0
	return func(context.Context, codat.Event[codat.Write]) error {
		if n++; n < attempt {
			return err
		}
		return nil
	}
}

func TestRun(t *testing.T) {
	const s, m, h = time.Second, time.Minute, time.Hour
	tests := []struct {
		name     string
		act      func(context.Context, codat.Event[codat.Write]) error
		outcome  workertest.Outcome
		attempts []int           // their numbers
		waits    []time.Duration // after each
		cause    string          // of the dead letter
	}{
		{"a handler succeeds", until(1, nil), workertest.Done, []int{1}, []time.Duration{0}, ""},
		{"an error is tried again, and the pause doubles", until(4, errBoom), workertest.Done, []int{1, 2, 3, 4}, []time.Duration{s, 2 * s, 4 * s, 0}, ""},
		{"no attempt can mend it", until(2, workers.Permanent(errBoom)), workertest.Dead, []int{1}, []time.Duration{0}, "permanent"},
		{
			"all attempts fail", until(100, errBoom), workertest.Dead,
			[]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24},
			[]time.Duration{
				s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 512 * s, 1024 * s, 2048 * s, 4096 * s, 8192 * s, 16384 * s,
				6 * h, 6 * h, 6 * h, 6 * h, 6 * h, 6 * h, 6 * h, 6 * h, 0,
			},
			"attempts",
		},
		{"the handler names a short pause", until(2, workers.RetryAfter(7*s, errBoom)), workertest.Done, []int{1, 2}, []time.Duration{7 * s, 0}, ""},
		{"the handler names a long pause", until(3, workers.RetryAfter(3*h, errBoom)), workertest.Done, []int{1, 2, 3}, []time.Duration{3 * h, 3 * h, 0}, ""},
		{"what it needs is down, which is no attempt", until(4, workers.Unavailable(errBoom)), workertest.Done, []int{1, 1, 1, 1}, []time.Duration{s, 2 * s, 4 * s, 0}, ""},
		{"a panic is an error", func(_ context.Context, e codat.Event[codat.Write]) error {
			if e.Attempt == 1 {
				panic("boom")
			}
			return nil
		}, workertest.Done, []int{1, 2}, []time.Duration{s, 0}, ""},
		{"a handler that takes its time keeps its lease", func(ctx context.Context, _ codat.Event[codat.Write]) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(29 * s):
				return nil
			}
		}, workertest.Done, []int{1}, []time.Duration{0}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := workertest.Run(t, worker(tt.act), workertest.Example(t, invoices))
			var numbers []int
			var waits []time.Duration
			for _, a := range res.Attempts {
				numbers, waits = append(numbers, a.Number), append(waits, a.Wait)
			}
			if res.Outcome != tt.outcome || !slices.Equal(numbers, tt.attempts) || !slices.Equal(waits, tt.waits) {
				t.Errorf("got %s\nwant %s, attempts %v, waits %v", res, tt.outcome, tt.attempts, tt.waits)
			}
			switch {
			case tt.cause == "" && res.Letter != nil:
				t.Errorf("a dead letter: %+v; want none", res.Letter)
			case tt.cause != "" && (res.Letter == nil || res.Letter.Cause != tt.cause || res.Letter.FirstError != "boom" || res.Letter.LastError != "boom"):
				t.Errorf("dead letter = %+v; want the cause %s, and boom first and last", res.Letter, tt.cause)
			}
		})
	}
}

func TestResult_Times(t *testing.T) {
	slow := worker(func(ctx context.Context, e codat.Event[codat.Write]) error {
		if e.Attempt == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		time.Sleep(10 * time.Minute) // which renews the lease nine times
		return nil
	})
	slow.Timeout, slow.AckWait = 20*time.Minute, time.Minute
	res := workertest.Run(t, slow, workertest.Example(t, invoices))
	want := []workertest.Attempt{
		{Number: 1, Took: 20 * time.Minute, Err: context.DeadlineExceeded, Wait: time.Second},
		{Number: 2, After: 20*time.Minute + time.Second, Took: 10 * time.Minute},
	}
	if diff := cmp.Diff(want, res.Attempts, cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if want := 30*time.Minute + time.Second; res.Took != want {
		t.Errorf("took %s; want %s", res.Took, want)
	}
}

func TestRun_HandlerGetsTheEvent(t *testing.T) {
	given := workertest.Example(t, invoices)
	given.WebhookID, given.Redrive = "msg_given", "again"
	var got codat.Event[codat.Write]
	res := workertest.Run(t, worker(func(_ context.Context, e codat.Event[codat.Write]) error {
		got = e
		return nil
	}), given)
	if res.Outcome != workertest.Done {
		t.Fatal(res)
	}
	if got.WebhookID != "msg_given" || got.Redrive != "again" || got.Type != invoices || got.Sequence != 1 || string(got.Body) != string(given.Body) || got.Payload.ID == "" {
		t.Errorf("the handler got %+v; want the event as it was given", got)
	}
	if got.Generated.IsZero() || got.Received.Before(got.Generated) {
		t.Errorf("generated %s, received %s; want it received after it was generated", got.Generated, got.Received)
	}
}

func TestRunAll_EventArrivesWhenReceived(t *testing.T) {
	first, second := workertest.Example(t, invoices), workertest.Example(t, "bills.write.successful")
	second.Received = time.Date(2100, 1, 1, 12, 0, 0, 0, time.UTC)
	var types []string
	res := workertest.RunAll(t, worker(func(_ context.Context, e codat.Event[codat.Write]) error {
		types = append(types, e.Type)
		if e.Type != invoices && !time.Now().Equal(second.Received) {
			t.Errorf("now is %s; want %s", time.Now(), second.Received)
		}
		return nil
	}), second, first)
	if want := []string{invoices, "bills.write.successful"}; !slices.Equal(types, want) {
		t.Errorf("handled %q; want %q", types, want)
	}
	for _, r := range res {
		if r.Outcome != workertest.Done || r.Took != 0 {
			t.Errorf("got %s; want it done at once", r)
		}
	}
}

// While everything is down the worker pauses, and nothing becomes a dead letter.
func TestRunAll_AnHourOfUnavailability(t *testing.T) {
	var down time.Time // until when
	runs := 0
	w := worker(func(context.Context, codat.Event[codat.Write]) error {
		if runs++; down.IsZero() {
			down = time.Now().Add(time.Hour)
		}
		if time.Now().Before(down) {
			return workers.Unavailable(errBoom)
		}
		return nil
	})
	w.Attempts = 2
	var events []workertest.Event
	for range 5 {
		events = append(events, workertest.Example(t, invoices))
	}
	for i, r := range workertest.RunAll(t, w, events...) {
		if r.Outcome != workertest.Done || r.Took < 30*time.Minute || r.Attempts[len(r.Attempts)-1].Number != 1 {
			t.Errorf("event %d: got %s; want it done after the hour, at its first attempt that counts", i+1, r)
		}
	}
	if runs > 150 {
		t.Errorf("%d runs in an hour; want a probe every 30 s at most", runs)
	}
}

func TestRun_UnfinishedAfterMaxTime(t *testing.T) {
	res := workertest.Run(t, worker(until(1<<30, workers.Unavailable(errBoom))), workertest.Example(t, invoices))
	if res.Outcome != workertest.Unfinished || res.Took != workertest.MaxTime {
		t.Errorf("got %s after %s; want it unfinished after %s", res.Outcome, res.Took, workertest.MaxTime)
	}
}

func TestRun_NoHandler(t *testing.T) {
	w := worker(until(1, nil))
	if res := workertest.Run(t, w, workertest.Example(t, "company.created")); res.Outcome != workertest.NoHandler || len(res.Attempts) != 0 {
		t.Errorf("got %s; want no_handler", res)
	}
	tomorrow := workertest.Event{Type: "whatever.write.successful", Body: workertest.Example(t, invoices).Body}
	if res := workertest.Run(t, w, tomorrow); res.Outcome != workertest.Done {
		t.Errorf("a type that Codat may add: got %s; want it done", res)
	}
}

func TestRun_UndecodablePayload(t *testing.T) {
	e := workertest.Event{Body: []byte(`{"id":"1","eventType":"invoices.write.successful","payload":7}`)}
	res := workertest.Run(t, worker(until(1, nil)), e)
	if res.Outcome != workertest.Dead || res.Letter.Cause != "permanent" || string(res.Letter.Body) != string(e.Body) {
		t.Errorf("got %s, letter %+v; want it dead at once, with its body", res, res.Letter)
	}
}

func TestResult_String(t *testing.T) {
	w := worker(until(100, workers.RetryAfter(2*time.Hour, errBoom)))
	w.Attempts = 2
	got := workertest.Run(t, w, workertest.Example(t, invoices)).String()
	want := `dead after 2h0m0s, cause attempts
  attempt 1 after 0s: boom; next attempt after 2h0m0s
  attempt 2 after 2h0m0s: boom`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Waits are virtual: all of a worker's retries over days are tried in a moment.
func TestRun_DaysTakeNoTime(t *testing.T) {
	w := worker(until(1000, workers.RetryAfter(claims.MaxPause, errBoom)))
	w.Attempts = 3
	res := workertest.Run(t, w, workertest.Example(t, invoices))
	if res.Outcome != workertest.Dead || res.Took < 2*claims.MaxPause {
		t.Errorf("got %s; want it dead after two weeks", res)
	}
	if text := res.String(); !strings.HasPrefix(text, "dead after 336h0m") {
		t.Error(text)
	}
}
