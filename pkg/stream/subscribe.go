package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/codat"
)

// Every is the name of all events, today's and those to come, with the payload as it is in the body. Subscribe takes
// it; a worker names what it handles.
const Every codat.Name[json.RawMessage] = ">"

const (
	subscribeRetry = 5 * time.Second  // so that a handler that fails is no busy loop
	subscribePull  = 30 * time.Second // how long one pull waits at the server
	subscribePause = time.Second      // before a server that could not answer is asked again, and before what is given back
)

// Subscription says how a service takes events.
type Subscription struct {
	// Source is the Codat instance whose events are meant; "codat" if empty.
	Source Source
	// Durable names the consumer in which the server remembers what was taken: [a-z][a-z0-9-]{0,30}. Processes that
	// share a name share the events. Without a name the subscription is forgotten when Subscribe returns.
	Durable string
	// Begin says where it begins: BeginNew, BeginAll or BeginFrom. A durable that exists goes on where it is.
	Begin Begin
	// Concurrency is how many handlers run at once in this process; 1 if zero. Without a Durable it is always 1.
	Concurrency int
	// Retry is how long an event waits after its handler failed; 5 s if zero.
	Retry time.Duration
	// Log hears of handlers that failed and of a server that is away; nil for nobody.
	Log *zap.Logger
}

// Subscribe calls handle with every event of a name until ctx ends, and then returns nil. A name is a type, a pattern as
// codat.AnyWriteSuccessful, or Every.
//
// An event is handled when handle returned nil. After any other error it comes again, after Retry, as often as it must:
// there are no dead letters. The same holds for an event whose payload cannot be decoded. When ctx ends, so do the
// handlers' contexts; Subscribe returns when the handlers have, and what they did not finish is not lost.
//
// This is delivery at least once. A handler sees an event again when it failed, when its process died, or when the
// answer to the server was lost; WebhookID stays the same. For at most one success, counted attempts and dead letters,
// write a worker (package workers).
//
// With a Durable, events wait at the server while nobody subscribes, for as long as the stream keeps them; order is not
// promised. If the consumer is not there it is made; a user who may not make it gets ErrNotProvisioned, and the error
// says what an operator types. A consumer that could lose events, or that takes other events than name, is ErrDrift.
// Without a Durable, events come one at a time and in order, one that failed before the next; what comes while nobody
// subscribes is missed, unless Begin reaches back.
func Subscribe[P any](ctx context.Context, js jetstream.JetStream, name codat.Name[P], o Subscription, handle func(context.Context, codat.Event[P]) error) error {
	o.Source = cmp.Or(o.Source, "codat")
	o.Concurrency = cmp.Or(o.Concurrency, 1)
	o.Retry = cmp.Or(o.Retry, subscribeRetry)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if err := o.validate(string(name)); err != nil {
		return err
	}
	s := subscriber{Subscription: o, js: js, filter: o.Source.EventFilter(string(name))}
	s.handle = func(ctx context.Context, m jetstream.Msg, attempt int) error {
		e, err := open[P](o.Source, m)
		if err != nil {
			return err
		}
		e.Attempt = attempt
		return handle(ctx, e)
	}
	if o.Durable == "" {
		return s.inOrder(ctx)
	}
	return s.durable(ctx)
}

func (o Subscription) validate(name string) error {
	if err := o.Source.Validate(); err != nil {
		return err
	}
	if name != string(Every) {
		if err := validateType(name, true); err != nil {
			return fmt.Errorf("subscribe to %q: %w", name, err)
		}
	}
	if o.Durable != "" {
		if err := validateName("durable", o.Durable); err != nil {
			return err
		}
		if strings.HasPrefix(o.Durable, TailPrefix) {
			return fmt.Errorf("durable %q: names that begin with %q belong to headgate tail: choose another", o.Durable, TailPrefix)
		}
	}
	if o.Concurrency < 0 || o.Retry < 0 {
		return errors.New("subscribe: a negative concurrency or retry: leave it zero for the default")
	}
	return nil
}

