// Package workers runs workers. A worker is a name and handlers for typed events. Run takes the events from the stream, runs
// the handlers and settles every event exactly once: the claim of an event remembers by webhook-id that its handler
// succeeded, a handler that fails is retried, and an event that keeps failing becomes a dead letter.
package workers

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// The defaults of a Worker's fields.
const (
	DefaultConcurrency = 16
	DefaultTimeout     = 30 * time.Second
	DefaultAckWait     = 60 * time.Second
	DefaultAttempts    = 24
	DefaultBackoffMin  = time.Second
	DefaultBackoffMax  = 6 * time.Hour
	DefaultParkAfter   = time.Minute
)

// maxAckPending bounds the deliveries of one worker, over all of its replicas, that run or wait for a short time. Events
// with a longer wait, and those above maxWaits, are parked on a consumer of their own and do not count.
const maxAckPending = 5000

// A Worker is a name and its handlers. Fields that are zero take the defaults. Workers are independent of each other: each
// receives every event that it handles.
type Worker struct {
	// Name is also the name of the durable consumers, and part of the name of the claims bucket and of the subject of the
	// dead letters: [a-z][a-z0-9-]{0,30} without a dash at its end. A worker with another name is another worker, which begins as Begin says.
	Name string
	// Handlers choose the events that the worker takes. Two of them must not choose the same event.
	Handlers []Handler
	// State names the KV buckets that the handlers write, without the source: "connections" is the bucket
	// CODAT_connections. They are provisioned with the worker.
	State []string
	// Reads names buckets of other workers that the worker reads. They are not provisioned with it, and may be absent.
	Reads []string
	// StateMaxAge is how long a record of a state is kept after its last change, by the state's name: at least 1h, and without
	// it for ever. It is for new buckets; headgate provision --state-max-age changes that of an existing one.
	StateMaxAge map[string]time.Duration
	// Requests are the subjects, without the source, of the NATS requests that the worker's program answers: "plans.*" is
	// codat.plans.* for the source codat. Its NATS user may subscribe to them in the queue group of the worker's name, and
	// answer. Run does not subscribe to them: the program does.
	Requests []string
	// Begin says where a new worker begins in the stream. The zero value begins with new events, so that a worker that
	// sends mail does not send sixteen days of it. A worker that keeps state wants stream.BeginAll.
	Begin stream.Begin

	// Key returns the key of an event. Of the events with one key, one runs at a time in a process, and all of them
	// together take one slot. Events with the key "" do not wait for each other; nor does any event when Key is nil. Key
	// gives fairness and no order: another replica may run another event of the key, and a retry runs after later events.
	// Up to Concurrency events of a key wait in the process, and 100 of all keys; further ones wait in the stream for up to
	// ten seconds.
	Key func(codat.Event[struct{}]) string

	// Ordered runs one event at a time, over all replicas of the worker, in the order in which the events were stored: the next
	// one begins when the one before is done or a dead letter. So one event that fails holds all that follow, of every company,
	// for the span of its attempts. It is the order of arrival: Codat promises none, and sends again what failed. A redrive
	// runs when it was stored, and events that were parked before the worker was ordered run beside. The consumer must have
	// been provisioned for it.
	Ordered bool

	// Background runs beside the handlers, if it is not nil. stopping is closed when the worker stops: then Background begins
	// nothing more. Its ctx ends as that of a handler does, and the worker waits for it as for one.
	Background func(ctx context.Context, stopping <-chan struct{})

	// Claims remember which events were handled; nil means a KV bucket of the source. Set it where the worker is built.
	Claims claims.Store

	// Concurrency is the number of handlers that run at once in one process.
	Concurrency int
	// Timeout bounds one attempt: after it the handler's context ends.
	Timeout time.Duration
	// AckWait is the lease on an event: when a process dies, another one can take its events after this time. A handler
	// may run for longer, because the lease is renewed while it runs.
	AckWait time.Duration
	// Attempts is the number of attempts after which an event becomes a dead letter.
	Attempts int
	// BackoffMin is the upper bound of the pause before the second attempt. It doubles with each further attempt, up to
	// BackoffMax. The pause is random between half of its bound and its bound. With the defaults, the attempts of an event
	// span 29 to 57 hours.
	BackoffMin, BackoffMax time.Duration
	// ParkAfter is the longest wait that an event spends on the worker's own consumer. For a longer one it is parked, and for
	// a shorter one when 100 events of the process wait already. An event of an Ordered worker is never parked.
	ParkAfter time.Duration

	pauses pauses
}

// pauses are the worker's fixed pauses. Only tests set them, to be quick.
type pauses struct {
	// claimError is how long an event waits when its claim could not be read or written.
	claimError time.Duration
	// key is the longest wait of an event that found the queue of its key full, once many events wait.
	key time.Duration
	// pullExpiry is how long one pull request waits at the server for events. A pull at a server that was cut off from the
	// others is noticed as lost after this time; a longer one would leave the worker idle long after a new leader was
	// elected.
	pullExpiry time.Duration
	// probe is the pause before the first probe after the breaker opened.
	probe time.Duration
	// probeFetch is how long a probe waits for an event.
	probeFetch time.Duration
	// stuck is how long a handler may take to return after its context ended, until the worker warns. After abandon it counts
	// as crashed, and its slot is free.
	stuck, abandon time.Duration
	// parkedTurn is the longest time for which a parked copy keeps its place on the consumer while others have none.
	parkedTurn time.Duration
}

