package workers

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
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

	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// unhandledPause is how long an event waits for a version of the worker that handles it.
	unhandledPause = 30 * time.Second
	// unclaimedPause is how long an event waits for claims that cannot be read or written.
	unclaimedPause = 5 * time.Second
	// backPause is how long an event waits that was given back. At once, the server could deliver it to a pull of this
	// process that nobody reads any more, and it would wait for AckWait; and replicas would pass it round.
	backPause = time.Second
	// refusedPause is how long an event waits when its parked copy or its dead letter was refused.
	refusedPause = time.Minute
	// patience bounds one answer of the broker.
	patience = 5 * time.Second
)

var errStopping = errors.New("the process stops")

// runner takes deliveries of one worker through claim, attempt, judge and settle, in this order.
type runner struct {
	worker   Worker
	source   stream.Source
	nc       *nats.Conn
	claims   Claims
	publish  deadletter.Publisher
	log      *zap.Logger
	sampled  *zap.Logger // for lines of which a sample is enough
	metrics  *metrics
	tracer   trace.Tracer // nil when traces are off
	breaker  *breaker
	lanes    lanes
	instance string
	host     string
	version  string
	takings  atomic.Uint64
	denied   atomic.Pointer[denial]
	now      func() time.Time
	jitter   func() float64
	// handlers is the context of the attempts: it ends when the time to finish after a stop is over.
	handlers context.Context
}

// deliver brings one delivery to its end and says so in one line; of those that are done, a sample has theirs.
func (r *runner) deliver(m jetstream.Msg, parkedCopy bool) fate {
	began := r.now()
	d := r.open(m)
	f, err := r.handle(m, &d, parkedCopy)
	r.metrics.deliveries.WithLabelValues(string(f)).Inc()

	level, log := zap.InfoLevel, r.log
	switch f {
	case done:
		log = r.sampled
	case settled, busy:
		level = zap.DebugLevel
	case dead, lost, unclaimed, unhandled:
		level = zap.WarnLevel
	}
	if line := log.Check(level, "event "+string(f)); line != nil {
		fields := []zap.Field{
			zap.String("fate", string(f)), zap.String("id", d.key.WebhookID), zap.String("type", d.typ),
			zap.Int("attempt", d.attempt), zap.Uint64("sequence", d.sequence), zap.Duration("took", r.now().Sub(began)),
		}
		if d.key.Redrive != "" {
			fields = append(fields, zap.String("redrive", d.key.Redrive))
		}
		if err != nil {
			fields = append(fields, zap.String("cause", lastError(err)))
		}
		line.Write(fields...)
	}
	return f
}

// open reads what a message says of itself.
func (r *runner) open(m jetstream.Msg) delivery {
	h := m.Headers()
	d := delivery{
		key:        Key{WebhookID: h.Get(stream.HeaderWebhookID), Redrive: h.Get(stream.HeaderRedrive)},
		typ:        r.source.TypeOf(m.Subject()),
		body:       m.Data(),
		company:    stream.Attribute(h, stream.HeaderCESubject),
		connection: stream.Attribute(h, stream.HeaderCEConnectionID),
	}
	d.generated, _ = time.Parse(time.RFC3339Nano, h.Get(stream.HeaderCETime))
	d.received, _ = time.Parse(time.RFC3339Nano, h.Get(stream.HeaderCEReceivedTime))
	if seq, err := strconv.ParseUint(h.Get(deadletter.HeaderSequence), 10, 64); err == nil {
		d.sequence = seq
	} else if meta, err := m.Metadata(); err == nil {
		d.sequence = meta.Sequence.Stream
	}
	if d.key.WebhookID == "" { // not the ingress's: another hand published it
		d.key.WebhookID = "sequence-" + strconv.FormatUint(d.sequence, 10)
	}
	return d
}

