package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/headgate/headgate/pkg/signature"
)

// DoorOptions are what a door asks of a request before it reads the body, and its limits.
type DoorOptions struct {
	Path         string
	Allow        []netip.Prefix // addresses from which requests are taken; all if none are given
	Credentials  *Credentials   // of which one must stand in Authorization; nil or without any: not asked
	ClientIDs    []string       // of which one must stand in X-Codat-ClientId; all if none are given
	MaxBody      int64          // bytes
	MaxInFlight  int            // requests that are stored at a time
	UnprovenRate float64        // requests a second that one address may send and that do not prove; 0 for no limit
}

// A door lets in what is for one source: it reads requests, has them accepted, answers them, writes one line and
// counts once for each.
type door struct {
	DoorOptions
	*Front
	receiver *Receiver
	bodies   *bodies
	metrics  *metrics
	limiter  *limiter
	storing  [2]atomic.Int64 // requests, as the front's rooms
}

// request is what is known of a request at its end.
type request struct {
	came   time.Time
	client netip.Addr // zero when it cannot be known
	size   int        // of the body; -1 when it was not read
	got    Receipt
	stack  []byte // where it panicked
	span   trace.Span
}

// receive is the adapter between a request and Accept. It never returns an error: it ends every
// request itself, also one in which something of ours panicked.
func (d *door) receive(c echo.Context) error {
	r := &request{came: time.Now(), size: -1}
	var err error
	defer func() {
		if v := recover(); v != nil {
			r.stack = debug.Stack()
			err = fmt.Errorf("%w: %v", ErrPanic, v)
		}
		d.end(c, r, err)
	}()
	req := c.Request()
	if d.tracer != nil {
		req = d.trace(req, r)
	}
	err = d.pass(req, r)
	return nil
}

// pass reads a request and has it accepted. What can be refused without the body is refused before
// the body is read.
func (d *door) pass(req *http.Request, r *request) (err error) {
	r.client = clientOf(req, d.proxies)
	if req.Method != http.MethodPost && req.Method != http.MethodPut {
		return echo.ErrMethodNotAllowed
	}
	d.metrics.inFlight.Inc()
	defer d.metrics.inFlight.Dec()
	from := others
	if codatAddresses.contain(r.client) {
		from = codats
	}
	if from == others {
		if d.limiter.spent(r.client, r.came) {
			return ErrSpent
		}
		defer func() {
			late := errors.Is(err, signature.ErrTooOld) || errors.Is(err, signature.ErrTooNew) // it proved
			if err != nil && !late && answerTo(err).outcome == refused {
				d.limiter.spend(r.client, r.came)
			}
		}()
	}
	if err := d.ask(req, r.client); err != nil {
		return err
	}
	// Refused now it costs nothing. Nobody without a key can make this happen.
	if d.storing[from].Load() >= int64(d.MaxInFlight) {
		return fmt.Errorf("%w: %d", ErrCrowded, d.MaxInFlight)
	}
	claim, err := d.receiver.Keys.Read(req.Header)
	if err != nil {
		return err
	}
	b, err := d.bodies.read(req.Body, req.ContentLength, d.rooms[from])
	if err != nil {
		return err
	}
	hear(req)
	r.size = len(b.bytes)
	read, stored := true, false
	defer func() {
		if read {
			b.leave() // after a panic somebody may still hold the bytes: they are never used again
		}
		if stored {
			d.storing[from].Add(-1)
		}
	}()
	claim = claim.Until(r.came.Add(d.receiver.Budget / 2)).FromCodat(from == codats)
	r.got, err = d.receiver.accept(req.Context(), r.came, req.Header, claim, b.bytes, func() error {
		b.prove()
		stored = true
		if d.storing[from].Add(1) > int64(d.MaxInFlight) {
			return fmt.Errorf("%w: %d", ErrCrowded, d.MaxInFlight)
		}
		return nil
	})
	read = false
	d.bodies.put(b)
	return err
}

// ask is what a request is asked before its signature.
func (d *door) ask(req *http.Request, client netip.Addr) error {
	if len(d.Allow) > 0 && !networks(d.Allow).contain(client) {
		return ErrAddress
	}
	if d.clientCertificates && (req.TLS == nil || len(req.TLS.VerifiedChains) == 0) {
		return ErrCertificate
	}
	if d.Credentials != nil && !d.Credentials.accept(req.Header["Authorization"]) {
		return ErrAuthorization
	}
	if len(d.ClientIDs) > 0 {
		if came := req.Header[clientIDHeader]; len(came) != 1 || !slices.Contains(d.ClientIDs, came[0]) {
			return ErrClientID
		}
	}
	return nil
}

