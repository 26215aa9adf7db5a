package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
)

// Every is the name of all events, today's and those to come, with the payload as it is in the body.
const Every codat.Name[json.RawMessage] = ">"

const (
	subscribeRetry = 5 * time.Second // so that a handler that fails is no busy loop
	subscribePause = time.Second     // before what was returned to the stream is delivered again
	inOrderAhead   = 500             // events that are asked for at once without a Durable, if their bytes fit in a batch
	remadePoll     = time.Second     // between two looks whether the stream is another one, without a Durable
)

// Subscription says how a service takes events.
type Subscription struct {
	// Source is the Codat instance whose events are taken; "codat" if empty.
	Source Source
	// Durable names the consumer in which the server remembers what was taken: [a-z][a-z0-9-]{0,30} without a dash at its end. Processes that
	// share a name share the events. Without a name the subscription is forgotten when Subscribe returns.
	Durable string
	// Begin says where a new subscription begins: BeginNew, BeginAll or BeginFrom. An existing durable continues.
	Begin Begin
	// Concurrency is how many handlers run at once in this process; 1 if zero. Without a Durable it is always 1.
	Concurrency int
	// Retry is how long an event waits after its handler failed; 5 s if zero.
	Retry time.Duration
	// Log gets the errors of handlers and interruptions of the connection; it may be nil.
	Log *zap.Logger
}

// Subscribe calls handle with every event of a name until ctx ends, and then returns nil. A name is a codat.Pattern with
// the payload of its types, such as codat.AnyWriteSuccessful or Every.
//
// An event is handled when handle returns nil. After an error it is delivered again, after Retry, without a limit: there
// are no dead letters. The same holds for an event whose payload cannot be decoded. When ctx ends, the contexts of the
// handlers end too; Subscribe returns when the handlers have, and events that they did not finish are delivered again.
//
// Delivery is at least once. A handler gets an event again when it failed, when its process died, or when the ack was
// lost; WebhookID stays the same. For one success at most, counted attempts and dead letters, write a worker (package
// workers).
//
// With a Durable, events wait in the stream while no process subscribes, as long as the stream keeps them; they come in no
// guaranteed order. Subscribe creates a missing consumer; a user without permission for that gets ErrNotProvisioned, with
// the command that an operator runs. A consumer that could lose events, or that takes other events, is ErrDrift. Without a
// Durable, events come one at a time and in order, a failed one before the next. Events that are stored while the process
// does not subscribe are missed, unless Begin says otherwise. This needs permission for STREAM.INFO. When the stream is
// deleted and created again, all events of the new one are handled.
func Subscribe[P any](ctx context.Context, js jetstream.JetStream, name codat.Name[P], o Subscription, handle func(context.Context, codat.Event[P]) error) error {
	o.Source = cmp.Or(o.Source, "codat")
	o.Concurrency = cmp.Or(o.Concurrency, 1)
	o.Retry = cmp.Or(o.Retry, subscribeRetry)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if err := o.validate(codat.Pattern(name)); err != nil {
		return err
	}
	s := subscriber{Subscription: o, js: js, filter: o.Source.EventFilter(codat.Pattern(name))}
	s.handle = func(ctx context.Context, m jetstream.Msg, attempt int) error {
		e, err := decode[P](o.Source, m)
		if err != nil {
			return err
		}
		e.Attempt = attempt
		return guarded(func() error { return handle(ctx, e) })
	}
	if o.Durable == "" {
		return s.inOrder(ctx)
	}
	return s.durable(ctx)
}

func (o Subscription) validate(name codat.Pattern) error {
	if err := o.Source.Validate(); err != nil {
		return err
	}
	if err := name.Validate(); err != nil {
		return fmt.Errorf("subscribe to %q: %w", name, err)
	}
	if o.Durable != "" {
		if err := validateName("durable", o.Durable); err != nil {
			return err
		}
	}
	if o.Concurrency < 0 || o.Retry < 0 {
		return errors.New("subscribe: the concurrency and the retry must not be negative; 0 is the default")
	}
	return nil
}