// A Handler handles the events of one type or pattern. Handle makes it.
type Handler struct {
	name string
	run  func(context.Context, *delivery) error
}

// Handle returns a Handler that calls fn with the events called name. The name determines the type of the payload, so that
// a handler with another payload does not compile. The context of fn ends at the worker's Timeout, when the lease is lost,
// and when the grace period after a stop is over. Permanent, RetryAfter and Unavailable say what an error of fn means;
// any other error is retried with backoff. An event whose payload does not decode becomes a dead letter at once.
func Handle[P any](name codat.Name[P], fn func(context.Context, codat.Event[P]) error) Handler {
	return Handler{name: string(name), run: func(ctx context.Context, d *delivery) error {
		payload, err := codat.Decode[P](d.msg.Data())
		if err != nil {
			return Permanent(fmt.Errorf("payload of %s: %w", d.typ, err))
		}
		return fn(ctx, event(d, payload))
	}}
}

// withDefaults returns the worker with the defaults in its zero fields.
func (w Worker) withDefaults() Worker {
	set := func(d *time.Duration, or time.Duration) {
		if *d == 0 {
			*d = or
		}
	}
	if w.Concurrency == 0 {
		w.Concurrency = DefaultConcurrency
	}
	if w.Attempts == 0 {
		w.Attempts = DefaultAttempts
	}
	set(&w.Timeout, DefaultTimeout)
	set(&w.AckWait, DefaultAckWait)
	set(&w.BackoffMin, DefaultBackoffMin)
	set(&w.BackoffMax, DefaultBackoffMax)
	set(&w.ParkAfter, DefaultParkAfter)
	set(&w.pauses.claimError, 5*time.Second)
	set(&w.pauses.key, 10*time.Second)
	set(&w.pauses.pullExpiry, 10*time.Second)
	set(&w.pauses.probe, probeMin)
	set(&w.pauses.probeFetch, requestTimeout)
	set(&w.pauses.stuck, 10*time.Second)
	set(&w.pauses.abandon, time.Minute)
	set(&w.pauses.parkedTurn, 15*time.Minute)
	return w
}

// parkedSlots is the number of handlers of parked events that run at once, in addition to Concurrency.
func (w Worker) parkedSlots() int { return max(1, w.Concurrency/4) }

// Validate returns an error that names the first fault of the worker and its cure.
func (w Worker) Validate() error {
	if err := stream.ValidateWorker(w.Name); err != nil {
		return err
	}
	if len(w.Handlers) == 0 {
		return fmt.Errorf("worker %s has no handlers: add a workers.Handle to its Handlers", w.Name)
	}
	for i, h := range w.Handlers {
		if h.run == nil {
			return fmt.Errorf("worker %s: handler %d was not made by workers.Handle", w.Name, i+1)
		}
		for _, other := range w.Handlers[:i] {
			if codat.Pattern(h.name).Overlaps(codat.Pattern(other.name)) {
				return fmt.Errorf("worker %s: %s and %s take the same events: remove one of the two handlers", w.Name, other.name, h.name)
			}
		}
	}
	w = w.withDefaults()
	switch {
	case w.Concurrency < 1:
		return fmt.Errorf("worker %s: concurrency must be at least 1 (got %d)", w.Name, w.Concurrency)
	case w.Attempts < 1:
		return fmt.Errorf("worker %s: attempts must be at least 1 (got %d)", w.Name, w.Attempts)
	case w.Timeout <= 0:
		return fmt.Errorf("worker %s: timeout must be greater than 0s (got %s)", w.Name, w.Timeout)
	case w.AckWait < time.Second:
		return fmt.Errorf("worker %s: ack wait must be at least 1s (got %s): a shorter lease is lost before it is renewed", w.Name, w.AckWait)
	case w.BackoffMin <= 0 || w.BackoffMax < w.BackoffMin:
		return fmt.Errorf("worker %s: backoff min must be greater than 0s and at most backoff max (got %s and %s)", w.Name, w.BackoffMin, w.BackoffMax)
	case w.BackoffMax > claims.MaxPause:
		return fmt.Errorf("worker %s: backoff max must be at most %s (got %s)", w.Name, claims.MaxPause, w.BackoffMax)
	case w.Ordered && w.Key != nil:
		return fmt.Errorf("worker %s: an ordered worker runs one event at a time: remove its Key", w.Name)
	case w.ParkAfter <= 0:
		return fmt.Errorf("worker %s: park after must be greater than 0s (got %s)", w.Name, w.ParkAfter)
	}
	return nil
}

// Spec returns what the worker needs on the server: `headgate provision` makes it, and Run binds to it.
func (w Worker) Spec() stream.WorkerSpec {
	w = w.withDefaults()
	types := make([]codat.Pattern, len(w.Handlers))
	for i, h := range w.Handlers {
		types[i] = codat.Pattern(h.name)
	}
	slices.Sort(types)
	pending := maxAckPending
	if w.Ordered {
		pending = 1
	}
	return stream.WorkerSpec{
		Name: w.Name, Types: types, State: w.State, Reads: w.Reads, StateMaxAge: w.StateMaxAge, Requests: w.Requests,
		AckWait: w.AckWait, MaxAckPending: pending, Begin: w.Begin,
	}
}

// handler returns the handler whose pattern chooses a type. There is one at most, because patterns do not overlap.
func (w Worker) handler(typ string) (Handler, bool) {
	for _, h := range w.Handlers {
		if codat.Pattern(h.name).Match(typ) {
			return h, true
		}
	}
	return Handler{}, false
}
