package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// watched is a running worker of which everything is seen that an operator sees.
type watched struct {
	*rig
	process *process.Process
	lines   *observer.ObservedLogs
}

// watch runs the worker until the test ends.
func (r *rig) watch() *watched {
	r.Helper()
	seen, lines := observer.New(zap.InfoLevel)
	log := zaptest.NewLogger(r, zaptest.Level(zap.WarnLevel), zaptest.WrapOptions(zap.WrapCore(func(shown zapcore.Core) zapcore.Core {
		return zapcore.NewTee(shown, seen)
	})))
	w := &watched{r, process.New("tested", log), lines}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		s := Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source, Grace: 20 * time.Second}
		ended <- Run(ctx, s, w.process, r.worker, func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	r.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Errorf("Run = %v; want a clean stop", err)
		}
	})
	return w
}

// value is that of one of the worker's metrics, of all its labels together; -1 when it is not there.
func (w *watched) value(name string, labels ...string) float64 {
	w.Helper()
	families, err := w.process.Gatherer.Gather()
	if err != nil {
		w.Fatal(err)
	}
	value := -1.0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetName()+"="+l.GetValue())
			}
			all := strings.Join(has, " ")
			if family.GetName() != name || !strings.Contains(all, "worker=tested") || !strings.Contains(all, strings.Join(labels, " ")) {
				continue
			}
			value = max(value, 0) + m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return value
}

func (w *watched) paused() float64 { return w.value("headgate_worker_paused_seconds") }

func (w *watched) waitPaused() {
	w.Helper()
	waitFor(w, time.Minute, func() bool { return w.paused() > 0 })
}

// instance is how the worker shows itself in the bucket, if it does.
func (w *watched) instance() (found Instance, ok bool) {
	w.Helper()
	kv, err := w.JS.KeyValue(context.Background(), source.WorkersBucket())
	if err != nil {
		w.Fatal(err)
	}
	keys, err := kv.Keys(context.Background())
	if err != nil || len(keys) != 1 || !strings.HasPrefix(keys[0], "tested.") {
		return Instance{}, false
	}
	entry, err := kv.Get(context.Background(), keys[0])
	if err != nil {
		return Instance{}, false
	}
	if err := json.Unmarshal(entry.Value(), &found); err != nil {
		w.Fatal(err)
	}
	return found, true
}

func (w *watched) ran() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ends)
}

// What the lines of the log say.
const (
	saysPaused  = "paused: what the handlers need is unavailable; single events are tried"
	saysWorking = "working again"
)