// decode returns the event in a message.
func decode[P any](s Source, m jetstream.Msg) (codat.Event[P], error) {
	payload, err := codat.Decode[P](m.Data())
	if err != nil {
		return codat.Event[P]{}, fmt.Errorf("payload: %w", err)
	}
	e := s.Open(m)
	return codat.Event[P]{
		Payload: payload, Body: m.Data(),
		WebhookID: e.ID, Type: e.Head.Type, Company: e.Head.Company, Connection: e.Head.Connection,
		Generated: e.Head.Generated, Received: e.Received, Sequence: e.Sequence,
	}, nil
}

// guarded runs a handler in a goroutine of its own, so that one that panics or ends its goroutine has failed, and the event
// comes again. An error whose methods panic is replaced.
func guarded(handle func() error) error {
	ended := make(chan error, 1)
	go func() {
		err := errors.New("the handler called runtime.Goexit, as t.FailNow does: return an error instead")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v: %s", p, debug.Stack())
			}
			ended <- err
		}()
		if err = handle(); err != nil {
			_ = err.Error()
		}
	}()
	return <-ended
}

// A subscriber runs a Subscription.
type subscriber struct {
	Subscription
	js     jetstream.JetStream
	filter string
	handle func(ctx context.Context, m jetstream.Msg, attempt int) error
}

// failed logs that a handler failed.
func (s subscriber) failed(m jetstream.Msg, attempt int, err error) {
	e := s.Source.Open(m)
	s.Log.Warn("handler failed; the event is delivered again", zap.String("id", e.ID), zap.String("type", e.Head.Type), zap.Int("attempt", attempt), zap.Error(err))
}

// inOrder handles events one after the other; the client keeps the place in the stream. Of a stream that was deleted and
// created again it handles all events, which are later than those of the earlier stream.
func (s subscriber) inOrder(ctx context.Context) error {
	info, err := streamInfo(ctx, s.js, s.Source.Stream())
	if err != nil {
		return s.doing(err)
	}
	begin := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: info.State.LastSeq + 1}
	if s.Begin != BeginNew() { // the policy "new" could miss events: the consumer may be created again before the first one
		begin = jetstream.ConsumerConfig{}
		s.Begin.deliverFrom(&begin)
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{s.filter},
		DeliverPolicy:  begin.DeliverPolicy, OptStartTime: begin.OptStartTime, OptStartSeq: begin.OptStartSeq,
	}
	for created := info.Created; ; {
		created, err = s.ordered(ctx, cfg, created)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, ErrRemade):
			return s.doing(err)
		}
		s.Log.Warn("the stream was deleted and created again: its events are handled from the first", zap.String("stream", s.Source.Stream()))
		cfg = jetstream.OrderedConsumerConfig{FilterSubjects: []string{s.filter}, DeliverPolicy: jetstream.DeliverAllPolicy}
	}
}

// ordered handles the events of the stream that was created at a time, until ctx ends. When the name belongs to another
// stream now, it returns ErrRemade and the time at which that stream was created.
func (s subscriber) ordered(ctx context.Context, cfg jetstream.OrderedConsumerConfig, created time.Time) (time.Time, error) {
	var c jetstream.Consumer
	err := request(ctx, s.js, s.Source.Stream(), func(ctx context.Context) (err error) {
		c, err = s.js.OrderedConsumer(ctx, s.Source.Stream(), cfg)
		return err
	})
	if err != nil {
		return created, err
	}
	taking, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		defer end()
		created, err = s.remade(taking, created)
	})
	taken := NewPull(c, PullOptions{
		Ahead: inOrderAhead,
		Begin: func(_ context.Context, m jetstream.Msg, done func()) {
			defer done()
			s.repeat(ctx, m)
		},
		Return: func(jetstream.Msg) {}, // what is not handled is missed, or comes again by Begin
	}).takeInOrder(taking, max(maxBatch, int(s.js.Conn().MaxPayload())))
	end()
	watch.Wait()
	return created, cmp.Or(err, taken)
}