const clientIDHeader = "X-Codat-Clientid" // as net/http writes names

// retryAfter is long enough for a leader to be elected and short enough to be the sender's own first
// pause: Svix takes it for no less than that.
const retryAfter = "5"

// end answers a request, writes its line and counts it.
func (d *door) end(c echo.Context, r *request, err error) {
	a := answer{Status(nil), r.got.outcome(), ""}
	if err != nil {
		a = answerTo(err)
	}
	h := c.Response().Header()
	switch a.status {
	case http.StatusServiceUnavailable:
		h.Set(echo.HeaderRetryAfter, retryAfter)
	case http.StatusMethodNotAllowed:
		h.Set(echo.HeaderAllow, "POST, PUT")
	}
	// Who is still sending is answered now, and makes a new connection for the next request; on one
	// that stays, net/http reads the rest before it answers.
	sending := r.size < 0 && c.Request().ContentLength != 0
	if sending || d.draining.Load() {
		h.Set(echo.HeaderConnection, "close")
	}
	// A small body has come with its headers, or soon will have: who sends junk shall not keep connections with it.
	announced := c.Request().ContentLength
	large := announced < 0 || announced > firstBuffer
	if sending && (c.Request().Close && large || a.status == http.StatusRequestEntityTooLarge) {
		linger(c.Response().Writer)
	}
	c.Response().WriteHeader(a.status)
	d.metrics.count(r, a, err)
	if r.span != nil {
		d.endSpan(r, a)
	}
	d.write(c.Request(), r, a, err)
}

// linger keeps the connection open for a moment after the answer. Closed at once, with bytes still
// coming, it would be reset, and the sender might never see the answer. net/http does this by itself
// only when it would have kept the connection and the rest is not too large, and for those who use its
// own reader of limited bodies, which reads more than is needed here.
func linger(w http.ResponseWriter) {
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// write writes the line of a request: an event's with its ids, a refusal's with what an operator
// needs to find who sent it and why it was refused.
func (d *door) write(req *http.Request, r *request, a answer, err error) {
	if (a.outcome == accepted || a.outcome == duplicate) && !d.accepted.take(r.came) {
		return
	}
	level := zap.InfoLevel
	switch a.outcome {
	case refused:
		level = zap.WarnLevel
	case unavailable, failed:
		level = zap.ErrorLevel
	}
	line := d.log.Check(level, "request")
	if line == nil {
		return
	}
	fields := make([]zapcore.Field, 0, 20)
	fields = append(fields,
		zap.String("outcome", a.outcome),
		zap.Int("status", a.status),
		zap.Duration("took", time.Since(r.came)),
		zap.String("remote", host(req.RemoteAddr)))
	if d.receiver != nil {
		fields = append(fields, zap.String("source", string(d.receiver.Source)))
	}
	if r.client.IsValid() && len(d.proxies) > 0 {
		fields = append(fields, zap.Stringer("client", r.client))
	}
	if r.size >= 0 {
		fields = append(fields, zap.Int("bytes", r.size))
	}
	if r.got.ID != "" {
		fields = append(fields, zap.String("id", clip(r.got.ID)), zap.String("key", r.got.Key))
	}
	if r.got.Type != "" {
		fields = append(fields, zap.String("type", clip(r.got.Type)), zap.Bool("known", r.got.Known))
	}
	if r.got.Quarantine != "" {
		fields = append(fields, zap.String("quarantine", r.got.Quarantine))
	}
	if r.span != nil && r.span.SpanContext().IsValid() {
		fields = append(fields, zap.Stringer("trace", r.span.SpanContext().TraceID()))
	}
	if err == nil {
		line.Write(append(fields, zap.Uint64("sequence", r.got.Sequence))...)
		return
	}
	fields = append(fields, zap.String("reason", a.reason), zap.Error(err))
	switch {
	case errors.Is(err, echo.ErrNotFound), errors.Is(err, echo.ErrMethodNotAllowed):
		fields = append(fields, zap.String("method", clip(req.Method)), zap.String("path", clip(req.URL.Path)))
	case r.stack != nil:
		fields = append(fields, zap.ByteString("stack", r.stack))
	case r.got.ID == "":
		// Not proven, and so good for nothing but to look for it in Codat's Portal.
		if id := cmp.Or(req.Header.Get("webhook-id"), req.Header.Get("svix-id")); plainID(id) {
			fields = append(fields, zap.String("claimed_id", id))
		}
	}
	line.Write(fields...)
}

func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

// clip keeps a text that a stranger chose from filling the log.
func clip(s string) string {
	if len(s) <= maxID {
		return s
	}
	return s[:maxID] + "…"
}
