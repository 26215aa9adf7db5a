package workers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// noHandlerPause is how long an event waits for a version of the worker that handles it.
	noHandlerPause = 30 * time.Second
	// returnPause is how long an event waits that was returned to the stream. Without a pause the server could deliver it
	// to an open pull of this process, whose messages are not read any more, where it would wait for AckWait; and replicas
	// would return it to each other.
	returnPause = time.Second
	// lastSave is how long the result of an attempt may take to be saved after the grace period of a stop.
	lastSave = 3 * time.Second
	// publishRefusedPause is how long an event waits when its parked copy or its dead letter was refused.
	publishRefusedPause = time.Minute
)

// settleUnclaimed settles a delivery whose claim could not be taken. err is the error of Take.
func (r *runner) settleUnclaimed(d *delivery, err error) (outcome, error) {
	var held *claims.BusyError
	switch {
	case errors.Is(err, claims.ErrSettled):
		r.unclaimed.Store(nil)
		r.ack(d.msg)
		return alreadySettled, nil
	case errors.As(err, &held):
		r.unclaimed.Store(nil)
		wait := max(held.Until.Sub(r.now()), 0) + r.addJitter(time.Second)
		switch {
		case d.parked && held.Running:
			// Most likely the copy arrived before its claim said parked. Then it may be due long before the lease is over.
			wait = min(wait, returnPause+r.addJitter(returnPause))
		case d.parked:
			r.waitParked(d, wait)
			return parked, err
		}
		r.nak(d.msg, wait)
		return busy, err
	}
	err = r.claimFailed(err)
	pause := r.worker.pauses.claimError
	r.nak(d.msg, pause+r.addJitter(pause))
	return claimError, err
}

// explainClaim adds the permission that the claims lack, if NATS has refused one, to an error of Take.
func (r *runner) explainClaim(err error) error {
	if denied := stream.PermissionError(r.nc, r.source.ClaimsBucket(r.worker.Name)); denied != nil && !errors.Is(err, denied) {
		return fmt.Errorf("%w: %w", err, denied)
	}
	return stream.NotConnected(r.nc, err)
}

// settle judges the attempt that ended with d.err and carries out the verdict.
func (r *runner) settle(d *delivery) (outcome, error) {
	switch {
	case errors.Is(d.err, claims.ErrLost):
		// Another process has the claim or may take it soon. The attempt is not counted if the claim can still be saved.
		_, _ = r.save(r.refundAttempt(d.claim)) // when that fails, the attempt counts
		return leaseLost, d.err
	case errors.Is(d.err, errStopping):
		if _, saveErr := r.save(r.refundAttempt(d.claim)); saveErr == nil {
			r.nak(d.msg, returnPause)
		}
		return returned, d.err
	}

	switch v := r.judge(d); v.outcome {
	case done:
		return r.finish(d)
	case dead:
		d.claim.Record.Cause = v.cause
		return r.bury(d)
	default:
		return r.wait(d, v)
	}
}

// judge returns the verdict on the attempt of d, and writes into the claim's record what the attempt showed. It also tells
// the breaker.
func (r *runner) judge(d *delivery) verdict {
	record := &d.claim.Record
	isolated := false
	switch {
	case d.skipped && d.err == nil: // no attempt that the breaker learns from
	case errors.As(d.err, new(unavailable)):
		d.judged = true
		isolated = r.breaker.recordUnavailable(d.key, d.handler.name, d.probe)
	default:
		d.judged = true
		r.breaker.recordAnswer(d.key, d.handler.name, d.err)
	}
	v := judge(r.worker, attemptResult{err: d.err, attempt: record.Attempts, pauses: record.Pauses, isolated: isolated}, r.jitter())
	if d.err != nil {
		record.LastError = lastError(d.err)
		if record.FirstError == "" {
			record.FirstError = record.LastError
		}
	}
	if v.countsAttempt {
		record.Pauses = 0
	} else {
		record.Attempts--
		record.Pauses++
	}
	return v
}

// finish saves the claim as done and acks. When the effect did not commit with the claim, the attempt failed and is judged
// again.
func (r *runner) finish(d *delivery) (outcome, error) {
	finished := d.claim
	finished.Record = claims.Record{
		State: claims.Done, Source: d.claim.Record.Source, Sequence: d.claim.Record.Sequence, Attempts: d.claim.Record.Attempts, Owner: d.claim.Record.Owner,
	}
	_, err := r.save(finished)
	switch {
	case errors.Is(err, claims.ErrNotCommitted):
		d.err = err
		return r.settle(d)
	case err != nil:
		return notSaved(err), err // no ack: an event whose claim is not done must come again
	}
	r.inFlight.end(d.key, finished.Record)
	r.ack(d.msg)
	return done, nil
}

