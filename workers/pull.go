package workers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/stream"
)

// puller takes deliveries of one consumer into a fixed number of slots.
type puller struct {
	*runner
	consumer jetstream.Consumer
	quiet    bool // leaves it to another puller to log pauses
	slots    int
	work     chan func() // to the goroutines of the slots
	repeated repeatedError
}

func newPuller(r *runner, c jetstream.Consumer, slots int) *puller {
	return &puller{runner: r, consumer: c, slots: slots, work: make(chan func())}
}

// run takes deliveries until ctx ends. While the breaker is open it takes single probes. It returns when every delivery
// that it took has ended. The error says that the consumer was deleted or the connection closed.
func (p *puller) run(ctx context.Context) error {
	// The goroutines of the slots live as long as the puller: a new one for each event would have to grow its stack.
	var slots sync.WaitGroup
	defer slots.Wait()
	defer close(p.work)
	for range p.slots {
		slots.Go(func() { p.runSlot(&slots) })
	}
	pull := stream.NewPull(p.consumer, stream.PullOptions{
		Slots: p.slots, Expiry: p.worker.pauses.pullExpiry, Conn: p.nc, Begin: p.start, Return: p.returnDelivery, Interrupted: p.pullFailed,
		Paused: p.consumerPaused,
	})
	var paused time.Time // when the pause began that was logged last
	for ctx.Err() == nil {
		since := p.breaker.pausedSince()
		if !since.Equal(paused) && !p.quiet {
			p.logPause(since, paused)
		}
		paused = since
		if !since.IsZero() {
			if p.breaker.waitForProbe(ctx) {
				if err := pull.Ended(ctx); err != nil {
					return p.endedError(err)
				}
				p.probe(ctx)
			}
			continue
		}
		if err := p.pullUntilPaused(ctx, pull); err != nil {
			return p.endedError(err)
		}
	}
	return nil
}

// endedError is the error of a puller whose consumer or stream is gone, or whose connection is closed.
func (p *puller) endedError(err error) error {
	return deletedError(fmt.Errorf("the consumer of worker %s can deliver nothing any more: %w", p.worker.Name, err))
}

// pullUntilPaused takes deliveries until ctx ends or the breaker opens, and then returns nil. The error says that no event
// can ever come.
func (p *puller) pullUntilPaused(ctx context.Context, pull *stream.Pull) error {
	ctx, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end()
	opened := p.breaker.openChan()
	watch.Go(func() {
		select {
		case <-ctx.Done():
		case <-opened:
			end()
		}
	})
	return pull.Run(ctx)
}

// runSlot runs what it is sent until the puller ends.
func (p *puller) runSlot(slots *sync.WaitGroup) {
	ended := false
	defer func() {
		if !ended { // a handler has called runtime.Goexit, as t.FailNow does
			slots.Go(func() { p.runSlot(slots) })
		}
	}()
	for run := range p.work {
		run()
	}
	ended = true
}

// logPause logs that a pause began or ended.
func (p *puller) logPause(since, before time.Time) {
	if since.IsZero() {
		p.log.Info("pause ended", zap.Duration("paused", p.now().Sub(before)))
		return
	}
	p.log.Warn("paused: what the handlers need is unavailable; the worker probes with single events", zap.Time("since", since))
}

// consumerPaused logs that an operator has paused the worker's consumer, or that such a pause has ended. The worker is ready meanwhile: it
// receives nothing, and goes on by itself. The pauses of both consumers are made together.
func (p *puller) consumerPaused(now stream.Pause) {
	switch {
	case p.quiet:
	case now.Paused:
		p.log.Warn("paused by an operator: the server delivers no event before headgate resume, or before the pause ends", zap.Stringer("paused", now))
	default:
		p.log.Info("the operator's pause has ended")
	}
}

// checkPull is the health check of pulling: it returns an error for three pull expiries after NATS refused the permission.
func (r *runner) checkPull(context.Context) error {
	if last := r.denied.Load(); last != nil && r.now().Sub(last.at) < 3*r.worker.pauses.pullExpiry {
		return last.err
	}
	return nil
}

// pullFailed logs why pulling was interrupted, and keeps a refused permission for checkPull.
func (p *puller) pullFailed(err error) {
	info := p.consumer.CachedInfo()
	if denied := stream.PermissionError(p.nc, info.Stream+"."+info.Name); denied != nil {
		p.denied.Store(&refusal{denied, p.now()})
		err = denied
	}
	if p.repeated.due(err, p.now()) {
		p.log.Warn("pulling events failed; the worker tries again every second", zap.Error(err))
	}
}

// start gives a delivery to the slot that was taken for it. It frees the slot when the delivery waits for its key.
func (p *puller) start(ctx context.Context, m jetstream.Msg, done func()) {
	key, as := p.admit(m)
	if as == queued {
		done()
		return
	}
	p.work <- func() {
		defer done()
		if as == queueFull {
			p.turnAway(m)
		} else {
			p.deliverInTurn(ctx, key, p.readDelivery(m))
		}
	}
}