// A pause is seen in the metric, in the bucket of the workers and in the log, once where it begins and once where it
// ends. It costs no event anything: even with one attempt allowed nothing is given up.
func TestAPauseIsSeenAndCostsNothing(t *testing.T) {
	const events = 40
	var down atomic.Bool
	down.Store(true)
	r := newRig(t, Worker{Attempts: 1, Concurrency: 4}, func(context.Context, write) error {
		if down.Load() {
			return Unavailable(errBoom)
		}
		return nil
	})
	w := r.watch()
	waitFor(t, time.Minute, func() bool { return w.paused() == 0 })
	waitFor(t, time.Minute, func() bool { shown, ok := w.instance(); return ok && shown.Paused.IsZero() })

	for i := range events {
		r.post(fmt.Sprintf("msg_%d", i))
	}
	w.waitPaused()
	before := w.ran()
	var shown Instance
	waitFor(t, time.Minute, func() bool { shown, _ = w.instance(); return !shown.Paused.IsZero() })

	// Until then it has tried single events, of which each pause before the next is longer. Without a pause there would
	// be one every few milliseconds.
	if more, most := w.ran()-before, r.worker.Concurrency+10; more > most {
		t.Errorf("the handler ran %d times while the worker paused; want at most %d", more, most)
	}
	if value, since := w.paused(), time.Since(shown.Paused); value <= 0 || value > since.Seconds()+1 {
		t.Errorf("the metric says that it pauses for %.1f s; the bucket says since %v", value, since)
	}
	begins := w.lines.FilterMessage(saysPaused).All()
	if len(begins) != 1 || begins[0].Level != zap.WarnLevel || !shown.Paused.Equal(begins[0].ContextMap()["since"].(time.Time)) {
		t.Errorf("the log says %+v; want one warning that it pauses, and since when: %v", begins, shown.Paused)
	}
	if n := w.lines.FilterMessage("event later").FilterField(zap.String("cause", errBoom.Error())).Len(); n < breakAfter {
		t.Errorf("%d lines of the log name what is unavailable; want at least %d", n, breakAfter)
	}
	if n := w.lines.FilterMessage(saysWorking).Len(); n != 0 {
		t.Errorf("the log says %d times that it works again; want it to pause still", n)
	}
	waitFor(t, time.Minute, func() bool { // but while one is tried
		met := 0
		for i := range events {
			rec := r.record(Key{WebhookID: fmt.Sprintf("msg_%d", i)})
			if rec.State != "" && (rec.State != Waiting || rec.Attempts != 0 || rec.Pauses == 0) {
				return false
			}
			met += rec.Pauses
		}
		return met >= breakAfter && met == w.ran()
	})

	down.Store(false)
	waitFor(t, 2*time.Minute, func() bool { return w.value("headgate_worker_deliveries_total", "fate=done") == events })
	if value := w.paused(); value != 0 {
		t.Errorf("the metric says that it pauses for %.1f s after all is done; want 0", value)
	}
	waitFor(t, time.Minute, func() bool { shown, ok := w.instance(); return ok && shown.Paused.IsZero() })
	ends := w.lines.FilterMessage(saysWorking).All()
	if len(ends) != 1 || ends[0].ContextMap()["paused"].(time.Duration) <= 0 {
		t.Errorf("the log says %+v; want one line that it works again, and how long it paused", ends)
	}
	if n := w.lines.FilterMessage(saysPaused).Len(); n != 1 {
		t.Errorf("the log says %d times that it pauses; want once", n)
	}
	for i := range events {
		if rec := r.record(Key{WebhookID: fmt.Sprintf("msg_%d", i)}); rec.State != Done || rec.Attempts != 1 {
			t.Errorf("msg_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
		}
	}
	if n := w.value("headgate_worker_deliveries_total", "fate=dead"); n != 0 || len(r.letters()) != 0 {
		t.Errorf("%v events were given up, and %d have letters; want none", n, len(r.letters()))
	}
}

// The events that failed wait for a week; the worker does not wait for them. It tries another event, and when that
// succeeds it works again.
func TestAPauseEndsWithAnotherEvent(t *testing.T) {
	r := newRig(t, slowToRetry(Worker{}), badIsUnavailable)
	w := r.watch()
	for i := range breakAfter {
		r.post(fmt.Sprintf("msg_bad_%d", i))
	}
	w.waitPaused()
	r.post("msg_other")
	waitFor(t, 2*time.Minute, func() bool { return r.state("msg_other") == Done && w.paused() == 0 })
	r.post("msg_next")
	r.waitState("msg_next", Done)
	for i := range breakAfter {
		id := fmt.Sprintf("msg_bad_%d", i)
		if runs, _ := r.attempts(id); runs != 1 || r.record(Key{WebhookID: id}).Attempts != 0 {
			t.Errorf("%s ran %d times, and %d attempts are counted; want 1 and 0", id, runs, r.record(Key{WebhookID: id}).Attempts)
		}
	}
}

// slowToRetry is a worker whose failed events do not come back while a test lasts.
func slowToRetry(w Worker) Worker {
	w.BackoffMin, w.BackoffMax, w.ParkAfter = MaxPause, MaxPause, 2*MaxPause
	return w
}

// While an event of a key runs, a probe that meets another of that key runs it as little as anybody else.
func TestAProbeHeedsTheKey(t *testing.T) {
	var hot, most atomic.Int64
	began, ended := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	r := newRig(t, slowToRetry(Worker{Concurrency: 4, Key: func(e codat.Event[struct{}]) string {
		key, _, _ := strings.Cut(e.WebhookID, "-")
		return key
	}}), func(_ context.Context, e write) error {
		if !strings.HasPrefix(e.WebhookID, "hot") {
			return Unavailable(errBoom)
		}
		most.Store(max(most.Load(), hot.Add(1)))
		defer hot.Add(-1)
		if e.WebhookID != "hot-0" {
			return nil
		}
		close(began)
		<-ended
		return nil
	})
	var probes atomic.Int64
	if _, err := r.NC.Subscribe("$JS.API.CONSUMER.MSG.NEXT."+source.Stream()+".tested", func(m *nats.Msg) {
		var pull struct {
			Batch int `json:"batch"`
		}
		if json.Unmarshal(m.Data, &pull) == nil && pull.Batch == 1 {
			probes.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := r.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	w := r.watch()
	r.Cleanup(end)
	r.post("hot-0")
	<-began
	for i := range breakAfter {
		r.post(fmt.Sprintf("cold%d-0", i))
	}
	w.waitPaused()
	r.post("hot-1")
	r.post("hot-2")
	// Both are taken, and the probe that comes after says that those that took them are over.
	delivered := func() uint64 {
		c, err := r.JS.Consumer(context.Background(), source.Stream(), "tested")
		if err != nil {
			return 0
		}
		return c.CachedInfo().Delivered.Consumer
	}
	waitFor(t, 2*time.Minute, func() bool { return delivered() >= 1+breakAfter+2 })
	after := probes.Load()
	waitFor(t, 2*time.Minute, func() bool { return probes.Load() > after })
	if w.paused() == 0 {
		t.Error("the worker does not pause any more; want it to, because nothing has succeeded")
	}
	if n := hot.Load(); n != 1 {
		t.Errorf("%d events of the key run; want the first one still", n)
	}
	end()
	for i := range 3 {
		id := fmt.Sprintf("hot-%d", i)
		waitFor(t, 2*time.Minute, func() bool { return r.state(id) == Done })
	}
	if n := most.Load(); n != 1 {
		t.Errorf("%d events of the key ran at once; want 1", n)
	}
}

// The events that failed are due again before each probe. One tries another all the same: else it would never run, since
// what is due again comes first.
func TestAProbeTriesAnotherEventThanThoseThatFailed(t *testing.T) {
	r := newRig(t, Worker{}, badIsUnavailable)
	w := r.watch()
	for i := range breakAfter {
		r.post(fmt.Sprintf("msg_bad_%d", i))
	}
	w.waitPaused()
	r.post("msg_other")
	waitFor(t, 2*time.Minute, func() bool { runs, _ := r.attempts("msg_other"); return runs > 0 })
}

func badIsUnavailable(_ context.Context, e write) error {
	if strings.HasPrefix(e.WebhookID, "msg_bad") {
		return Unavailable(errBoom)
	}
	return nil
}
