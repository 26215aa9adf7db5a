//go:build faults

package workers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
)

// Thousands of events wait, as after a rollback, in a short RetryAfter, and behind one that runs long. Work that can run is
// handled meanwhile.
func TestFaults_OwnWorkPassesThousandsThatWait(t *testing.T) {
	for _, tt := range []struct {
		name, typ string
		many      int
		change    func(*Worker)
	}{
		{"no handler", "company.created", 5000, func(w *Worker) { w.Handlers = w.Handlers[:1] }},
		{"RetryAfter of 50 s", "bills.write.successful", 5200, func(*Worker) {}},
		{"one key", "invoices.write.successful", 6000, func(w *Worker) {
			w.Key = func(e codat.Event[struct{}]) string { key, _, _ := strings.Cut(e.WebhookID, "_"); return key }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			end := make(chan struct{})
			r := newSequentialFixture(t, Worker{
				Handlers:  []Handler{Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return nil })},
				ParkAfter: time.Minute, AckWait: time.Minute, Attempts: 100, pauses: pauses{key: 30 * time.Second, pullExpiry: 30 * time.Second, probe: time.Second, probeFetch: time.Second, claimError: time.Second},
			}, func(ctx context.Context, e write) error {
				switch {
				case strings.HasPrefix(e.WebhookID, "own"):
					return nil
				case e.Type == "bills.write.successful":
					return RetryAfter(50*time.Second, errBoom)
				}
				select {
				case <-end:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			r.worker.Handlers[0], r.worker.Handlers[1] = r.worker.Handlers[1], r.worker.Handlers[0]
			tt.change(&r.worker)
			r.start()
			defer close(end)
			r.postAllOf(tt.typ, "hot", tt.many)
			waitFor(t, 5*time.Minute, func() bool { return r.unsettled() >= tt.many-1 })
			for i := range 3 {
				id := fmt.Sprint("own_", i)
				began := time.Now()
				r.post(id)
				waitFor(t, time.Minute, func() bool { return r.state(id) == claims.Done })
				t.Logf("%s: handled after %v", id, time.Since(began).Round(time.Millisecond))
			}
			if n := r.unsettled(); n < tt.many-1 {
				t.Errorf("%d events wait; want all %d but the one that runs", n, tt.many)
			}
		})
	}
}

// unsettled returns the number of events that were delivered and wait: on the worker's consumer and parked.
func (r *fixture) unsettled() int {
	r.Helper()
	events, err := r.JS.Consumer(r.Context(), source.Stream(), "tested")
	if err != nil {
		r.Fatal(err)
	}
	parked, err := r.JS.Stream(r.Context(), source.ParkedStream())
	if err != nil {
		r.Fatal(err)
	}
	return events.CachedInfo().NumAckPending + int(parked.CachedInfo().State.Msgs)
}
