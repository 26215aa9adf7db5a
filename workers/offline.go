package workers

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

// Offline runs a worker without a broker. It serves package workertest, which tests of handlers should use: a delivery takes
// the same steps as in a process (claim, attempt, judge, settle). Every wait has the full length that its jitter allows, so
// that two runs are equal.
type Offline struct {
	Source    stream.Source
	Claims    claims.Store
	Publisher deadletter.Publisher // of parked copies and dead letters
	Log       *zap.Logger
	// AttemptEnded is called with the error of each attempt and the time at which it began, before the attempt is judged.
	AttemptEnded func(k claims.Key, attempt int, began time.Time, err error)
}

// Deliverer returns a function that handles and settles one delivery and returns its outcome, in the word of the log and the
// metrics. While the worker is paused, the function waits until a probe is due. The error is that of the worker's Validate.
func (o Offline) Deliverer(w Worker) (func(jetstream.Msg) string, error) {
	if err := w.Validate(); err != nil {
		return nil, err
	}
	w = w.withDefaults()
	w.Handlers = slices.Clone(w.Handlers)
	for i, h := range w.Handlers {
		w.Handlers[i].run = func(ctx context.Context, d *delivery) error {
			began := time.Now()
			err := protect(func() error { return h.run(ctx, d) })
			o.AttemptEnded(d.key, d.attempt, began, err)
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
	return func(m jetstream.Msg) string {
		b.waitForProbe(r.handlers)
		return string(r.deliver(m))
	}, nil
}