// admit returns the key of a delivery and whether it runs now, waits in the queue of its key, or finds the queue full.
func (r *runner) admit(m jetstream.Msg) (key string, as admission) {
	if r.worker.Key == nil {
		return "", admitted
	}
	err := <-r.calls.start(func() error {
		key = r.worker.Key(event(r.readDelivery(m), struct{}{}))
		return nil
	})
	if err != nil {
		r.log.Error("the worker's Key function failed; the event is handled without a key", zap.String("cause", lastError(err)))
		return "", admitted
	}
	if key == "" {
		return "", admitted
	}
	return key, r.queues.enter(key, m)
}

// turnAway puts off a delivery that found the queue of its key full: for a second or two, or for up to pauses.key when many
// events wait.
func (r *runner) turnAway(m jetstream.Msg) {
	began := r.now()
	d := r.readDelivery(m)
	wait := returnPause + r.addJitter(returnPause)
	if d.parked || !r.mayWait(d, wait) {
		wait = r.addJitter(r.worker.pauses.key)
	}
	o, err := r.putOff(d, wait)
	if o == returned {
		r.metrics.deliveries.WithLabelValues(string(o)).Inc()
		return
	}
	r.report(d, o, err, r.now().Sub(began))
}

// deliverInTurn processes d and then the deliveries that wait for its key, which it returns to the stream once ctx has ended.
// It returns the outcome of d.
func (r *runner) deliverInTurn(ctx context.Context, key string, d *delivery) outcome {
	o := r.process(d)
	for key != "" {
		m, more := r.queues.leave(key)
		if !more {
			break
		}
		if ctx.Err() != nil {
			r.returnDelivery(m)
			continue
		}
		r.deliver(m)
	}
	return o
}

// extendQueued extends the AckWait of the deliveries that wait for their key, until ctx ends.
func (r *runner) extendQueued(ctx context.Context) {
	tick := time.NewTicker(r.worker.AckWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, m := range r.queues.queued() {
				_ = m.InProgress() // when it does not arrive, the claim tells the two deliveries apart
			}
		}
	}
}

// returnDelivery returns a delivery to the stream that was not started.
func (r *runner) returnDelivery(m jetstream.Msg) {
	r.metrics.deliveries.WithLabelValues(string(returned)).Inc()
	r.nak(m, returnPause+r.addJitter(returnPause))
}

// probe takes deliveries while the breaker is open, one after the other, until an attempt with one has ended. A delivery
// without an attempt, as one that is settled or busy, does not say whether what the handlers need is available.
func (p *puller) probe(ctx context.Context) {
	for tries := range maxProbeSkips {
		m := p.nextProbe(tries == 0)
		switch {
		case m == nil:
			return
		case ctx.Err() != nil:
			p.returnDelivery(m)
			return
		case p.probeWith(ctx, m):
			return
		}
	}
}

// nextProbe takes the delivery to probe with, and returns nil without one. It prefers an event that was not unavailable in
// this pause, and returns up to maxProbeSkips others to the stream to find one. With wait it waits for the first.
func (p *puller) nextProbe(wait bool) jetstream.Msg {
	var next jetstream.Msg
	var skipped []jetstream.Msg
	for next == nil && len(skipped) < maxProbeSkips {
		m, err := p.fetchOne(wait && len(skipped) == 0)
		if err != nil {
			p.log.Debug("no event to probe with", zap.Error(err))
		}
		if m == nil {
			break
		}
		if p.breaker.inStreak(p.readDelivery(m).key) {
			skipped = append(skipped, m)
		} else {
			next = m
		}
	}
	if next == nil && len(skipped) > 0 {
		next, skipped = skipped[0], skipped[1:]
	}
	for _, m := range skipped {
		p.returnDelivery(m)
	}
	return next
}

// probeWith delivers m and reports whether the probe has ended: an attempt was made, or the breaker is closed.
func (p *puller) probeWith(ctx context.Context, m jetstream.Msg) bool {
	switch key, as := p.admit(m); as {
	case admitted:
		d := p.readDelivery(m)
		d.probe = true
		if p.deliverInTurn(ctx, key, d) == claimError {
			select { // the claims do not answer; they may long before the next probe is due
			case <-ctx.Done():
			case <-time.After(p.worker.pauses.probe):
			}
		}
		return d.judged || p.breaker.pausedSince().IsZero()
	case queueFull:
		p.turnAway(m)
	}
	return false
}

// fetchOne takes one delivery, and returns nil without one. With wait it waits for one up to pauses.probeFetch.
func (p *puller) fetchOne(wait bool) (m jetstream.Msg, err error) {
	var batch jetstream.MessageBatch
	if wait {
		batch, err = p.consumer.Fetch(1, jetstream.FetchMaxWait(p.worker.pauses.probeFetch))
	} else {
		batch, err = p.consumer.FetchNoWait(1)
	}
	if err != nil {
		return nil, err
	}
	for got := range batch.Messages() {
		m = got
	}
	return m, batch.Error()
}
