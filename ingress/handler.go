package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"github.com/headgate/headgate/ingress/connlimit"
	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/signature"
	"github.com/headgate/headgate/pkg/stream"
)

// A messageStore stores a message. It returns no error only when the message is durable. It returns when ctx ends or at
// the deadline, and keeps neither the message nor its data after it returned. [stream.Publisher] is one.
type messageStore interface {
	PublishUntil(ctx context.Context, deadline time.Time, msg *nats.Msg) (stream.Receipt, error)
}

// routeOptions configure the handler of a source: what it stores events with, what it requires of a request before it
// reads the body, and its limits.
type routeOptions struct {
	Source  stream.Source
	Keys    *signature.Verifier
	Store   messageStore
	Timeout time.Duration // from the arrival of a request until its event must be stored

	Path           string
	Allow          []netip.Prefix // addresses that requests are accepted from; empty for all
	Credentials    *credentials   // accepted values of Authorization; nil or empty for no check
	ClientIDs      []string       // accepted values of X-Codat-ClientId; empty for no check
	MaxBody        int64          // bytes
	MaxInFlight    int            // requests of a client class that are stored at a time
	UnverifiedRate float64        // unauthenticated requests a second from one address; 0 for no limit
}

// A handler receives the requests of one source: it stores the events, responds, and writes one log line and counts once
// for each request.
type handler struct {
	routeOptions
	*server
	bodies  *bodyPool
	metrics *metrics
	limiter *limiter
	storing [numClasses]counter
	health  storeHealth
	ids     idsInProcess
}

// A request is what is known about a request.
type request struct {
	received time.Time
	client   netip.Addr // the zero Addr when it is not known
	class    clientClass
	size     int // bytes of the body, -1 when it was not read

	verified   signature.Verified // the zero value before verification
	typ        string             // the event's type, "" when it cannot be read
	known      bool               // whether the type is in Codat's catalog
	quarantine string             // the reason for the quarantine, "" for an event
	stored     stream.Receipt
	publishing time.Duration // how long the store took

	unverified []byte // the body of a request that was read and not verified, until the response
	stack      []byte // of a panic
	span       trace.Span
}

// receive is the whole path of a request: check what can be checked without the body, read the body, verify, admit,
// store, respond. Nothing is stored that was not verified, and nothing is answered 2xx that is not durable. receive
// responds to every request itself and always returns nil.
func (h *handler) receive(c echo.Context) error {
	r := &request{received: time.Now(), size: -1}
	h.metrics.inFlight.Inc()
	defer h.metrics.inFlight.Dec()
	defer h.recoverPanic(c, r)
	req := c.Request()
	h.identify(req, r)

	if err := h.checkAccess(req, r); err != nil {
		return h.refuse(c, r, err)
	}
	headers, err := h.Keys.Read(req.Header)
	if err != nil {
		return h.refuse(c, r, err)
	}

	body, err := h.bodies.read(req.Body, req.ContentLength, h.budgets[r.class])
	if err != nil {
		return h.refuse(c, r, err)
	}
	defer body.Close()
	connlimit.BodyRead(req)
	req.Trailer = nil // nothing reads it, and its size is not limited: it is not kept while the request waits
	r.size = len(body.bytes)

	headers = headers.WithSlots(h.slots[r.class], r.received.Add(h.Timeout/2))
	r.verified, err = h.Keys.Verify(headers, body.bytes)
	if err != nil {
		r.unverified = body.bytes
		return h.refuse(c, r, err)
	}
	body.verified()
	connlimit.Verified(req)
	if h.tracer != nil {
		req = h.startSpan(req, r)
	}

	event := readEvent(r.verified, req.Header, body.bytes)
	event.Received = r.received
	event.TraceParent = cmp.Or(ownTraceParent(req.Context()), event.TraceParent)
	r.typ, r.known, r.quarantine = event.Head.Type, codat.Known(event.Head.Type), event.Quarantine

	if err := h.storing[r.class].acquire(h.MaxInFlight); err != nil {
		return h.refuse(c, r, err)
	}
	defer h.storing[r.class].release()

	err = h.store(req.Context(), r, event, body.bytes)
	if err == nil && r.outcome() == accepted {
		h.compare(r, body.bytes)
	}
	body.recycle()
	if err != nil {
		return h.refuse(c, r, err)
	}
	return h.respond(c, r, nil)
}

// compare has the body of an event that is stored now compared with the catalog, later and only when there is time.
func (h *handler) compare(r *request, body []byte) {
	if r.known {
		h.drift.offer(h.Source, r.typ, body)
		return
	}
	h.drift.unknownType(h.Source, r.typ)
}