// handle is the fixed order. It returns the fate and what led to it.
func (r *runner) handle(m jetstream.Msg, d *delivery, parkedCopy bool) (fate, error) {
	h, ok := r.worker.handler(d.typ)
	if !ok {
		r.nak(m, unhandledPause)
		return unhandled, fmt.Errorf("this version of %s has no handler for it: it waits for one that has", r.worker.Name)
	}
	d.handler = h.name
	claim, err := r.take(d, parkedCopy)
	var held *BusyError
	switch {
	case errors.Is(err, ErrSettled):
		r.ack(m)
		return settled, nil
	case errors.As(err, &held):
		wait := max(held.Until.Sub(r.now()), 0) + r.spread(time.Second)
		if parkedCopy && held.Running {
			// Most likely the copy is here before its claim says parked. Then its time comes after ParkAfter, which may
			// be long before the lease is over.
			wait = min(wait, r.worker.ParkAfter)
		}
		r.nak(m, wait)
		return busy, err
	case err != nil:
		if denied := stream.Denied(r.nc, r.source.ClaimsBucket(r.worker.Name)); denied != nil && !errors.Is(err, denied) {
			err = fmt.Errorf("%w: %w", err, denied)
		}
		r.nak(m, unclaimedPause+r.spread(unclaimedPause))
		return unclaimed, err
	}
	d.attempt = claim.Record.Attempts

	switch {
	case claim.Record.State == Burying: // its letter was being written when a process died
		return r.bury(m, d, claim)
	case claim.Record.Attempts > r.worker.Attempts: // the last one crashed, or fewer count than did when it ended
		claim.Record.Attempts-- // this one is not made
		claim.Record.Cause = CauseAttempts
		if claim.Record.LastError == neverEnded {
			claim.Record.Cause = CauseCrash
		}
		return r.bury(m, d, claim)
	}
	claim, err = r.attempt(h, m, d, claim)
	return r.settle(m, d, claim, err, parkedCopy)
}

func (r *runner) take(d *delivery, parkedCopy bool) (Claim, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.claims.Take(ctx, d.key, Taking{
		Owner:    r.instance + "." + strconv.FormatUint(r.takings.Add(1), 36),
		Sequence: d.sequence, Lease: r.worker.AckWait, Parked: parkedCopy,
	})
}

// attempt runs the handler once, under the worker's time-out and a lease that is renewed while it runs.
func (r *runner) attempt(h Handler, m jetstream.Msg, d *delivery, claim Claim) (Claim, error) {
	ctx, cancel := context.WithCancelCause(r.handlers)
	defer cancel(nil)
	lease := r.keep(m, claim, cancel)
	defer lease.end() // a handler can end its goroutine too
	ctx, stop := context.WithTimeout(ctx, r.worker.Timeout)
	defer stop()

	ctx, span := r.trace(ctx, m, d)
	r.metrics.running.Inc()
	began := time.Now()
	if b, ok := r.claims.(Binder); ok {
		ctx = b.Bind(ctx, claim)
	}
	err := protect(func() error { return h.run(ctx, *d) })
	r.metrics.attempt.Observe(time.Since(began).Seconds())
	r.metrics.running.Dec()
	if err != nil {
		span.SetStatus(codes.Error, lastError(err))
	}
	span.End()

	claim = lease.end()
	switch {
	case err != nil && errors.Is(context.Cause(ctx), ErrLost):
		return claim, ErrLost // and who succeeded all the same is asked when that is saved
	case err != nil && errors.Is(context.Cause(ctx), errStopping):
		return claim, errStopping
	}
	return claim, err
}

// trace begins the span of an attempt: it goes on with the trace of the request that brought the event.
func (r *runner) trace(ctx context.Context, m jetstream.Msg, d *delivery) (context.Context, trace.Span) {
	if parent := m.Headers().Get(stream.HeaderTraceParent); parent != "" {
		ctx = process.TraceContext.Extract(ctx, propagation.MapCarrier{stream.HeaderTraceParent: parent})
	}
	if r.tracer == nil {
		return ctx, noop.Span{}
	}
	return r.tracer.Start(ctx, "process "+d.typ, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "nats"), attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", m.Subject()), attribute.String("messaging.consumer.group.name", r.worker.Name),
		attribute.String("messaging.message.id", d.key.WebhookID), attribute.Int("headgate.attempt", d.attempt),
	))
}