// open is the event in a message.
func open[P any](s Source, m jetstream.Msg) (codat.Event[P], error) {
	meta, err := m.Metadata()
	if err != nil {
		return codat.Event[P]{}, err
	}
	payload, err := codat.Decode[P](m.Data())
	if err != nil {
		return codat.Event[P]{}, fmt.Errorf("payload: %w", err)
	}
	h := m.Headers()
	generated, _ := time.Parse(time.RFC3339Nano, h.Get(HeaderCETime)) // zero when it is absent
	received, err := time.Parse(time.RFC3339Nano, h.Get(HeaderCEReceivedTime))
	if err != nil {
		received = meta.Timestamp
	}
	return codat.Event[P]{
		Payload: payload, Body: m.Data(),
		WebhookID: h.Get(HeaderWebhookID), Type: s.TypeOf(m.Subject()),
		Company: Attribute(h, HeaderCESubject), Connection: Attribute(h, HeaderCEConnectionID),
		Generated: generated, Received: received, Sequence: meta.Sequence.Stream,
	}, nil
}

// A subscriber is a Subscription at work.
type subscriber struct {
	Subscription
	js     jetstream.JetStream
	filter string
	handle func(ctx context.Context, m jetstream.Msg, attempt int) error
}

// failed says that a handler failed.
func (s subscriber) failed(m jetstream.Msg, attempt int, err error) {
	s.Log.Warn("event comes again", zap.String("id", m.Headers().Get(HeaderWebhookID)),
		zap.String("type", s.Source.TypeOf(m.Subject())), zap.Int("attempt", attempt), zap.Error(err))
}

// inOrder handles events one after the other, and remembers by itself where it is.
func (s subscriber) inOrder(ctx context.Context) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{s.filter}}
	var begin jetstream.ConsumerConfig
	s.Begin.deliverFrom(&begin)
	cfg.DeliverPolicy, cfg.OptStartTime = begin.DeliverPolicy, begin.OptStartTime
	if cfg.DeliverPolicy == jetstream.DeliverNewPolicy {
		// Not "new": the consumer may have to be made again before the first event, and must miss none.
		info, err := streamInfo(ctx, s.js, s.Source.Stream())
		if err != nil {
			return s.doing(err)
		}
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, info.State.LastSeq+1
	}
	var c jetstream.Consumer
	err := call(ctx, s.js, s.Source.Stream(), func(ctx context.Context) (err error) {
		c, err = s.js.OrderedConsumer(ctx, s.Source.Stream(), cfg)
		return err
	})
	if err != nil {
		return s.doing(err)
	}
	msgs, err := c.Messages()
	if err != nil {
		return s.doing(err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return s.doing(err)
		}
		for attempt := 1; ; attempt++ {
			err := s.handle(ctx, m, attempt)
			if err == nil {
				break
			}
			s.failed(m, attempt, err)
			if !pause(ctx, s.Retry) {
				return nil
			}
		}
	}
}

func (s subscriber) doing(err error) error {
	return fmt.Errorf("subscribe to %s: %w", s.filter, err)
}

// pause waits for d, and reports false when ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// durable handles what the server gives it of a consumer, and answers for each.
func (s subscriber) durable(ctx context.Context) error {
	c, err := s.bind(ctx)
	if err != nil {
		return s.doing(err)
	}
	var running sync.WaitGroup
	defer func() {
		running.Wait()
		_ = s.js.Conn().FlushTimeout(callTimeout) // an answer that does not arrive makes an event come again
	}()
	free := make(chan struct{}, s.Concurrency)
	for ctx.Err() == nil {
		err := s.session(ctx, c, &running, free)
		if err == nil {
			continue
		}
		if s.js.Conn().IsClosed() {
			return s.doing(nats.ErrConnectionClosed)
		}
		if _, missing := pullConsumer(ctx, s.js, s.Source.Stream(), s.Durable); errors.Is(missing, jetstream.ErrConsumerNotFound) {
			return s.doing(fmt.Errorf("consumer %s was deleted, and with it what was taken: %w", s.Durable, ErrNotProvisioned))
		}
		if ctx.Err() == nil {
			s.Log.Warn("taking events is interrupted", zap.Error(err))
			pause(ctx, subscribePause)
		}
	}
	return nil
}

