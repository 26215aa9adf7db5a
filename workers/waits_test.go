package workers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// More events wait than the consumer has places. An event that can run is handled meanwhile, and every event that waits is
// kept and has counted no attempt that did not run.
func TestWaits_OwnWorkPassesWhatWaits(t *testing.T) {
	const places, many = 2 * maxWaits, 5 * maxWaits / 2
	for _, tt := range []struct {
		name     string
		change   func(*Worker)
		typ      string
		attempts int
	}{
		{"no handler", func(w *Worker) { w.Handlers = w.Handlers[:1] }, "company.created", 0},
		{"short RetryAfter", func(*Worker) {}, "bills.write.successful", 1},
		{"one key", func(w *Worker) {
			w.Key = func(e codat.Event[struct{}]) string { key, _, _ := strings.Cut(e.WebhookID, "_"); return key }
		}, "invoices.write.successful", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			open := make(chan struct{})
			r := newFixture(t, Worker{
				Handlers:  []Handler{Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return nil })},
				ParkAfter: 2 * time.Hour,
			}, func(ctx context.Context, e write) error {
				switch {
				case strings.HasPrefix(e.WebhookID, "own"):
					return nil
				case e.Type == "bills.write.successful":
					return RetryAfter(time.Hour, errBoom)
				}
				select {
				case <-open:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			r.worker.Handlers[0], r.worker.Handlers[1] = r.worker.Handlers[1], r.worker.Handlers[0]
			tt.change(&r.worker)
			r.start()
			r.post("own_0")
			r.waitState("own_0", claims.Done)
			r.narrow(source.Stream(), places)
			for i := range many {
				r.postType(fmt.Sprintf("hot_%d", i), tt.typ)
			}
			r.post("own_1")
			r.waitState("own_1", claims.Done)
			waitFor(t, 2*time.Minute, func() bool {
				parked, err := r.JS.Stream(t.Context(), source.ParkedStream())
				return err == nil && parked.CachedInfo().State.Msgs > 0
			})
			waiting := 0
			for i := range many {
				rec := r.record(claims.Key{WebhookID: fmt.Sprintf("hot_%d", i)})
				if rec.State == claims.Parked || rec.State == claims.Waiting {
					waiting++
					if rec.Attempts != tt.attempts {
						t.Errorf("hot_%d waits after %d attempts; want %d", i, rec.Attempts, tt.attempts)
					}
				}
			}
			if waiting == 0 {
				t.Error("no event waits with a claim")
			}
			close(open)
		})
	}
}

// Of a key whose events are parked, every event is handled once.
func TestWaits_ParkedEventsOfAKeyAreHandled(t *testing.T) {
	const many = 2*maxWaits + 50
	r := newFixture(t, Worker{Key: func(codat.Event[struct{}]) string { return "hot" }}, func(context.Context, write) error { return nil })
	r.postAll("hot", many)
	r.start()
	streamtest.Wait(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.runs) >= many }, "every event to be handled")
	r.waitQuiet()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.runs) != many {
		t.Errorf("the handler ran %d times; want once for each of %d events", len(r.runs), many)
	}
}

// More copies are parked than their consumer has places. One that is due has its attempt although those before it wait for
// long, and none of those is lost.
func TestWaits_DueCopyPassesParkedOnes(t *testing.T) {
	const places, many = 4, 10
	for _, tt := range []struct {
		name string
		typ  string // of the events before
		want claims.State
	}{
		{"long waits", "bills.write.successful", claims.Parked},
		{"no handler", "company.created", claims.Parked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := quickPauses
			p.parkedTurn = 100 * time.Millisecond
			r := newFixture(t, Worker{
				Handlers: []Handler{Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return RetryAfter(time.Hour, errBoom) })},
				pauses:   p, ParkAfter: time.Millisecond,
			}, func(_ context.Context, e write) error {
				switch {
				case e.Type == "bills.write.successful":
					return RetryAfter(time.Hour, errBoom)
				case e.Attempt == 1:
					return RetryAfter(10*time.Millisecond, errBoom)
				}
				return nil
			})
			stop := r.start()
			r.post("due_0")
			r.waitState("due_0", claims.Done)
			r.narrow(source.ParkedStream(), places)
			for i := range many {
				r.postType(fmt.Sprintf("before_%d", i), tt.typ)
			}
			for i := range many {
				r.waitState(fmt.Sprintf("before_%d", i), claims.Parked)
			}
			if tt.name == "no handler" {
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				r.worker.Handlers = r.worker.Handlers[1:]
				r.start()
			}
			r.post("due_1")
			r.waitState("due_1", claims.Done)
			// A copy that gives its turn to the next is stored again, after the last message that this reading reads; and that of
			// the event that is done may not be acknowledged yet.
			copies := map[string]bool{}
			streamtest.Wait(t, func() bool {
				clear(copies)
				_, err := stream.Read(t.Context(), r.JS, source.ParkedStream(), stream.ReadOptions{}, func(m *jetstream.RawStreamMsg) error {
					copies[source.OpenRaw(m).ID] = true
					return nil
				})
				return err == nil && len(copies) == many
			}, "each event that waits to have a copy, and no other")
		})
	}
}

// narrow gives the worker's consumer on a stream fewer places for deliveries that are not settled.
func (r *fixture) narrow(st string, places int) {
	r.Helper()
	c, err := r.JS.Consumer(context.Background(), st, "tested")
	if err != nil {
		r.Fatal(err)
	}
	config := c.CachedInfo().Config
	config.MaxAckPending = places
	if _, err := r.JS.UpdateConsumer(context.Background(), st, config); err != nil {
		r.Fatal(err)
	}
}