// protect makes an error of a panic: one event must not end the process for all others.
func protect(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v: %s", errPanic, p, debug.Stack())
		}
	}()
	return run()
}

// settle carries out the verdict on an attempt.
func (r *runner) settle(m jetstream.Msg, d *delivery, claim Claim, err error, parkedCopy bool) (fate, error) {
	switch {
	case errors.Is(err, ErrLost):
		// Somebody else has the claim or may take it soon: the attempt is given back if it still can be.
		// Who held it when the broker was away for the whole lease asks for as long again.
		_, _ = r.save(r.back(claim)) // else the attempt counts
		return lost, err
	case errors.Is(err, errStopping):
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, saveErr := r.claims.Save(ctx, r.back(claim)); saveErr == nil {
			r.nak(m, backPause)
		}
		return givenBack, err
	}

	alone := false
	if errors.As(err, new(unavailable)) {
		alone = r.breaker.unavailable(d.key, d.handler)
	} else {
		r.breaker.answered(d.key, d.handler, err)
	}
	v := judge(r.worker, outcome{err: err, attempt: claim.Record.Attempts, pauses: claim.Record.Pauses, alone: alone}, r.jitter())

	if err != nil {
		claim.Record.LastError = lastError(err)
		if claim.Record.FirstError == "" {
			claim.Record.FirstError = claim.Record.LastError
		}
	}
	if v.burnt {
		claim.Record.Pauses = 0
	} else {
		claim.Record.Attempts--
		claim.Record.Pauses++
	}

	switch v.fate {
	case done:
		finished := claim
		finished.Record = Record{State: Done, Sequence: claim.Record.Sequence, Attempts: claim.Record.Attempts, Owner: claim.Record.Owner}
		_, err := r.save(finished)
		switch {
		case errors.Is(err, ErrUndone): // the effect did not commit: the attempt failed after all
			return r.settle(m, d, claim, err, parkedCopy)
		case err != nil:
			return notSaved(err), err // no ack: a claim that is not done must not lose its event
		}
		r.ack(m)
		return done, nil
	case dead:
		claim.Record.Cause = v.cause
		return r.bury(m, d, claim)
	}
	return r.wait(m, d, claim, v, parkedCopy, err)
}

// wait lets an event wait for its next attempt: in place when the wait is short, on the parked consumer when
// it is long. cause is the attempt's error.
func (r *runner) wait(m jetstream.Msg, d *delivery, claim Claim, v verdict, parkedCopy bool, cause error) (fate, error) {
	claim.Record.State, claim.Record.LeaseUntil = Waiting, time.Time{}
	f := later
	switch {
	case parkedCopy:
		claim.Record.State, f = Parked, parked
	case v.wait > r.worker.ParkAfter:
		if err := r.park(m, d); err != nil {
			// The event waits in place instead, and what ran did not count.
			if v.burnt {
				claim.Record.Attempts--
			}
			v.wait, cause = refusedPause, errors.Join(cause, err)
			break
		}
		claim.Record.State, f = Parked, parked
	}
	claim.Record.Next = r.now().Add(v.wait)
	if _, err := r.save(claim); err != nil {
		return notSaved(err), err
	}
	if f == parked && !parkedCopy {
		r.ack(m)
	} else {
		r.nak(m, v.wait)
	}
	return f, cause
}