// session takes events until ctx ends, which is no error, or the server cannot be asked. It takes none that has to wait
// for a handler: the time in which the server waits for an answer has begun.
func (s subscriber) session(ctx context.Context, c jetstream.Consumer, running *sync.WaitGroup, free chan struct{}) error {
	msgs, err := c.Messages(jetstream.PullMaxMessages(s.Concurrency), jetstream.PullExpiry(subscribePull))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, msgs.Drain)
	defer stop()
	defer msgs.Stop()
	for {
		slot := false
		select {
		case free <- struct{}{}:
			slot = true
		case <-ctx.Done():
		}
		m, err := msgs.Next()
		if err == nil && ctx.Err() == nil {
			running.Go(func() {
				defer func() { <-free }()
				s.deliver(ctx, m, c.CachedInfo().Config.AckWait)
			})
			continue
		}
		if slot {
			<-free
		}
		switch {
		case err == nil:
			s.giveBack(m)
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return nil
		case ctx.Err() == nil:
			return err
		}
	}
}

// deliver handles one event and answers the server.
func (s subscriber) deliver(ctx context.Context, m jetstream.Msg, ackWait time.Duration) {
	meta, err := m.Metadata()
	if err != nil {
		s.Log.Error("a message without a place in the stream", zap.Error(err))
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

// giveBack returns what the end came before. In a moment and not at once: this process's own last pull may still be
// open at the server, and would swallow it.
func (s subscriber) giveBack(m jetstream.Msg) {
	s.answer(func() error { return m.NakWithDelay(subscribePause) })
}

// answer tells the server something about a message. When that does not arrive, the event comes again.
func (s subscriber) answer(send func() error) {
	if err := send(); err != nil {
		s.Log.Debug("not answered", zap.Error(err))
	}
}

// wanted is the consumer of a durable subscription. Everything in it keeps an event until it was handled.
func (s subscriber) wanted() jetstream.ConsumerConfig {
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

// bind finds the consumer or makes it.
func (s subscriber) bind(ctx context.Context) (jetstream.Consumer, error) {
	for try := 0; ; try++ {
		c, err := pullConsumer(ctx, s.js, s.Source.Stream(), s.Durable)
		switch {
		case err == nil:
			return c, s.compare(c.CachedInfo().Config)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("stream %s is %w: run headgate provision", s.Source.Stream(), ErrNotProvisioned)
		case errors.Is(err, nats.ErrNoResponders):
			return nil, fmt.Errorf("consumer %s: %w; from an account of its own, a service can ask only for what that account imports", s.Durable, err)
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, fmt.Errorf("consumer %s: %w", s.Durable, err)
		}
		err = call(ctx, s.js, s.Source.Stream()+"."+s.Durable, func(ctx context.Context) (err error) {
			c, err = s.js.CreateConsumer(ctx, s.Source.Stream(), s.wanted())
			return err
		})
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, jetstream.ErrConsumerExists) && try < maxRaces:
			continue // another process made it: compare
		case errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
			return nil, fmt.Errorf("consumer %s is %w, and this user may not make it: let an operator run: %s: %w", s.Durable, ErrNotProvisioned, s.command(), err)
		}
		return nil, fmt.Errorf("consumer %s: %w", s.Durable, err)
	}
}

// command is what makes the consumer with the nats CLI.
func (s subscriber) command() string {
	deliver := s.Begin.String()
	if !s.Begin.all && !s.Begin.from.IsZero() {
		deliver = "'" + deliver + "'"
	}
	return fmt.Sprintf("nats consumer add %s %s --pull --filter '%s' --deliver %s --ack explicit --wait %s --max-deliver=-1 --defaults",
		s.Source.Stream(), s.Durable, s.filter, deliver, DefaultAckWait)
}

// compare refuses a consumer that is another's or could lose events.
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
		differs = append(differs, fmt.Sprintf("the server gives an event up after %d deliveries: set max deliver to -1", c.MaxDeliver))
	}
	if len(c.BackOff) > 0 {
		differs = append(differs, "it has a backoff, which would add itself to every delay: remove it")
	}
	if c.InactiveThreshold > 0 {
		differs = append(differs, fmt.Sprintf("the server forgets it after %s without a subscriber: remove its inactive threshold", c.InactiveThreshold))
	}
	if c.HeadersOnly {
		differs = append(differs, "it gives headers only")
	}
	if differs == nil {
		return nil
	}
	return fmt.Errorf("consumer %s is %w: %s", s.Durable, ErrDrift, strings.Join(differs, "; "))
}
