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

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	// pullExpiry is how long one pull waits at the server for events. A pull at a server that is cut off from the others is
	// missed after as long: much later than the others have elected would be a standstill.
	pullExpiry = 10 * time.Second
	// bindPause is the wait before a broker that could not answer is asked again.
	bindPause = time.Second
	// seenEvery is how often a running worker says so; its entry in the workers' bucket lives for a minute.
	seenEvery = 20 * time.Second
)

// Settings are what every worker's process is set by. A worker with settings of its own embeds them.
type Settings struct {
	process.Settings `embed:""`
	stream.NATS      `embed:""`

	Source    stream.Source `name:"source" default:"codat" help:"Name of the source whose events are taken."`
	Provision bool          `name:"provision" help:"Make what the worker needs (streams, consumers, buckets) before it starts, as headgate provision does."`

	Concurrency int           `name:"concurrency" help:"Handlers that run at once in this process; 0 is the worker's own number."`
	Timeout     time.Duration `name:"timeout" help:"Time for one attempt of a handler; 0 is the worker's own."`
	Attempts    int           `name:"attempts" help:"Attempts before an event becomes a dead letter; 0 is the worker's own number."`
	BackoffMin  time.Duration `name:"backoff-min" help:"Longest pause before the second attempt, doubled for each further one; 0 is the worker's own."`
	BackoffMax  time.Duration `name:"backoff-max" help:"Longest pause between two attempts; 0 is the worker's own."`
	ParkAfter   time.Duration `name:"park-after" help:"Longest pause that does not park the event; 0 is the worker's own."`
	Grace       time.Duration `name:"grace" default:"25s" help:"Time that running handlers have to finish after SIGTERM. Keep it under the time after which the process is killed."`
}

// Validate reports a setting that cannot be meant.
func (s Settings) Validate() error {
	if err := errors.Join(s.Settings.Validate(), s.NATS.Validate(), s.Source.Validate()); err != nil {
		return err
	}
	for name, n := range map[string]int64{
		"concurrency": int64(s.Concurrency), "attempts": int64(s.Attempts), "timeout": int64(s.Timeout),
		"backoff-min": int64(s.BackoffMin), "backoff-max": int64(s.BackoffMax), "park-after": int64(s.ParkAfter), "grace": int64(s.Grace),
	} {
		if n < 0 {
			return fmt.Errorf("--%s is below 0: leave it out for the default", name)
		}
	}
	return nil
}

// apply lets the process's settings stand over the worker's own.
func (s Settings) apply(w Worker) Worker {
	if s.Concurrency > 0 {
		w.Concurrency = s.Concurrency
	}
	if s.Attempts > 0 {
		w.Attempts = s.Attempts
	}
	for _, d := range []struct {
		from time.Duration
		to   *time.Duration
	}{{s.Timeout, &w.Timeout}, {s.BackoffMin, &w.BackoffMin}, {s.BackoffMax, &w.BackoffMax}, {s.ParkAfter, &w.ParkAfter}} {
		if d.from > 0 {
			*d.to = d.from
		}
	}
	return w.withDefaults()
}

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
		return nil, fmt.Errorf("state %q, which must stand in the worker's State: %w", name, err)
	}
	return kv, err
}

