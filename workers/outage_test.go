//go:build faults

package workers

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/inspect"
)

// A pause is seen in the metric, in the bucket of the workers and in the log, once where it begins and once where it
// ends. It costs no event anything: even with one attempt allowed nothing is given up.
func TestPause_Faults_IsSeenAndCountsNoAttempt(t *testing.T) {
	const events = 40
	var down atomic.Bool
	down.Store(true)
	r := newFixture(t, Worker{Attempts: 1, Concurrency: 4}, func(context.Context, write) error {
		if down.Load() {
			return Unavailable(errBoom)
		}
		return nil
	})
	w := r.startObserved()
	waitFor(t, time.Minute, func() bool { return w.paused() == 0 })
	waitFor(t, time.Minute, func() bool { shown, ok := w.instance(); return ok && shown.Paused.IsZero() })

	for i := range events {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	w.waitPaused()
	before := w.ran()
	var shown inspect.Instance
	waitFor(t, time.Minute, func() bool { shown, _ = w.instance(); return !shown.Paused.IsZero() })

	// Until then it has tried single events, of which each pause before the next is longer. Without a pause there would
	// be one every few milliseconds.
	if more, most := w.ran()-before, r.worker.Concurrency+10; more > most {
		t.Errorf("the handler ran %d times while the worker paused; want at most %d", more, most)
	}
	if value, since := w.paused(), time.Since(shown.Paused); value <= 0 || value > since.Seconds()+1 {
		t.Errorf("the metric says that it pauses for %.1f s; the bucket says since %v", value, since)
	}
	begins := w.lines.FilterMessage(pausedLine).All()
	if len(begins) != 1 || begins[0].Level != zap.WarnLevel || !shown.Paused.Equal(begins[0].ContextMap()["since"].(time.Time)) {
		t.Errorf("the log says %+v; want one warning that it pauses, and since when: %v", begins, shown.Paused)
	}
	if n := w.lines.FilterMessage("event retry").FilterField(zap.String("cause", errBoom.Error())).Len(); n < breakAfter {
		t.Errorf("%d lines of the log name what is unavailable; want at least %d", n, breakAfter)
	}
	if n := w.lines.FilterMessage(pauseEndedLine).Len(); n != 0 {
		t.Errorf("the log says %d times that it works again; want it to pause still", n)
	}
	waitFor(t, time.Minute, func() bool { // but while one is tried
		met := 0
		for i := range events {
			rec := r.record(claims.Key{WebhookID: fmt.Sprintf("msg_%d", i)})
			if rec.State != "" && (rec.State != claims.Waiting || rec.Attempts != 0 || rec.Pauses == 0) {
				return false
			}
			met += rec.Pauses
		}
		return met >= breakAfter && met == w.ran()
	})

	down.Store(false)
	waitFor(t, 2*time.Minute, func() bool { return w.value("headgate_worker_deliveries_total", "outcome=done") == events })
	if value := w.paused(); value != 0 {
		t.Errorf("the metric says that it pauses for %.1f s after all is done; want 0", value)
	}
	waitFor(t, time.Minute, func() bool { shown, ok := w.instance(); return ok && shown.Paused.IsZero() })
	ends := w.lines.FilterMessage(pauseEndedLine).All()
	if len(ends) != 1 || ends[0].ContextMap()["paused"].(time.Duration) <= 0 {
		t.Errorf("the log says %+v; want one line that it works again, and how long it paused", ends)
	}
	if n := w.lines.FilterMessage(pausedLine).Len(); n != 1 {
		t.Errorf("the log says %d times that it pauses; want once", n)
	}
	for i := range events {
		if rec := r.record(claims.Key{WebhookID: fmt.Sprintf("msg_%d", i)}); rec.State != claims.Done || rec.Attempts != 1 {
			t.Errorf("msg_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
		}
	}
	if n := w.value("headgate_worker_deliveries_total", "outcome=dead"); n != 0 || len(r.letters()) != 0 {
		t.Errorf("%v events were given up, and %d have letters; want none", n, len(r.letters()))
	}
}
