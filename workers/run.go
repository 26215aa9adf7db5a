package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// retryPause is the wait before a request that failed is sent again.
	retryPause = time.Second
	// tracerName is the instrumentation scope of the spans.
	tracerName = "github.com/headgate/headgate/workers"
	// nuidSuffix leaves the last 8 characters of a NUID: enough to tell the instances of one worker apart.
	nuidSuffix = 14
)

// Parts is what a worker's handlers can be built from.
type Parts struct {
	JS     jetstream.JetStream
	Source stream.Source
	Log    *zap.Logger
}

// State opens the KV bucket of one of the names in Worker.State.
func (p Parts) State(ctx context.Context, name string) (jetstream.KeyValue, error) {
	kv, err := stream.Bucket(ctx, p.JS, p.Source.StateBucket(name))
	if errors.Is(err, stream.ErrNotProvisioned) {
		return nil, fmt.Errorf("state %q, which the worker's State must list: %w", name, err)
	}
	return kv, err
}

// Run runs one worker until ctx ends: it connects, binds to what was provisioned, and settles every event that the
// worker handles. spec is the worker before it is connected to anything: Run takes from it what must be provisioned, and
// calls none of its handlers. build returns the worker that runs, once there is a connection. A worker whose handlers need
// nothing but the event can be both; one that writes a state or a database is a function of it that both call, spec with nil.
// With s.Spec, Run prints what the worker needs on NATS to standard output and returns.
//
// When ctx ends, Run starts no more handlers and returns the deliveries that wait for one to the stream. Running handlers
// have s.Grace to finish; then their contexts end and their attempts are not counted. Run returns nil after such a stop,
// and an error when the worker cannot run. The error names the cure when something is not provisioned.
func Run(ctx context.Context, s Settings, p *process.Process, spec Worker, build func(context.Context, Parts) (Worker, error)) error {
	st := &starter{settings: s, process: p, spec: s.apply(spec), build: build}
	if err := st.spec.Validate(); err != nil {
		return process.Misconfigured(err)
	}
	if s.Prints() {
		return json.NewEncoder(os.Stdout).Encode(st.spec.Spec())
	}
	defer st.close()
	// A check that the caller has added does not make the process ready before the worker's own are there.
	p.Health.Add("events", func(context.Context) error { return errors.New("starting") })
	if err := st.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	for _, stage := range []func(context.Context) error{st.bind, st.openClaims} {
		if err := st.retry(ctx, stage); err != nil || ctx.Err() != nil {
			return err
		}
	}
	handlers, end := context.WithCancelCause(context.Background())
	defer end(nil)
	r, err := st.newRunner(handlers)
	if err != nil {
		return err
	}
	// The grace period begins when ctx ends.
	defer context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(s.Grace, func() { end(errStopping) })
		context.AfterFunc(handlers, func() { timer.Stop() })
	})()
	return r.run(ctx, st.js, st.events, st.parked)
}

// starter holds what the stages of Run build one after the other.
type starter struct {
	settings Settings
	process  *process.Process
	spec     Worker
	build    func(context.Context, Parts) (Worker, error)

	nc             *nats.Conn
	js             jetstream.JetStream
	publisher      *stream.Publisher
	events, parked jetstream.Consumer
	worker         Worker
}

func (st *starter) connect(ctx context.Context) (err error) {
	if st.nc, err = stream.Connect(ctx, st.settings.NATS, st.spec.Name, st.process.Log); err != nil {
		return err
	}
	if st.js, err = jetstream.New(st.nc); err != nil {
		return err
	}
	st.publisher, err = stream.NewPublisher(st.nc, stream.PublisherOptions{})
	return err
}

// close flushes and closes what connect opened. Acks and naks are not confirmed one by one: the event of one that does not
// arrive is delivered again.
func (st *starter) close() {
	if st.publisher != nil {
		st.publisher.Close()
	}
	if st.nc != nil {
		_ = st.nc.FlushTimeout(requestTimeout)
		st.nc.Close()
	}
}

