// Package workers is what a worker is made with: a name, handlers for typed events, and Run, which takes
// events from their subjects, runs the handlers and brings every event to exactly one end. A handler's
// success is remembered by webhook-id, what fails is tried again, and what keeps failing becomes a dead letter.
package workers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
)

// What a worker gets when it does not say otherwise.
const (
	DefaultConcurrency = 16
	DefaultTimeout     = 30 * time.Second
	DefaultAckWait     = 60 * time.Second
	DefaultAttempts    = 12
	DefaultBackoffMin  = time.Second
	DefaultBackoffMax  = 15 * time.Minute
	DefaultParkAfter   = time.Minute
)

// MaxPause is the longest wait between two attempts. RetryAfter is cut to it, so that no claim is forgotten
// before its event was tried again.
const MaxPause = 7 * 24 * time.Hour

// maxAckPending bounds the deliveries of one worker, over all of its replicas, that are running or wait for
// a short retry. Longer waits are parked on a consumer of their own and do not count.
const maxAckPending = 5000

// A Worker is a value: a name and its handlers. Zero fields take the defaults above, so a worker that has
// no wishes states none. Workers are independent of each other: each sees every event that it handles.
type Worker struct {
	// Name is also the name of the durable consumers, of the claims bucket and of the dead letters' subject:
	// [a-z][a-z0-9-]{0,30}. It cannot change without losing the worker's place.
	Name string
	// Handlers say which events the worker takes. Two of them may not take the same event.
	Handlers []Handler
	// State names the KV buckets that the handlers write, without the source: "connections" is the bucket
	// CODAT_connections. They are provisioned with the worker.
	State []string
	// Begin says where a new worker begins in the stream; the zero value is with new events, so that a worker that
	// sends mail does not send sixteen days of it. One that keeps state wants stream.BeginAll.
	Begin stream.Begin

	// Key makes events wait for each other: of those with one key, one runs at a time in a process, and they
	// take one slot together however many there are. nil, and the key "", make none wait. It is fairness and
	// no order: another replica may run another event of the key, and a retry comes later than its followers.
	// A state that is guarded against late events, as connections is, needs no order. Of a key, up to
	// Concurrency events wait in the process; more are given back for a moment.
	Key func(codat.Event[struct{}]) string

	// Claims remembers what was done; nil is a KV bucket of the source. Set it where the worker is built.
	Claims Claims

	// Concurrency is how many handlers run at once in one process.
	Concurrency int
	// Timeout ends one attempt: the handler's context is cancelled.
	Timeout time.Duration
	// AckWait is the lease on an event: a process that died holds it for no longer. A handler may run
	// longer, the lease is renewed while it runs.
	AckWait time.Duration
	// Attempts is how often a handler is tried before the event becomes a dead letter.
	Attempts int
	// BackoffMin and BackoffMax bound the pause before the next attempt: full jitter, doubling from Min.
	BackoffMin, BackoffMax time.Duration
	// ParkAfter is the longest wait that stays on the worker's own consumer; a longer one is parked.
	ParkAfter time.Duration
}

// A Handler takes the events of one name. Handle makes it.
type Handler struct {
	name string
	run  func(context.Context, delivery) error
}

// Handle says that fn takes the events called name. The payload's type is the name's, so a handler with the
// wrong payload does not compile. fn runs with a context that ends at the worker's Timeout, when the lease
// is lost, or when the process stops; what its error means is said by Permanent, RetryAfter and Unavailable.
// A body whose payload does not decode is a dead letter at once.
func Handle[P any](name codat.Name[P], fn func(context.Context, codat.Event[P]) error) Handler {
	return Handler{name: string(name), run: func(ctx context.Context, d delivery) error {
		payload, err := codat.Decode[P](d.body)
		if err != nil {
			return Permanent(fmt.Errorf("payload of %s: %w", d.typ, err))
		}
		return fn(ctx, event(d, payload))
	}}
}