// Run runs one worker until ctx ends: it connects, binds to what was provisioned, and brings every event that
// the worker handles to its end. shape is the worker without working handlers, from which it is known what must
// be in place; build makes the one that runs.
//
// When ctx ends, nothing new is begun, what was taken but not begun is given back, and running handlers have
// s.Grace to finish; then their contexts end and their attempts are given back too. Run returns nil after such
// a stop, and an error when the worker cannot run: one that names the cure when something is not provisioned.
func Run(ctx context.Context, s Settings, p *process.Process, shape Worker, build func(context.Context, Parts) (Worker, error)) error {
	shape = s.apply(shape)
	if err := shape.Validate(); err != nil {
		return process.Misconfigured(err)
	}
	nc, err := stream.Connect(ctx, s.NATS, shape.Name, p.Log)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	defer func() {
		_ = nc.FlushTimeout(patience) // acks and naks are not waited for one by one; those that do not arrive are not missed
		nc.Close()
	}()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	publisher, err := stream.NewPublisher(nc, stream.PublisherOptions{})
	if err != nil {
		return err
	}
	defer publisher.Close()

	var events, parkedEvents jetstream.Consumer
	var worker Worker
	err = untilAnswered(ctx, p.Log, func() error {
		if s.Provision {
			changes, err := stream.Provision(ctx, js, stream.Plan{Source: s.Source, Workers: []stream.WorkerPlan{shape.Plan()}}, false)
			for _, change := range changes {
				if change.Action != stream.Same {
					p.Log.Info("provisioned", zap.Stringer("change", change))
				}
			}
			if err != nil {
				return err
			}
		}
		var err error
		if events, parkedEvents, err = stream.Bind(ctx, js, s.Source, shape.Plan()); err != nil {
			return err
		}
		worker, err = build(ctx, Parts{JS: js, Source: s.Source, Log: p.Log})
		return err
	})
	if err == nil && ctx.Err() == nil && worker.Claims == nil {
		err = untilAnswered(ctx, p.Log, func() error {
			bucket, err := stream.Bucket(ctx, js, s.Source.ClaimsBucket(shape.Name))
			if err != nil {
				return fmt.Errorf("claims: %w", err)
			}
			worker.Claims = NewKVClaims(bucket, publisher, nil)
			return nil
		})
	}
	if err != nil || ctx.Err() != nil {
		return err
	}
	worker = s.apply(worker)
	if err := worker.Validate(); err != nil {
		return process.Misconfigured(err)
	}
	if c, ok := worker.Claims.(Sized); ok {
		if err := c.Fits(worker.Concurrency + worker.parkedSlots()); err != nil {
			return process.Misconfigured(err)
		}
	}

	host, _ := os.Hostname()
	handlers, end := context.WithCancelCause(context.Background())
	defer end(nil)
	b := newBreaker(time.Now)
	m, err := newMetrics(p.Metrics, worker.Name, b)
	if err != nil {
		return err
	}
	r := &runner{
		worker: worker, source: s.Source, nc: nc, claims: worker.Claims, publish: publisher,
		log: p.Log, sampled: sample(p.Log), metrics: m, tracer: process.Tracer(p.Traces, tracerName), breaker: b, lanes: lanes{length: worker.Concurrency, busy: map[string][]waiting{}},
		instance: nuid.Next()[nuidSuffix:], host: host, version: p.Version, now: time.Now, jitter: jitter, handlers: handlers,
	}
	p.Health.Add("broker", func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected to NATS: %s", nc.Status())
		}
		return nil
	})
	p.Health.Add("events", r.mayPull)
	p.Log.Info("working", zap.String("instance", r.instance), zap.Int("concurrency", worker.Concurrency), zap.Strings("types", worker.Plan().Types))

	// The time to finish begins when ctx ends.
	grace := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(s.Grace, func() { end(errStopping) })
		context.AfterFunc(handlers, func() { timer.Stop() })
	})
	defer grace()
	return r.run(ctx, js, events, parkedEvents)
}

// sample writes of like lines the first hundred of each second, and of those that follow one in a hundred: a line for
// each is what a log costs most. With --log-level debug every line is written.
func sample(log *zap.Logger) *zap.Logger {
	if log.Core().Enabled(zap.DebugLevel) {
		return log
	}
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Second, 100, 100)
	}))
}

// tracerName is the instrumentation scope of the spans.
const tracerName = "github.com/headgate/headgate/workers"

// nuidSuffix leaves the last 8 characters of a NUID: enough to tell the instances of one worker apart.
const nuidSuffix = 14

// untilAnswered calls try until it says something final: nothing wrong, or an error that waiting does not mend.
func untilAnswered(ctx context.Context, log *zap.Logger, try func() error) error {
	for {
		err := try()
		switch {
		case err == nil, errors.Is(err, stream.ErrNotProvisioned), errors.Is(err, stream.ErrDrift), errors.Is(err, stream.ErrRefused):
			return err
		case ctx.Err() != nil:
			return nil
		}
		log.Warn("cannot begin yet", zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(bindPause):
		}
	}
}

