package workers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

// requestTimeout bounds one request to the broker.
const requestTimeout = 5 * time.Second

// errStopping is the cause with which the contexts of the handlers end when the grace period is over.
var errStopping = errors.New("the process is stopping")

// runner takes the deliveries of one worker through claim, attempt, judge and settle, in this order.
type runner struct {
	worker    Worker
	source    stream.Source
	nc        *nats.Conn
	claims    claims.Store
	publish   deadletter.Publisher
	shares    shares // that publish keeps to
	log       *zap.Logger
	sampled   *zap.Logger // for lines of which a sample is enough
	metrics   *metrics
	observer  process.Observer // nil in production
	tracer    trace.Tracer     // nil when traces are off
	breaker   *breaker
	queues    keyQueues
	waits     waits
	calls     *calls // nil when handlers run in the goroutine of the delivery
	inFlight  inFlight
	instance  string
	host      string
	version   string
	takes     atomic.Uint64           // counts the calls of Take, to make each owner unique
	denied    atomic.Pointer[refusal] // of the permission to pull
	unclaimed atomic.Pointer[refusal] // of a claim; nil after claims answered again
	unburied  atomic.Pointer[refusal] // of a dead letter; nil after one was stored
	now       func() time.Time
	jitter    func() float64
	// handlers is the parent of the attempts' contexts: it ends when the grace period after a stop is over.
	handlers context.Context
}

// delivery is one message on its way through a worker.
type delivery struct {
	msg    jetstream.Msg
	parked bool // it is the parked copy of an event, and not the event itself

	// What the message says.
	key                 claims.Key
	typ                 string
	company, connection string
	contentType         string
	generated, received time.Time
	sequence            uint64

	handler Handler
	claim   claims.Claim
	attempt int   // the number of the attempt; 0 when none was claimed
	probe   bool  // it was taken while the breaker is open, to close it
	skipped bool  // the handler had nothing to do with the event
	judged  bool  // an attempt ended in a way that the breaker knows
	err     error // with which the attempt ended
}

// event is what a handler gets of a delivery.
func event[P any](d *delivery, payload P) codat.Event[P] {
	return codat.Event[P]{
		Payload: payload, Body: d.msg.Data(), ContentType: d.contentType,
		WebhookID: d.key.WebhookID, Redrive: d.key.Redrive,
		Type: d.typ, Company: d.company, Connection: d.connection,
		Generated: d.generated, Received: d.received,
		Sequence: d.sequence, Attempt: d.attempt,
	}
}

// readDelivery reads what a message says.
func (r *runner) readDelivery(m jetstream.Msg) *delivery {
	e := r.source.Open(m)
	return &delivery{
		msg: m, parked: strings.HasPrefix(m.Subject(), r.source.ParkedSubject(r.worker.Name, "")),
		key: claims.Key{WebhookID: e.ID, Redrive: e.Redrive}, typ: e.Head.Type, sequence: e.Sequence,
		company: e.Head.Company, connection: e.Head.Connection, contentType: e.ContentType, generated: e.Head.Generated, received: e.Received,
	}
}

// deliver takes one message through all of its steps and reports the outcome.
func (r *runner) deliver(m jetstream.Msg) outcome { return r.process(r.readDelivery(m)) }

// process takes a delivery through all of its steps and reports the outcome.
func (r *runner) process(d *delivery) outcome {
	began := r.now()
	r.waits.leave(d.sequence)
	o, err := r.handle(d)
	r.report(d, o, err, r.now().Sub(began))
	return o
}

// report counts the outcome of a delivery and logs it in one line. Of the deliveries that are done it logs a sample.
func (r *runner) report(d *delivery, o outcome, err error, took time.Duration) {
	r.metrics.deliveries.WithLabelValues(string(o)).Inc()
	if o == dead && d.key.Redrive != "" {
		r.metrics.redrives.WithLabelValues(string(r.source)).Inc()
	}
	if r.observed(d, o, err, took) {
		return
	}
	level, log := zap.InfoLevel, r.log
	switch o {
	case done:
		log = r.sampled
	case alreadySettled, busy:
		level = zap.DebugLevel
	case dead, leaseLost, claimError, noHandler:
		level = zap.WarnLevel
	}
	line := log.Check(level, "event "+string(o))
	if line == nil {
		return
	}
	fields := []zap.Field{
		zap.String("outcome", string(o)), zap.String("id", d.key.WebhookID), zap.String("type", d.typ),
		zap.Int("attempt", d.attempt), zap.Uint64("sequence", d.sequence), zap.Duration("took", took),
	}
	if d.key.Redrive != "" {
		fields = append(fields, zap.String("redrive", d.key.Redrive))
	}
	if err != nil {
		fields = append(fields, zap.String("cause", lastError(err)))
	}
	line.Write(fields...)
}

// observed tells the process's observer about a delivery. It returns true when no log line is needed.
func (r *runner) observed(d *delivery, o outcome, err error, took time.Duration) bool {
	if r.observer == nil {
		return false
	}
	ended := process.Delivery{
		Worker: r.worker.Name, Outcome: string(o), ID: d.key.WebhookID, Type: d.typ, Redrive: d.key.Redrive, Attempt: d.attempt, Took: took,
	}
	if err != nil {
		ended.Cause = lastError(err)
	}
	return r.observer.DeliveryEnded(ended)
}