// remade waits until the stream is another one than that which was made at a time. It returns ErrRemade and when the other
// one was made, and nil when ctx ends. The server does not tell: a consumer that nats.go makes again after a place in the
// earlier stream waits until the new one is longer.
func (s subscriber) remade(ctx context.Context, created time.Time) (time.Time, error) {
	for pause(ctx, remadePoll) {
		info, err := streamInfo(ctx, s.js, s.Source.Stream())
		if err == nil && !info.Created.Equal(created) {
			return info.Created, ErrRemade
		}
	}
	return created, nil
}

// repeat handles an event until its handler succeeds or ctx ends.
func (s subscriber) repeat(ctx context.Context, m jetstream.Msg) {
	for attempt := 1; ; attempt++ {
		err := s.handle(ctx, m, attempt)
		if err == nil {
			return
		}
		s.failed(m, attempt, err)
		if !pause(ctx, s.Retry) {
			return
		}
	}
}

func (s subscriber) doing(err error) error {
	return fmt.Errorf("subscribe to %s: %w", s.filter, err)
}

// pause waits for d. It reports false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// durable handles the deliveries of a durable consumer and acknowledges each.
func (s subscriber) durable(ctx context.Context) error {
	c, err := s.bind(ctx)
	if err != nil {
		return s.doing(err)
	}
	var running sync.WaitGroup
	defer func() {
		running.Wait()
		_ = s.js.Conn().FlushTimeout(requestTimeout) // the event of an ack that does not arrive is delivered again
	}()
	ackWait := c.CachedInfo().Config.AckWait
	err = NewPull(c, PullOptions{
		Slots: s.Concurrency, Conn: s.js.Conn(),
		Begin: func(ctx context.Context, m jetstream.Msg, done func()) {
			running.Go(func() {
				defer done()
				s.deliver(ctx, m, ackWait)
			})
		},
		Return:      s.giveBack,
		Interrupted: func(err error) { s.Log.Warn("pulling events failed; it is tried again every second", zap.Error(err)) },
	}).Run(ctx)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return s.doing(fmt.Errorf("stream %s was deleted, and the consumer with it: %w", s.Source.Stream(), ErrNotProvisioned))
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return s.doing(fmt.Errorf("consumer %s was deleted, and with it its place in the stream: %w", s.Durable, ErrNotProvisioned))
	case err != nil:
		return s.doing(err)
	}
	return nil
}

// deliver handles one event and acknowledges it, or returns it to the stream.
func (s subscriber) deliver(ctx context.Context, m jetstream.Msg, ackWait time.Duration) {
	meta, err := m.Metadata()
	if err != nil {
		s.Log.Error("message without metadata", zap.Error(err))
		return
	}
	attempt := int(min(meta.NumDelivered, 1<<30))
	working, end := context.WithCancel(ctx)
	var alive sync.WaitGroup
	alive.Go(func() {
		for pause(working, ackWait/3) {
			s.answer(m.InProgress)
		}
	})
	err = s.handle(ctx, m, attempt)
	end()
	alive.Wait()
	switch {
	case err == nil:
		s.answer(m.Ack)
	case ctx.Err() != nil:
		s.giveBack(m)
	default:
		s.failed(m, attempt, err)
		s.answer(func() error { return m.NakWithDelay(s.Retry) })
	}
}

// giveBack returns a delivery to the stream, after a pause: the last pull of this process may still be open at the server,
// and would take it.
func (s subscriber) giveBack(m jetstream.Msg) {
	s.answer(func() error { return m.NakWithDelay(subscribePause) })
}