// run takes deliveries from both consumers until ctx ends or one of them is gone. When handlers outlive the time
// to finish, it does not wait for them.
func (r *runner) run(ctx context.Context, js jetstream.JetStream, events, parkedEvents jetstream.Consumer) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	take := func(c jetstream.Consumer, slots int, parkedCopies bool) {
		wg.Go(func() {
			if err := r.pull(ctx, c, slots, parkedCopies); err != nil {
				stop(err)
			}
		})
	}
	take(events, r.worker.Concurrency, false)
	// Parked events have slots of their own: neither they nor new ones can take all.
	take(parkedEvents, r.worker.parkedSlots(), true)
	wg.Go(func() { r.showUp(ctx, js) })
	if r.worker.Key != nil {
		wg.Go(func() { r.keepQueued(ctx) })
	}

	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-r.handlers.Done():
		select {
		case <-ended:
		case <-time.After(patience):
			return errors.New("a handler does not end although its context has: its event goes to another process when its lease is over")
		}
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// pull takes deliveries of one consumer, slots at once, until ctx ends. While the breaker is open it takes single
// probes. It returns when all that it began has ended; the error is that the consumer is gone.
func (r *runner) pull(ctx context.Context, c jetstream.Consumer, slots int, parkedCopies bool) error {
	// They stay, and with them their stacks: each new one would have to grow its own.
	var running sync.WaitGroup
	defer running.Wait()
	work := make(chan func())
	defer close(work)
	var stand func()
	stand = func() {
		ended := false
		defer func() {
			if !ended { // a handler has called runtime.Goexit, as t.FailNow does
				running.Go(stand)
			}
		}()
		for run := range work {
			run()
		}
		ended = true
	}
	for range slots {
		running.Go(stand)
	}
	free := make(chan struct{}, slots)
	var paused time.Time // as the log says
	for ctx.Err() == nil {
		since := r.breaker.paused()
		if !since.Equal(paused) && !parkedCopies {
			r.sayPaused(since, paused)
		}
		paused = since
		if !since.IsZero() {
			if r.breaker.probe(ctx) {
				r.probe(ctx, c, parkedCopies)
			}
			continue
		}
		err := r.session(ctx, c, work, free, parkedCopies)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if gone := r.gone(ctx, c); gone != nil {
			return gone
		}
		info := c.CachedInfo()
		if denied := stream.Denied(r.nc, info.Stream+"."+info.Name); denied != nil {
			r.denied.Store(&denial{denied, r.now()})
			err = denied
		}
		r.log.Warn("taking events is interrupted", zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(bindPause):
		}
	}
	return nil
}

// A denial is of NATS, which did not let us ask for events.
type denial struct {
	err error
	at  time.Time
}

// mayPull is an error for a while after NATS has refused to be asked for events. It is asked again meanwhile.
func (r *runner) mayPull(context.Context) error {
	if last := r.denied.Load(); last != nil && r.now().Sub(last.at) < 3*pullExpiry {
		return last.err
	}
	return nil
}

// sayPaused says that a pause began or ended.
func (r *runner) sayPaused(since, before time.Time) {
	if since.IsZero() {
		r.log.Info("working again", zap.Duration("paused", r.now().Sub(before)))
		return
	}
	r.log.Warn("paused: what the handlers need is unavailable; single events are tried", zap.Time("since", since))
}

// session takes deliveries until ctx ends or the breaker opens, both nil, or the broker fails. It asks for no more
// than can be worked on soon: the ack clock of a delivery runs while it waits here.
func (r *runner) session(ctx context.Context, c jetstream.Consumer, work chan<- func(), free chan struct{}, parkedCopies bool) error {
	msgs, err := c.Messages(jetstream.PullMaxMessages(cap(free)), jetstream.PullExpiry(pullExpiry))
	if err != nil {
		return err
	}
	interrupted, end := context.WithCancel(ctx)
	defer end()
	opened := r.breaker.open()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end()
	watch.Go(func() {
		select {
		case <-interrupted.Done():
		case <-opened:
			end()
		}
		msgs.Drain()
	})
	for {
		slot := false
		select {
		case free <- struct{}{}:
			slot = true
		case <-interrupted.Done():
		}
		m, err := msgs.Next()
		if err != nil || interrupted.Err() != nil {
			if slot {
				<-free
			}
			switch {
			case errors.Is(err, jetstream.ErrMsgIteratorClosed):
				return nil
			case err != nil && interrupted.Err() == nil:
				return err
			case err == nil: // taken, but not begun
				r.handBack(m)
			}
			continue
		}
		next := waiting{m, parkedCopies}
		key, ok := r.enter(next)
		if !ok {
			<-free
			continue
		}
		work <- func() {
			defer func() { <-free }()
			r.work(interrupted, key, next)
		}
	}
}

// enter says whether a delivery is to be worked on now, and under which key. If not, it is in its key's lane, or was
// handed back because that is full.
func (r *runner) enter(w waiting) (key string, now bool) {
	if r.worker.Key == nil {
		return "", true
	}
	err := protect(func() error {
		key = r.worker.Key(event(r.open(w.Msg), struct{}{}))
		return nil
	})
	if err != nil {
		r.log.Error("the worker's Key failed: the event has none", zap.String("cause", lastError(err)))
		return "", true
	}
	if key == "" {
		return "", true
	}
	switch r.lanes.enter(key, w) {
	case queued:
		return key, false
	case crowded:
		r.handBack(w.Msg)
		return key, false
	}
	return key, true
}