// restore settles an event that this process has done or buried, and whose claim is lost: it saves the final record again.
func (r *runner) restore(d *delivery, record claims.Record) (outcome, error) {
	r.log.Warn("the claim of an event that is settled was lost; the worker writes it again and runs no handler",
		zap.String("id", d.key.WebhookID), zap.String("state", string(record.State)))
	record.Owner = d.claim.Record.Owner
	d.claim.Record = record
	if _, err := r.save(d.claim); err != nil {
		return notSaved(err), err
	}
	r.ack(d.msg)
	return alreadySettled, nil
}

// claimsLost records that the claims have lost what they had acknowledged.
func (r *runner) claimsLost() {
	r.metrics.claimsLost.Inc()
	r.log.Error("the claims of this worker were lost: their bucket was deleted and made again, or a server came back without its disk; an event that was settled and not acknowledged can be handled a second time",
		zap.String("bucket", r.source.ClaimsBucket(r.worker.Name)))
}

// wait lets an event wait for its next attempt: on the worker's own consumer when the wait is short and few events wait
// there, as a parked copy otherwise.
func (r *runner) wait(d *delivery, v verdict) (outcome, error) {
	record := &d.claim.Record
	record.State, record.LeaseUntil = claims.Waiting, time.Time{}
	o, cause := retry, d.err
	switch {
	case d.parked:
		record.State, o = claims.Parked, parked
	case !r.worker.Ordered && (v.wait > r.worker.ParkAfter || !r.mayWait(d, v.wait)):
		if err := r.park(d, d.claim.Record.Owner); err != nil {
			// The event waits on the worker's own consumer instead: for as long when it is too large to be parked ever, and
			// otherwise for a minute, which is no attempt.
			cause = errors.Join(cause, err)
			if errors.Is(err, stream.ErrTooLarge) {
				break
			}
			if v.countsAttempt {
				record.Attempts--
			}
			v.wait = publishRefusedPause
			break
		}
		record.State, o = claims.Parked, parked
	}
	record.Next = r.now().Add(v.wait)
	if _, err := r.save(d.claim); err != nil {
		return notSaved(err), err
	}
	r.inFlight.leave(d) // the next delivery may come at once
	switch {
	case d.parked:
		r.waitParked(d, v.wait)
	case o == parked:
		r.ack(d.msg)
	default:
		r.nak(d.msg, v.wait)
	}
	return o, cause
}

// waitParked lets a parked copy wait on its consumer, which has fewer places than there can be copies. A copy that has waited
// in its place before leaves it while others have none: another copy of the event is stored behind them.
func (r *runner) waitParked(d *delivery, wait time.Duration) {
	meta, err := d.msg.Metadata()
	if err == nil && meta.NumDelivered > 1 && meta.NumPending > 0 {
		r.inFlight.leave(d) // the other copy may come at once
		if r.park(d, r.instance+"."+strconv.FormatUint(r.takes.Add(1), 36)) == nil {
			r.ack(d.msg)
			return
		}
	}
	r.nak(d.msg, min(wait, r.worker.pauses.parkedTurn))
}

// mayWait reports whether an event may wait on the worker's own consumer.
func (r *runner) mayWait(d *delivery, wait time.Duration) bool {
	return r.waits.enter(d.sequence, wait, r.now())
}

// putOff lets an event wait that no attempt can be made with now. It counts no attempt. An event that may wait on its
// consumer is returned; one for which too many others wait there is parked, for which its claim is taken.
func (r *runner) putOff(d *delivery, wait time.Duration) (outcome, error) {
	switch {
	case d.parked:
		r.waitParked(d, wait)
		return returned, nil
	case r.worker.Ordered, r.mayWait(d, wait):
		r.nak(d.msg, wait)
		return returned, nil
	}
	defer r.inFlight.leave(d)
	if err := r.claim(d); err != nil {
		return r.settleUnclaimed(d, err)
	}
	if r.exhausted(d) {
		return r.bury(d)
	}
	d.claim = r.refundAttempt(d.claim)
	return r.wait(d, verdict{outcome: retry, wait: wait})
}

// park stores a parked copy of the event. copyID is a part of the message id that no earlier copy has, so that a copy that
// was taken before is never mistaken for this one: a second copy is harmless, because one claim decides for both.
func (r *runner) park(d *delivery, copyID string) error {
	h := deadletter.Header(d.msg.Headers())
	h.Set(jetstream.MsgIDHeader, r.worker.Name+":"+d.key.WebhookID+":"+d.key.Redrive+":"+copyID)
	h.Set(stream.HeaderWebhookID, d.key.WebhookID)
	h.Set(stream.HeaderSequence, strconv.FormatUint(d.sequence, 10))
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	_, err := r.publish.Publish(ctx, &nats.Msg{Subject: r.source.ParkedSubject(r.worker.Name, d.typ), Header: h, Data: d.msg.Data()})
	if err != nil {
		return fmt.Errorf("parking: %w", err)
	}
	return nil
}

