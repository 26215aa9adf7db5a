package workers

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// makeClaimsAgain deletes the bucket of the claims and makes it again.
func (r *fixture) makeClaimsAgain() {
	r.Helper()
	if err := r.JS.DeleteKeyValue(r.Context(), source.ClaimsBucket("tested")); err != nil {
		r.Fatal(err)
	}
	streamtest.Provision(r, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{r.worker.Spec()}})
}

// unackedMsg is a delivery whose ack is lost.
type unackedMsg struct{ jetstream.Msg }

func (m unackedMsg) Ack() error { return nil }

// The claims are lost and the ack was: the event comes again, and the process knows that it is settled.
func TestPromise5_SettledEventIsNotHandledAgainWithoutItsClaim(t *testing.T) {
	for _, tt := range []struct {
		name  string
		err   error
		ended outcome
		state claims.State
	}{
		{"done", nil, done, claims.Done},
		{"dead", Permanent(errBoom), dead, claims.Dead},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newFixture(t, Worker{AckWait: time.Second}, func(context.Context, write) error { return tt.err })
			runner := r.runner(&crashingProcess{})
			r.post("msg_1")
			if got := runner.deliver(unackedMsg{r.next(source.Stream())}); got != tt.ended {
				t.Fatalf("deliver = %s; want %s", got, tt.ended)
			}
			r.makeClaimsAgain()
			if got := runner.deliver(r.next(source.Stream())); got != alreadySettled {
				t.Errorf("the second delivery is %s; want %s", got, alreadySettled)
			}
			if runs, _ := r.attempts("msg_1"); runs != 1 {
				t.Errorf("the handler ran %d times; want once", runs)
			}
			if state := r.state("msg_1"); state != tt.state {
				t.Errorf("the new claim says %s; want %s", state, tt.state)
			}
			if n := len(r.letters()); tt.state == claims.Dead && n != 1 {
				t.Errorf("there are %d dead letters; want 1", n)
			}
			r.waitQuiet()
		})
	}
}

// A worker that holds a lease in the bucket saves the result in the new one, and says that its claims were lost.
func TestPromise5_LeaseOutlivesTheBucketOfItsClaim(t *testing.T) {
	started, end := make(chan struct{}, 1), make(chan struct{})
	r := newFixture(t, Worker{AckWait: 3 * time.Second}, func(context.Context, write) error {
		select {
		case started <- struct{}{}:
		default:
		}
		<-end
		return nil
	})
	core, logs := observer.New(zap.ErrorLevel)
	p := process.New("tested", zap.New(core))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source, Grace: time.Minute}, p, r.worker,
			func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	}()
	r.post("msg_1")
	<-started
	r.makeClaimsAgain()
	close(end)
	r.waitState("msg_1", claims.Done)
	for i := 2; logs.Len() == 0 && i < 1000; i++ { // the bucket is measured once a second, when a claim is taken
		id := fmt.Sprint("msg_", i)
		r.post(id)
		r.waitState(id, claims.Done)
	}
	if lines := logs.FilterMessageSnippet("the claims of this worker were lost").Len(); lines != 1 {
		t.Errorf("%d lines say that the claims were lost; want 1", lines)
	}
	r.waitQuiet()
	if runs, successes := r.attempts("msg_1"); runs != 1 || successes != 1 {
		t.Errorf("%d runs, %d successes; want one of each", runs, successes)
	}
	if n := counter(t, p, "headgate_worker_claims_lost_total"); n != 1 {
		t.Errorf("headgate_worker_claims_lost_total = %v; want 1", n)
	}
}

// counter returns the value of a counter of a process.
func counter(t *testing.T, p *process.Process, name string) float64 {
	t.Helper()
	metrics, err := p.Gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics {
		if m.GetName() == name {
			return m.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}
