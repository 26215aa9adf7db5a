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

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// observedWorker is a running worker with its log, metrics and instance entry.
type observedWorker struct {
	*fixture
	process *process.Process
	lines   *observer.ObservedLogs
}

// startObserved runs the worker until the test ends.
func (r *fixture) startObserved() *observedWorker {
	r.Helper()
	seen, lines := observer.New(zap.InfoLevel)
	log := zaptest.NewLogger(r, zaptest.Level(zap.WarnLevel), zaptest.WrapOptions(zap.WrapCore(func(shown zapcore.Core) zapcore.Core {
		return zapcore.NewTee(shown, seen)
	})))
	w := &observedWorker{r, process.New("tested", log), lines}
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

// value returns the sum of the series of one of the worker's metrics that have the labels, and -1 when there is no series.
func (w *observedWorker) value(name string, labels ...string) float64 {
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

func (w *observedWorker) paused() float64 { return w.value("headgate_worker_paused_seconds") }

func (w *observedWorker) waitPaused() {
	w.Helper()
	waitFor(w, time.Minute, func() bool { return w.paused() > 0 })
}

// instance returns the worker's entry in the bucket of the workers.
func (w *observedWorker) instance() (found inspect.Instance, ok bool) {
	w.Helper()
	kv, err := w.JS.KeyValue(context.Background(), source.WorkersBucket())
	if err != nil {
		w.Fatal(err)
	}
	keys, err := kv.Keys(context.Background())
	if err != nil || len(keys) != 1 || !strings.HasPrefix(keys[0], "tested.") {
		return inspect.Instance{}, false
	}
	entry, err := kv.Get(context.Background(), keys[0])
	if err != nil {
		return inspect.Instance{}, false
	}
	if err := json.Unmarshal(entry.Value(), &found); err != nil {
		w.Fatal(err)
	}
	return found, true
}

func (w *observedWorker) ran() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ends)
}

// Messages of the log.
const (
	pausedLine     = "paused: what the handlers need is unavailable; the worker probes with single events"
	pauseEndedLine = "pause ended"
)

// The events that failed wait for a week. The worker probes with another event and ends its pause when that succeeds.
func TestPause_EndsWithAnotherEvent(t *testing.T) {
	r := newFixture(t, slowToRetry(Worker{}), badIsUnavailable)
	w := r.startObserved()
	for i := range breakAfter {
		r.post(fmt.Sprintf("msg_bad_%d", i))
	}
	w.waitPaused()
	r.post("msg_other")
	waitFor(t, 2*time.Minute, func() bool { return r.state("msg_other") == claims.Done && w.paused() == 0 })
	r.post("msg_next")
	r.waitState("msg_next", claims.Done)
	for i := range breakAfter {
		id := fmt.Sprintf("msg_bad_%d", i)
		if runs, _ := r.attempts(id); runs != 1 || r.record(claims.Key{WebhookID: id}).Attempts != 0 {
			t.Errorf("%s ran %d times, and %d attempts are counted; want 1 and 0", id, runs, r.record(claims.Key{WebhookID: id}).Attempts)
		}
	}
}

// slowToRetry returns the worker with a backoff of a week.
func slowToRetry(w Worker) Worker {
	w.BackoffMin, w.BackoffMax, w.ParkAfter = claims.MaxPause, claims.MaxPause, 2*claims.MaxPause
	return w
}

// While an event of a key runs, a probe does not run another event of the key.
func TestProbe_WaitsForItsKey(t *testing.T) {
	var hot, most atomic.Int64
	began, ended := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	r := newFixture(t, slowToRetry(Worker{Concurrency: 4, Key: func(e codat.Event[struct{}]) string {
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
	w := r.startObserved()
	r.Cleanup(end)
	r.post("hot-0")
	<-began
	for i := range breakAfter {
		r.post(fmt.Sprintf("cold%d-0", i))
	}
	w.waitPaused()
	r.post("hot-1")
	r.post("hot-2")
	// Both are delivered, and a later probe shows that the probes that took them have ended.
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
		waitFor(t, 2*time.Minute, func() bool { return r.state(id) == claims.Done })
	}
	if n := most.Load(); n != 1 {
		t.Errorf("%d events of the key ran at once; want 1", n)
	}
}

// The events that failed are due again before each probe and are delivered first. A probe tries another event nevertheless,
// which would otherwise never run.
func TestProbe_PrefersAnEventThatDidNotFail(t *testing.T) {
	r := newFixture(t, Worker{}, badIsUnavailable)
	w := r.startObserved()
	for i := range breakAfter {
		r.post(fmt.Sprintf("msg_bad_%d", i))
	}
	w.waitPaused()
	r.post("msg_other")
	waitFor(t, 2*time.Minute, func() bool { runs, _ := r.attempts("msg_other"); return runs > 0 })
}

// A delivery whose handler does not run says nothing about what is unavailable: the probe goes on with the next one.
func TestProbe_GoesOnUntilAHandlerRan(t *testing.T) {
	r := newFixture(t, Worker{Handlers: []Handler{Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { return nil })}}, succeed)
	r.worker.Handlers = r.worker.Handlers[1:] // the older version, on the newer one's consumer
	r.postType("unhandled_1", "company.created")
	r.postType("unhandled_2", "company.created")
	for id, rec := range map[string]claims.Record{
		"busy_1":    {State: claims.Running, Attempts: 1, Owner: "another", LeaseUntil: time.Now().Add(time.Hour)},
		"settled_1": {State: claims.Done, Attempts: 1},
	} {
		r.setRecord(claims.Key{WebhookID: id}, rec)
		r.post(id)
	}
	r.post("good_1")
	r.worker.pauses.probeFetch = time.Minute // also on a slow machine, all events come within one probe
	run := r.newProcess(&crashingProcess{})
	for i := range breakAfter {
		run.breaker.recordUnavailable(claims.Key{WebhookID: fmt.Sprint(i)}, "it", false)
	}
	events, err := r.JS.Consumer(t.Context(), source.Stream(), "tested")
	if err != nil {
		t.Fatal(err)
	}
	newPuller(run, events, 1).probe(t.Context())
	if got := r.state("good_1"); got != claims.Done {
		t.Errorf("the claim of the event that can run is %q after one probe; want %q", got, claims.Done)
	}
	if !run.breaker.pausedSince().IsZero() {
		t.Error("the worker still pauses; want the probe to end the pause")
	}
}

func badIsUnavailable(_ context.Context, e write) error {
	if strings.HasPrefix(e.WebhookID, "msg_bad") {
		return Unavailable(errBoom)
	}
	return nil
}