// bury stores the dead letter and then gives the event up. The claim says burying before: when a process dies in between,
// the next delivery buries the event again and never runs it.
func (r *runner) bury(d *delivery) (outcome, error) {
	record := &d.claim.Record
	cause := errors.New(record.LastError)
	if record.State != claims.Burying {
		record.State = claims.Burying
		saved, err := r.save(d.claim)
		if err != nil {
			return notSaved(err), err
		}
		d.claim = saved
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	err := deadletter.Bury(ctx, r.publish, r.source, deadletter.Letter{
		Worker: r.worker.Name, Type: d.typ, WebhookID: d.key.WebhookID, Redrive: d.key.Redrive, Sequence: d.sequence,
		Cause: record.Cause, FirstError: record.FirstError, LastError: record.LastError, Detail: detailOf(d.err),
		Attempts: record.Attempts, FirstAttempt: record.First, LastAttempt: record.Last,
		Host: r.host, Header: d.msg.Headers(), Body: d.msg.Data(),
	})
	if err != nil { // the archive is full or away: the event waits, given up already
		r.unburied.Store(&refusal{err, r.now()})
		record.LeaseUntil = r.now().Add(-claims.ClockSkew)
		if _, saveErr := r.save(d.claim); saveErr != nil {
			return notSaved(saveErr), errors.Join(err, saveErr)
		}
		r.nak(d.msg, publishRefusedPause)
		return retry, errors.Join(cause, err)
	}
	r.unburied.Store(nil)
	*record = claims.Record{
		State: claims.Dead, Source: record.Source, Sequence: record.Sequence, Attempts: record.Attempts, Owner: record.Owner,
		Cause: record.Cause, Last: record.Last,
	}
	if _, err := r.save(d.claim); err != nil {
		return notSaved(err), err
	}
	r.inFlight.end(d.key, *record)
	r.ack(d.msg)
	return dead, cause
}

// refundAttempt returns the claim without the attempt, which did not end.
func (r *runner) refundAttempt(claim claims.Claim) claims.Claim {
	claim.Record.State, claim.Record.LeaseUntil = claims.Waiting, time.Time{}
	claim.Record.Attempts--
	claim.Record.Next = r.now()
	return claim
}

// save writes a claim until the write is known to have succeeded or the claim to be lost: what it says must not be forgotten
// while the process lives, because the event would run again. It gives up lastSave after the grace period of a stop.
func (r *runner) save(claim claims.Claim) (claims.Claim, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(r.handlers, func() {
		select {
		case <-ctx.Done():
		case <-time.After(lastSave):
			cancel()
		}
	})()
	var repeated repeatedError
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		saved, err := r.saveOnce(ctx, claim)
		if err == nil || errors.Is(err, claims.ErrLost) || errors.Is(err, claims.ErrNotCommitted) {
			return saved, err
		}
		if repeated.due(err, r.now()) {
			r.log.Warn("the claim of an event cannot be saved; the worker tries again until it is",
				zap.String("id", claim.Key.WebhookID), zap.String("state", string(claim.Record.State)), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return claim, err
		case <-time.After(pause):
		}
	}
}

func (r *runner) saveOnce(ctx context.Context, claim claims.Claim) (claims.Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return r.claims.Save(ctx, claim)
}

// notSaved is the outcome of a delivery whose claim could not be saved.
func notSaved(err error) outcome {
	if errors.Is(err, claims.ErrLost) {
		return leaseLost
	}
	return claimError
}

// ack acknowledges a message and does not wait for the server: the claim says durably that nothing is left to do, so that
// an event whose ack is lost is recognised when it comes again.
func (r *runner) ack(m jetstream.Msg) {
	if err := m.Ack(); err != nil {
		r.metrics.ackErrors.Inc()
		r.log.Debug("ack not sent", zap.Error(err))
	}
}

// nak returns a message to the stream for a while. When the nak is lost, the event comes again after AckWait.
func (r *runner) nak(m jetstream.Msg, wait time.Duration) {
	if err := m.NakWithDelay(wait); err != nil {
		r.metrics.ackErrors.Inc()
		r.log.Debug("nak not sent", zap.Error(err))
	}
}

// addJitter returns a random part of d, which keeps events that wait for the same thing from coming back together.
func (r *runner) addJitter(d time.Duration) time.Duration {
	return time.Duration(r.jitter() * float64(d))
}
