package workers

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// Offline is what a worker runs on where there is no broker. It is made for package workertest, which most tests of
// handlers should use: every delivery takes the path that it takes in a process (claim, attempt, judge, settle), and
// every wait has the whole length that jitter could give it, so that two runs are alike.
type Offline struct {
	Source    stream.Source
	Claims    Claims
	Publisher deadletter.Publisher // of parked copies and dead letters
	Log       *zap.Logger
	// Answered is told what each run of a handler answered, and when it had begun, before that is judged.
	Answered func(k Key, attempt int, began time.Time, err error)
}

// Deliverer returns a function that brings one delivery to its end and returns its fate, in the word that log and
// metrics have for it too. While the worker pauses because something is unavailable, it waits until a probe is due.
// The error is the worker's own Validate.
func (o Offline) Deliverer(w Worker) (func(m jetstream.Msg, parkedCopy bool) string, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	w = w.withDefaults()
	w.Handlers = slices.Clone(w.Handlers)
	for i, h := range w.Handlers {
		w.Handlers[i].run = func(ctx context.Context, d delivery) error {
			began := time.Now()
			err := protect(func() error { return h.run(ctx, d) })
			o.Answered(d.key, d.attempt, began, err)
			return err
		}
	}
	b := newBreaker(time.Now)
	m, err := newMetrics(prometheus.NewRegistry(), w.Name, b)
	if err != nil {
		return nil, err
	}
	r := &runner{
		worker: w, source: o.Source, claims: o.Claims, publish: o.Publisher,
		log: o.Log, sampled: o.Log, metrics: m, tracer: noop.NewTracerProvider().Tracer(tracerName), breaker: b,
		instance: "offline", host: "offline", now: time.Now, jitter: func() float64 { return 1 }, handlers: context.Background(),
	}
	return func(m jetstream.Msg, parkedCopy bool) string {
		b.probe(r.handlers)
		return string(r.deliver(m, parkedCopy))
	}, nil
}