// bind provisions if the settings say so, binds to the consumers and builds the worker.
func (st *starter) bind(ctx context.Context) (err error) {
	log, source := st.process.Log, st.settings.Source
	if st.settings.Provision {
		layout := stream.Layout{Source: source, Workers: []stream.WorkerSpec{st.spec.Spec()}}
		if err := stream.EnsureProvisioned(ctx, st.js, layout, log); err != nil {
			return err
		}
	}
	if st.events, st.parked, err = stream.Bind(ctx, st.js, source, st.spec.Spec()); err != nil {
		return err
	}
	if differs := clockDiffers(st.events.CachedInfo().TimeStamp, time.Now()); differs != nil {
		log.Warn("the clock of this host differs from that of the NATS server", zap.Error(differs))
	}
	if st.worker, err = st.build(ctx, Parts{JS: st.js, Source: source, Log: log}); err != nil {
		return err
	}
	st.keepAckWait()
	return nil
}

// keepAckWait takes the AckWait of the consumers as the worker's, the shorter of the two: another version of the worker may
// have provisioned them. A delivery that is extended less often comes again while its handler runs.
func (st *starter) keepAckWait() {
	have := min(st.events.CachedInfo().Config.AckWait, st.parked.CachedInfo().Config.AckWait)
	if own := st.worker.withDefaults().AckWait; have != own {
		st.process.Log.Info("the worker keeps the ack wait of its consumers, which differs from its own",
			zap.Duration("ack_wait", have), zap.Duration("own", own))
	}
	st.worker.AckWait = have
}

// openClaims opens the bucket of the claims, unless the worker brings a Store of its own.
func (st *starter) openClaims(ctx context.Context) error {
	if st.worker.Claims != nil {
		return nil
	}
	bucket, err := stream.Bucket(ctx, st.js, st.settings.Source.ClaimsBucket(st.spec.Name))
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	st.worker.Claims = claims.NewKV(bucket, st.publisher, nil)
	return nil
}

// retry calls stage until it succeeds or fails with an error that waiting does not cure. It returns nil when ctx ends.
func (st *starter) retry(ctx context.Context, stage func(context.Context) error) error {
	var repeated repeatedError
	for {
		err := stage(ctx)
		switch {
		case err == nil, errors.Is(err, stream.ErrNotProvisioned), errors.Is(err, stream.ErrDrift):
			return err
		case ctx.Err() != nil:
			return nil
		}
		// Until the checks of a worker that runs take its place.
		st.process.Health.Add("events", func(context.Context) error { return fmt.Errorf("cannot start yet: %w", err) })
		if repeated.due(err, time.Now()) {
			st.process.Log.Warn("worker cannot start yet; it tries again every second", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryPause):
		}
	}
}

// newRunner validates the built worker and returns its runner, whose metrics and health checks are registered.
func (st *starter) newRunner(handlers context.Context) (*runner, error) {
	w, p := st.settings.apply(st.worker), st.process
	if err := w.Validate(); err != nil {
		return nil, process.Misconfigured(err)
	}
	if c, ok := w.Claims.(claims.CapacityChecker); ok {
		if err := c.CheckCapacity(w.Concurrency + w.parkedSlots()); err != nil {
			return nil, process.Misconfigured(err)
		}
	}
	b := newBreaker(time.Now)
	b.firstPause = w.pauses.probe
	m, err := newMetrics(p.Metrics, w.Name, b)
	if err != nil {
		return nil, err
	}
	shared := st.newShares()
	if err := shared.register(p.Metrics, w.Name); err != nil {
		return nil, err
	}
	m.redrives.WithLabelValues(string(st.settings.Source)) // so that the first one is an increase
	host, _ := os.Hostname()
	r := &runner{
		worker: w, source: st.settings.Source, nc: st.nc, claims: w.Claims, publish: sharedPublisher{st.publisher, shared}, shares: shared,
		log: p.Log, sampled: sample(p.Log), metrics: m, observer: p.Observer, tracer: process.Tracer(p.Traces, tracerName),
		breaker: b, queues: newKeyQueues(w.Concurrency), calls: newCalls(w.Concurrency + w.parkedSlots()), handlers: handlers,
		instance: nuid.Next()[nuidSuffix:], host: host, version: p.Version, now: time.Now, jitter: jitter,
	}
	if n, ok := w.Claims.(claims.LossNotifier); ok {
		n.NotifyLoss(r.claimsLost)
	}
	r.addChecks(p.Health, st.js, st.events, st.parked)
	p.Log.Info("worker started", zap.String("instance", r.instance), zap.Int("concurrency", w.Concurrency), zap.Any("types", w.Spec().Types))
	return r, nil
}