// park stores the event's parked copy. A copy that is there already is not stored again.
func (r *runner) park(m jetstream.Msg, d *delivery) error {
	h := deadletter.Header(m.Headers())
	h.Set(jetstream.MsgIDHeader, r.worker.Name+":"+d.key.WebhookID+":"+d.key.Redrive)
	h.Set(deadletter.HeaderSequence, strconv.FormatUint(d.sequence, 10))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := r.publish.Publish(ctx, &nats.Msg{Subject: r.source.ParkedSubject(r.worker.Name, d.typ), Header: h, Data: d.body})
	if err != nil {
		return fmt.Errorf("parking: %w", err)
	}
	return nil
}

// bury writes the dead letter and only then gives the event up. The claim says so before: a process that dies
// in between leaves a claim that is buried again, and never run again.
func (r *runner) bury(m jetstream.Msg, d *delivery, claim Claim) (fate, error) {
	cause := errors.New(claim.Record.LastError)
	if claim.Record.State != Burying {
		claim.Record.State = Burying
		var err error
		if claim, err = r.save(claim); err != nil {
			return notSaved(err), err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := deadletter.Bury(ctx, r.publish, r.source, deadletter.Letter{
		Worker: r.worker.Name, Type: d.typ, WebhookID: d.key.WebhookID, Redrive: d.key.Redrive, Sequence: d.sequence,
		Cause: claim.Record.Cause, FirstError: claim.Record.FirstError, LastError: claim.Record.LastError,
		Attempts: claim.Record.Attempts, FirstAttempt: claim.Record.First, LastAttempt: claim.Record.Last,
		Host: r.host, Header: m.Headers(), Body: d.body,
	})
	if err != nil { // the archive is full or away: the event waits, given up already
		claim.Record.LeaseUntil = r.now().Add(-Grace)
		if _, saveErr := r.save(claim); saveErr != nil {
			return notSaved(saveErr), errors.Join(err, saveErr)
		}
		r.nak(m, refusedPause)
		return later, errors.Join(cause, err)
	}
	claim.Record = Record{
		State: Dead, Sequence: claim.Record.Sequence, Attempts: claim.Record.Attempts, Owner: claim.Record.Owner,
		Cause: claim.Record.Cause, Last: claim.Record.Last,
	}
	if _, err := r.save(claim); err != nil {
		return notSaved(err), err
	}
	r.ack(m)
	return dead, cause
}

// back is the claim without the attempt, which did not come to its end.
func (r *runner) back(claim Claim) Claim {
	claim.Record.State, claim.Record.LeaseUntil = Waiting, time.Time{}
	claim.Record.Attempts--
	claim.Record.Next = r.now()
	return claim
}

// save writes a claim until it is known to be written or lost, for as long as its lease lasts.
func (r *runner) save(claim Claim) (Claim, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.worker.AckWait)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		saved, err := r.claims.Save(ctx, claim)
		if err == nil || errors.Is(err, ErrLost) || errors.Is(err, ErrUndone) {
			return saved, err
		}
		select {
		case <-ctx.Done():
			return claim, err
		case <-time.After(pause):
		}
	}
}

func notSaved(err error) fate {
	if errors.Is(err, ErrLost) {
		return lost
	}
	return unclaimed
}

// ack takes the event off the consumer. It is not waited for: the claim says durably that nothing is left to do,
// and when the ack does not arrive the event comes again and is found settled.
func (r *runner) ack(m jetstream.Msg) {
	if err := m.Ack(); err != nil {
		r.metrics.ackErrors.Inc()
		r.log.Debug("ack not sent", zap.Error(err))
	}
}

// nak gives the event back for a while. When that does not arrive, the event comes again after AckWait.
func (r *runner) nak(m jetstream.Msg, wait time.Duration) {
	if err := m.NakWithDelay(wait); err != nil {
		r.metrics.ackErrors.Inc()
		r.log.Debug("nak not sent", zap.Error(err))
	}
}

// spread keeps those that wait for the same thing from coming back in the same moment.
func (r *runner) spread(d time.Duration) time.Duration {
	return time.Duration(r.jitter() * float64(d))
}