// identify finds out which client sent a request.
func (s *server) identify(req *http.Request, r *request) {
	r.client = clientip.Of(req, s.proxies)
	r.class = classOf(r.client)
}

// recoverPanic responds 500 to a request whose handling panicked. Defer it.
func (h *handler) recoverPanic(c echo.Context, r *request) {
	if v := recover(); v != nil {
		r.stack = debug.Stack()
		_ = h.respond(c, r, fmt.Errorf("%w: %v", errPanic, v)) // it always returns nil
	}
}

const clientIDHeader = "X-Codat-Clientid" // as net/http writes names

// checkAccess checks everything that comes before the signature, in the order of docs/design.md.
func (h *handler) checkAccess(req *http.Request, r *request) error {
	if r.class == classPublic && h.limiter.limited(r.client, r.received) {
		return errRateLimited
	}
	if req.Method != http.MethodPost && req.Method != http.MethodPut {
		return echo.ErrMethodNotAllowed
	}
	if len(h.Allow) > 0 && !clientip.Networks(h.Allow).Contains(r.client) {
		return errAddress
	}
	if h.clientCertificates && (req.TLS == nil || len(req.TLS.VerifiedChains) == 0) {
		return errCertificate
	}
	if h.Credentials != nil && !h.Credentials.accept(req.Header["Authorization"]) {
		return errAuthorization
	}
	if len(h.ClientIDs) > 0 {
		if lines := req.Header[clientIDHeader]; len(lines) != 1 || !slices.Contains(h.ClientIDs, lines[0]) {
			return errClientID
		}
	}
	// Here a refusal costs no verification. Only verified requests fill the limit.
	return h.storing[r.class].check(h.MaxInFlight)
}

// refuse responds to a request with an error, and counts an unauthenticated one against its address.
func (h *handler) refuse(c echo.Context, r *request, err error) error {
	if r.class == classPublic && unauthenticated(err) {
		h.limiter.record(r.client, r.received)
	}
	return h.respond(c, r, err)
}

// unauthenticated reports whether an error counts against the address of the client: every refusal but that of a
// signature that matched at the wrong time, and of the rate limit itself.
func unauthenticated(err error) bool {
	for _, other := range []error{signature.ErrTooOld, signature.ErrTooNew, errRateLimited} {
		if errors.Is(err, other) {
			return false
		}
	}
	return responseTo(err).outcome == refused
}

// store stores an event. It returns without an error only when the event is durable, now or since an earlier request
// with the same id; otherwise the error is errNotStored. The event may be stored in spite of an error: the sender tries
// again, and the stream recognises the second one by its id.
//
// The event is stored even when ctx is cancelled: the client may have disconnected, but its event was received.
func (h *handler) store(ctx context.Context, r *request, event stream.Stored, body []byte) error {
	builder := builders.Get().(*stream.Builder) // after a panic the store may still hold it: it is not put back
	msg, err := builder.Message(h.Source, event, body)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotStored, err)
	}
	began, stored := time.Now(), h.health.stored.Load()
	r.stored, err = h.Store.PublishUntil(context.WithoutCancel(ctx), r.received.Add(h.Timeout), msg)
	r.publishing = time.Since(began)
	msg.Data = nil // the body belongs to another pool
	builders.Put(builder)
	slow := began.Sub(r.received) > h.Timeout/2 // the client left too little time for any stream
	// The quarantine may need another permission, and readiness is about events.
	if event.Quarantine == "" && (err == nil || !slow) {
		h.health.recordPublish(err, stored)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotStored, h.ids.refused(r.verified.ID, err, h.health.stored.Load(), time.Now()))
	}
	return nil
}

// builders build the messages. A store keeps nothing of a message after it returned.
var builders = sync.Pool{New: func() any { return new(stream.Builder) }}

// A counter counts the requests that are stored at a time. It is safe for concurrent use.
type counter struct{ n atomic.Int64 }

// check returns errTooManyInFlight when the counter is at the limit.
func (c *counter) check(limit int) error {
	if c.n.Load() >= int64(limit) {
		return fmt.Errorf("%w: the limit is %d", errTooManyInFlight, limit)
	}
	return nil
}

// acquire adds a request within the limit, or returns errTooManyInFlight. Release it.
func (c *counter) acquire(limit int) error {
	if c.n.Add(1) > int64(limit) {
		c.n.Add(-1)
		return fmt.Errorf("%w: the limit is %d", errTooManyInFlight, limit)
	}
	return nil
}

func (c *counter) release() { c.n.Add(-1) }