// sample logs the first hundred equal lines of each second, and one in a hundred of those that follow: a line for each
// event costs more than anything else that is logged. At --log-level debug every line is logged.
func sample(log *zap.Logger) *zap.Logger {
	if log.Core().Enabled(zap.DebugLevel) {
		return log
	}
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Second, 100, 100)
	}))
}

// repeatEvery is how often an error that does not change is logged again.
const repeatEvery = time.Minute

// repeatedError decides which occurrences of a recurring error are logged. The zero value is ready to use.
type repeatedError struct {
	text string
	at   time.Time
}

// due reports whether err differs from the error that was logged last, or that was logged repeatEvery ago.
func (e *repeatedError) due(err error, now time.Time) bool {
	if text := err.Error(); text != e.text || now.Sub(e.at) >= repeatEvery {
		e.text, e.at = text, now
		return true
	}
	return false
}

// run takes deliveries from both consumers until ctx ends or a consumer is deleted, and waits for the handlers. It returns
// an error when that takes too long after the handlers' contexts ended.
func (r *runner) run(ctx context.Context, js jetstream.JetStream, events, parked jetstream.Consumer) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer r.calls.close()
	var wg sync.WaitGroup
	pull := func(p *puller) {
		wg.Go(func() {
			if err := p.run(ctx); err != nil {
				stop(err)
			}
		})
	}
	pull(newPuller(r, events, r.worker.Concurrency))
	// Parked events have slots of their own, so that neither they nor new events take all.
	parkedPuller := newPuller(r, parked, r.worker.parkedSlots())
	parkedPuller.quiet = true // one of the two logs the pauses
	pull(parkedPuller)
	wg.Go(func() { r.heartbeat(ctx, js) })
	if r.worker.Key != nil {
		wg.Go(func() { r.extendQueued(ctx) })
	}
	if background := r.worker.Background; background != nil {
		wg.Go(func() { background(r.handlers, ctx.Done()) })
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-r.handlers.Done():
		if err := r.awaitEnd(ended); err != nil {
			return err
		}
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// awaitEnd waits until everything has ended after the handlers' contexts. Handlers have requestTimeout to return, and the results
// of those that returned as long again to be saved. The error says what did not end.
func (r *runner) awaitEnd(ended <-chan struct{}) error {
	for range 2 {
		select {
		case <-ended:
			return nil
		case <-time.After(requestTimeout):
		}
		if n := r.metrics.running.Load(); n > 0 {
			return fmt.Errorf("%d handlers still run although their contexts ended: make them return when their contexts end; another process takes their events when the leases are over", n)
		}
	}
	return errors.New("NATS or the claims did not answer before the process had to end: another process takes the events in flight when the leases are over")
}

// maxClockDifference is by how much the clock may differ from that of NATS without a warning. Leases allow claims.ClockSkew.
const maxClockDifference = claims.ClockSkew / 2

// clockDiffers returns an error when the local time differs too much from that of an answer that the server has just given.
func clockDiffers(server, local time.Time) error {
	d := local.Sub(server)
	if server.IsZero() || d.Abs() <= maxClockDifference {
		return nil
	}
	word := "ahead"
	if d < 0 {
		word = "behind"
	}
	return fmt.Errorf("it is %s %s: waits and leases can end too early or too late; synchronize the clocks of all hosts (NTP)", d.Abs().Round(time.Second), word)
}