// event is what a handler gets of a delivery.
func event[P any](d delivery, payload P) codat.Event[P] {
	return codat.Event[P]{
		Payload: payload, Body: d.body,
		WebhookID: d.key.WebhookID, Redrive: d.key.Redrive,
		Type: d.typ, Company: d.company, Connection: d.connection,
		Generated: d.generated, Received: d.received,
		Sequence: d.sequence, Attempt: d.attempt,
	}
}

// withDefaults fills what the worker does not say.
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
	return w
}

// parkedSlots is how many handlers of parked events run at once, beside Concurrency others.
func (w Worker) parkedSlots() int { return max(1, w.Concurrency/4) }

// Validate says what is wrong with the worker, in words that name the cure.
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
			if overlap(h.name, other.name) {
				return fmt.Errorf("worker %s: %s and %s take the same events: remove one of the two handlers", w.Name, other.name, h.name)
			}
		}
	}
	w = w.withDefaults()
	switch {
	case w.Concurrency < 1:
		return fmt.Errorf("worker %s: concurrency %d: at least 1 handler must run", w.Name, w.Concurrency)
	case w.Attempts < 1:
		return fmt.Errorf("worker %s: attempts %d: at least 1 is needed", w.Name, w.Attempts)
	case w.Timeout <= 0:
		return fmt.Errorf("worker %s: timeout %s: an attempt needs time", w.Name, w.Timeout)
	case w.AckWait < time.Second:
		return fmt.Errorf("worker %s: ack wait %s is under 1s: a lease that short is lost before it is renewed", w.Name, w.AckWait)
	case w.BackoffMin <= 0 || w.BackoffMax < w.BackoffMin:
		return fmt.Errorf("worker %s: backoff from %s to %s: it must be above 0 and not shrink", w.Name, w.BackoffMin, w.BackoffMax)
	case w.BackoffMax > MaxPause:
		return fmt.Errorf("worker %s: backoff up to %s: %s is the longest pause", w.Name, w.BackoffMax, MaxPause)
	case w.ParkAfter <= 0:
		return fmt.Errorf("worker %s: park after %s: it must be above 0", w.Name, w.ParkAfter)
	}
	return nil
}

// Plan is what must be in place for the worker: `headgate provision` makes it, Run binds to it.
func (w Worker) Plan() stream.WorkerPlan {
	w = w.withDefaults()
	types := make([]string, len(w.Handlers))
	for i, h := range w.Handlers {
		types[i] = h.name
	}
	slices.Sort(types)
	return stream.WorkerPlan{
		Name: w.Name, Types: types, State: w.State,
		AckWait: w.AckWait, MaxAckPending: maxAckPending, Begin: w.Begin,
	}
}

// handler finds the handler of a type: its own before a pattern's.
func (w Worker) handler(typ string) (Handler, bool) {
	for _, h := range w.Handlers {
		if h.name == typ {
			return h, true
		}
	}
	for _, h := range w.Handlers {
		if rest, ok := strings.CutPrefix(h.name, "*."); ok {
			if _, tail, ok := strings.Cut(typ, "."); ok && tail == rest {
				return h, true
			}
		}
	}
	return Handler{}, false
}

// overlap reports whether two names, of which each may begin with the one-token wildcard, share a type.
func overlap(a, b string) bool {
	headA, tailA, _ := strings.Cut(a, ".")
	headB, tailB, _ := strings.Cut(b, ".")
	return tailA == tailB && (headA == headB || headA == "*" || headB == "*")
}

// Key names one piece of a worker's work: an event, or an event that an operator gave again. A handler
// succeeds at most once for a key.
type Key struct{ WebhookID, Redrive string }

// delivery is one message on its way through a worker.
type delivery struct {
	key                 Key
	typ                 string
	body                []byte
	company, connection string
	generated, received time.Time
	sequence            uint64
	attempt             int
	handler             string // its name
}

// errPanic marks an attempt that ended in a panic.
var errPanic = errors.New("panic")