// handle takes a delivery through the fixed order of steps. It returns the outcome and the error that led to it.
func (r *runner) handle(d *delivery) (outcome, error) {
	var ok bool
	if d.handler, ok = r.worker.handler(d.typ); !ok {
		if o, err := r.putOff(d, noHandlerPause); err != nil || o == alreadySettled {
			return o, err
		}
		return noHandler, fmt.Errorf("this version of worker %s has no handler for the type: the event waits for a version that has one", r.worker.Name)
	}
	defer r.inFlight.leave(d)
	if err := r.claim(d); err != nil {
		return r.settleUnclaimed(d, err)
	}
	if record, ok := r.inFlight.endOf(d.key); ok {
		return r.restore(d, record)
	}
	if r.exhausted(d) {
		return r.bury(d)
	}
	d.err = r.attempt(d)
	return r.settle(d)
}

// claim takes the delivery's claim, unless the process still handles another delivery of the event. While the claims do not answer it asks again for as long as a lease, and a later delivery
// of the event asks under the same owner: an attempt that was claimed without the process knowing must not count.
func (r *runner) claim(d *delivery) error {
	if !r.inFlight.enter(d) {
		return &claims.BusyError{Until: r.now().Add(inFlightPause), Running: true}
	}
	t := claims.TakeRequest{
		Owner:  r.inFlight.owner(d.key, r.instance+"."+strconv.FormatUint(r.takes.Add(1), 36)),
		Source: r.source, Sequence: d.sequence, Lease: r.worker.AckWait, Parked: d.parked,
	}
	for began, first := r.now(), true; ; first = false {
		err := r.take(d, t)
		unanswered := errors.Is(err, claims.ErrUnanswered)
		r.inFlight.answered(d.key, t.Owner, !unanswered)
		took := r.now().Sub(began)
		if !unanswered || r.handlers.Err() != nil || took >= r.worker.AckWait {
			return err
		}
		err = r.claimFailed(err)
		if first {
			r.report(d, claimError, err, took)
		}
		_ = d.msg.InProgress() // when it does not arrive, the second delivery finds this one in flight
		select {
		case <-r.handlers.Done():
			return err
		case <-time.After(r.addJitter(r.worker.pauses.claimError / 5)):
		}
	}
}

func (r *runner) take(d *delivery, t claims.TakeRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	claim, err := r.claims.Take(ctx, d.key, t)
	if err != nil {
		return err
	}
	if r.unclaimed.Load() != nil {
		r.unclaimed.Store(nil)
	}
	d.claim, d.attempt = claim, claim.Record.Attempts
	return nil
}

// exhausted reports whether a claimed delivery must not run: a process died while its dead letter was written, or its
// attempts are used up because the last one crashed or the limit was lowered since. It sets the cause of the dead letter.
func (r *runner) exhausted(d *delivery) bool {
	record := &d.claim.Record
	switch {
	case record.State == claims.Burying:
		return true
	case record.Attempts > r.worker.Attempts:
		record.Attempts-- // this attempt does not run
		record.Cause = CauseAttempts
		if record.LastError == claims.NeverEnded {
			record.Cause = CauseCrash
		}
		return true
	}
	return false
}

// attempt runs the handler once, within the worker's Timeout and under a lease that is renewed while it runs. It returns
// ErrLost or errStopping when the handler failed because its context ended for that reason.
func (r *runner) attempt(d *delivery) error {
	ctx, cancel := context.WithCancelCause(r.handlers)
	defer cancel(nil)
	lease := r.startLease(d, cancel)
	ctx, stop := context.WithTimeout(ctx, r.worker.Timeout)
	defer stop()

	ctx, span := r.trace(ctx, d)
	r.metrics.running.Add(1)
	began := time.Now()
	if b, ok := r.claims.(claims.Binder); ok {
		ctx = b.Bind(ctx, d.claim)
	}
	err := r.await(ctx, d, r.calls.start(func() error { return d.handler.run(ctx, d) }))
	if d.skipped = err == ErrSkip; d.skipped { // await returns the errors of plain
		err = nil
	}
	r.metrics.attempt.Observe(time.Since(began).Seconds())
	r.metrics.running.Add(-1)
	if err != nil {
		span.SetStatus(codes.Error, lastError(err))
	}
	span.End()

	d.claim = lease.end()
	switch {
	case err != nil && errors.Is(context.Cause(ctx), claims.ErrLost):
		return claims.ErrLost // a handler that succeeded learns this when its success is saved
	case err != nil && errors.Is(context.Cause(ctx), errStopping):
		return errStopping
	}
	return err
}

// trace begins the span of an attempt, in the trace of the request that brought the event.
func (r *runner) trace(ctx context.Context, d *delivery) (context.Context, trace.Span) {
	if parent := d.msg.Headers().Get(stream.HeaderTraceParent); parent != "" {
		ctx = process.TraceContext.Extract(ctx, propagation.MapCarrier{stream.HeaderTraceParent: parent})
	}
	if r.tracer == nil {
		return ctx, noop.Span{}
	}
	return r.tracer.Start(ctx, "process "+d.typ, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "nats"), attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", d.msg.Subject()), attribute.String("messaging.consumer.group.name", r.worker.Name),
		attribute.String("messaging.message.id", d.key.WebhookID), attribute.Int("headgate.attempt", d.attempt),
	))
}