// answer sends an ack of some kind. When it does not arrive, the event is delivered again.
func (s subscriber) answer(send func() error) {
	if err := send(); err != nil {
		s.Log.Debug("ack not sent", zap.Error(err))
	}
}

// desired is the consumer of a durable subscription. It keeps an event until it is handled.
func (s subscriber) desired() jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Name: s.Durable, Durable: s.Durable,
		FilterSubject: s.filter,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       DefaultAckWait,
		MaxDeliver:    -1,
		MaxAckPending: 1000,
		MaxWaiting:    maxWaiting,
	}
	s.Begin.deliverFrom(&c)
	return c
}

// bind finds the consumer or creates it.
func (s subscriber) bind(ctx context.Context) (jetstream.Consumer, error) {
	for try := 0; ; try++ {
		c, err := pullConsumer(ctx, s.js, s.Source.Stream(), s.Durable)
		switch {
		case err == nil:
			return c, s.compare(c.CachedInfo().Config)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("stream %s is %w: run headgate provision", s.Source.Stream(), ErrNotProvisioned)
		case errors.Is(err, nats.ErrNoResponders):
			return nil, fmt.Errorf("consumer %s: %w; a service in an account of its own needs the imports for this consumer", s.Durable, err)
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, fmt.Errorf("consumer %s: %w", s.Durable, err)
		}
		err = request(ctx, s.js, s.Source.Stream()+"."+s.Durable, func(ctx context.Context) (err error) {
			c, err = s.js.CreateConsumer(ctx, s.Source.Stream(), s.desired())
			return err
		})
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, jetstream.ErrConsumerExists) && try < maxRaces:
			continue // another process created it: compare
		case errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
			return nil, fmt.Errorf("consumer %s is %w, and this user may not create it: an operator has to run: %s: %w", s.Durable, ErrNotProvisioned, s.command(), err)
		}
		return nil, fmt.Errorf("consumer %s: %w", s.Durable, err)
	}
}

// command is the command of the nats CLI that creates the consumer.
func (s subscriber) command() string {
	deliver := s.Begin.String()
	if !s.Begin.all && !s.Begin.from.IsZero() {
		deliver = "'" + deliver + "'"
	}
	return fmt.Sprintf("nats consumer add %s %s --pull --filter '%s' --deliver %s --ack explicit --wait %s --max-deliver=-1 --defaults",
		s.Source.Stream(), s.Durable, s.filter, deliver, DefaultAckWait)
}

// compare returns ErrDrift for a consumer that belongs to a worker, takes other events, or could lose events.
func (s subscriber) compare(c jetstream.ConsumerConfig) error {
	var differs []string
	if c.Metadata[ownerKey] == owner {
		differs = append(differs, "it belongs to a worker: choose another name")
	}
	if have := filtersOf(&c); !slices.Equal(have, []string{s.filter}) {
		differs = append(differs, fmt.Sprintf("it takes %s", strings.Join(have, " ")))
	}
	if c.AckPolicy != jetstream.AckExplicitPolicy {
		differs = append(differs, fmt.Sprintf("its ack policy is %s and must be explicit", c.AckPolicy))
	}
	if c.MaxDeliver > 0 {
		differs = append(differs, fmt.Sprintf("the server drops an event after %d deliveries: set max deliver to -1", c.MaxDeliver))
	}
	if len(c.BackOff) > 0 {
		differs = append(differs, "it has a backoff, which adds to every delay: remove it")
	}
	if c.InactiveThreshold > 0 {
		differs = append(differs, fmt.Sprintf("the server deletes it after %s without a subscriber: remove its inactive threshold", c.InactiveThreshold))
	}
	if c.HeadersOnly {
		differs = append(differs, "it delivers headers only")
	}
	if differs == nil {
		return nil
	}
	return fmt.Errorf("consumer %s is %w: %s", s.Durable, ErrDrift, strings.Join(differs, "; "))
}