// work works on a delivery, and on those that wait for its key behind it; these are handed back once ctx has ended.
func (r *runner) work(ctx context.Context, key string, next waiting) {
	r.deliver(next.Msg, next.parkedCopy)
	for key != "" {
		var more bool
		if next, more = r.lanes.leave(key); !more {
			return
		}
		if ctx.Err() != nil {
			r.handBack(next.Msg)
			continue
		}
		r.deliver(next.Msg, next.parkedCopy)
	}
}

// keepQueued keeps the deliveries that wait for their key from being delivered again.
func (r *runner) keepQueued(ctx context.Context) {
	tick := time.NewTicker(r.worker.AckWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, w := range r.lanes.all() {
				_ = w.InProgress() // when it does not arrive, the claim tells the two deliveries apart
			}
		}
	}
}

// handBack returns a delivery that was not begun.
func (r *runner) handBack(m jetstream.Msg) {
	r.metrics.deliveries.WithLabelValues(string(givenBack)).Inc()
	r.nak(m, backPause+r.spread(backPause))
}

// probe takes one delivery while the breaker is open, and waits for its end. It is of another event than those that were
// unavailable in this pause, if there is one.
func (r *runner) probe(ctx context.Context, c jetstream.Consumer, parkedCopies bool) {
	var next jetstream.Msg
	var met []jetstream.Msg
	for next == nil && len(met) < probeLook {
		m, err := r.one(c, len(met) == 0)
		if err != nil {
			r.log.Debug("no probe", zap.Error(err))
		}
		if m == nil {
			break
		}
		if r.breaker.met(r.open(m).key) {
			met = append(met, m)
		} else {
			next = m
		}
	}
	if next == nil && len(met) > 0 {
		next, met = met[0], met[1:]
	}
	for _, m := range met {
		r.handBack(m)
	}
	switch {
	case next == nil:
	case ctx.Err() != nil:
		r.handBack(next)
	default:
		probe := waiting{next, parkedCopies}
		if key, ok := r.enter(probe); ok {
			r.work(ctx, key, probe)
		}
	}
}

// one takes one delivery, nil when there is none.
func (r *runner) one(c jetstream.Consumer, patient bool) (m jetstream.Msg, err error) {
	var batch jetstream.MessageBatch
	if patient {
		batch, err = c.Fetch(1, jetstream.FetchMaxWait(patience))
	} else {
		batch, err = c.FetchNoWait(1)
	}
	if err != nil {
		return nil, err
	}
	for got := range batch.Messages() {
		m = got
	}
	return m, batch.Error()
}

// gone says that a consumer does not exist any more: nothing will ever come, and waiting would hide it.
func (r *runner) gone(ctx context.Context, c jetstream.Consumer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := c.Info(ctx); errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDeleted) {
		return fmt.Errorf("the consumer of worker %s was deleted: run `headgate provision`; events since its deletion may need `headgate replay`: %w",
			r.worker.Name, stream.ErrNotProvisioned)
	}
	return nil
}

// Instance is how a running worker shows itself in the source's workers bucket, under the key
// <worker>.<instance>. The entry expires a minute after it was written last.
type Instance struct {
	Worker   string    `json:"worker"`
	Instance string    `json:"instance"`
	Host     string    `json:"host"`
	Version  string    `json:"version"`
	Paused   time.Time `json:"paused,omitzero"` // since when its breaker is open
	Seen     time.Time `json:"seen"`
}

// showUp keeps the instance's entry alive. It is for people: when it cannot be written, work goes on.
func (r *runner) showUp(ctx context.Context, js jetstream.JetStream) {
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		if err := r.show(ctx, js); err != nil && ctx.Err() == nil {
			r.log.Debug("not shown among the running workers", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			gone := nats.NewMsg(r.instanceSubject())
			gone.Header.Set("KV-Operation", "DEL")
			if err := js.Conn().PublishMsg(gone); err != nil {
				r.log.Debug("shown among the running workers for a minute still", zap.Error(err))
			}
			return
		case <-tick.C:
		}
	}
}

func (r *runner) instanceSubject() string {
	return "$KV." + r.source.WorkersBucket() + "." + r.worker.Name + "." + r.instance
}

func (r *runner) show(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	entry, err := json.Marshal(Instance{
		Worker: r.worker.Name, Instance: r.instance, Host: r.host, Version: r.version,
		Paused: r.breaker.paused(), Seen: r.now().UTC(),
	})
	if err != nil {
		return err
	}
	_, err = js.Publish(ctx, r.instanceSubject(), entry)
	return err
}
