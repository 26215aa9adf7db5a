package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A Door is what HTTP needs around a Receiver: it reads requests, answers them, and writes one line
// and counts once for each.
type Door struct {
	receiver    *Receiver
	bodies      *bodies
	maxInFlight int64
	inFlight    atomic.Int64
	draining    atomic.Bool
	log         *zap.Logger
	metrics     *Metrics
	echo        *echo.Echo
}

// NewDoor opens a door at path, to bodies of at most maxBody bytes and at most maxInFlight requests
// at a time. The deadlines of a request are those of the http.Server that it is put into.
func NewDoor(r *Receiver, path string, maxBody int64, maxInFlight int, log *zap.Logger, m *Metrics) *Door {
	d := &Door{
		receiver:    r,
		bodies:      newBodies(maxBody),
		maxInFlight: int64(maxInFlight),
		log:         log,
		metrics:     m,
		echo:        echo.New(),
	}
	d.echo.HTTPErrorHandler = d.turnAway
	d.echo.Any(path, d.receive) // any method: echo itself would answer OPTIONS with a 2xx
	return d
}

// ServeHTTP answers a request, without a body.
func (d *Door) ServeHTTP(w http.ResponseWriter, req *http.Request) { d.echo.ServeHTTP(w, req) }

// Drain lets connections go: the sender, or a balancer, is asked to make a new one with each answer
// from now on. Requests are still received.
func (d *Door) Drain() { d.draining.Store(true) }

// request is what is known of a request at its end.
type request struct {
	came  time.Time
	size  int // of the body; -1 when it was not read
	got   Receipt
	stack []byte // where it panicked
}

// turnAway answers what echo has no route for.
func (d *Door) turnAway(err error, c echo.Context) {
	d.end(c, &request{came: time.Now(), size: -1}, err)
}

// receive is the adapter between a request and Accept. It never returns an error: it ends every
// request itself, also one in which something of ours panicked.
func (d *Door) receive(c echo.Context) error {
	r := &request{came: time.Now(), size: -1}
	var err error
	defer func() {
		if v := recover(); v != nil {
			r.stack = debug.Stack()
			err = fmt.Errorf("%w: %v", ErrPanic, v)
		}
		d.end(c, r, err)
	}()
	err = d.pass(c.Request(), r)
	return nil
}

// pass reads a request and has it accepted. What can be refused without the body is refused before
// the body is read.
func (d *Door) pass(req *http.Request, r *request) error {
	if req.Method != http.MethodPost && req.Method != http.MethodPut {
		return echo.ErrMethodNotAllowed
	}
	d.metrics.inFlight.Inc()
	defer d.metrics.inFlight.Dec()
	defer d.inFlight.Add(-1)
	if d.inFlight.Add(1) > d.maxInFlight {
		return fmt.Errorf("%w: %d", ErrCrowded, d.maxInFlight)
	}
	claim, err := d.receiver.Keys.Read(req.Header)
	if err != nil {
		return err
	}
	b, err := d.bodies.read(req.Body, req.ContentLength)
	if err != nil {
		return err
	}
	r.size = len(b.bytes)
	r.got, err = d.receiver.accept(req.Context(), r.came, req.Header, claim, b.bytes)
	// Not deferred: after a panic somebody may still hold the bytes, and they are never used again.
	d.bodies.put(b)
	return err
}

// retryAfter is long enough for a leader to be elected and short enough to be the sender's own first
// pause: Svix takes it for no less than that.
const retryAfter = "5"

// end answers a request, writes its line and counts it.
func (d *Door) end(c echo.Context, r *request, err error) {
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
	case http.StatusRequestEntityTooLarge:
		linger(c.Response().Writer)
	}
	// Who is still sending is answered now, and makes a new connection for the next request; on one
	// that stays, net/http reads the rest before it answers.
	sending := r.size < 0 && c.Request().ContentLength != 0
	if sending || d.draining.Load() {
		h.Set(echo.HeaderConnection, "close")
	}
	c.Response().WriteHeader(a.status)
	d.metrics.count(r, a)
	d.write(c.Request(), r, a, err)
}

// linger keeps the connection open for a moment after the answer. Closed at once, with bytes still
// coming, it would be reset, and the sender would never see the answer. net/http does this for those
// who use its own reader of limited bodies, which reads more than is needed here.
func linger(w http.ResponseWriter) {
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// write writes the line of a request: an event's with its ids, a refusal's with what an operator
// needs to find who sent it and why it was refused.
func (d *Door) write(req *http.Request, r *request, a answer, err error) {
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
	fields := make([]zapcore.Field, 0, 16)
	fields = append(fields,
		zap.String("outcome", a.outcome),
		zap.Int("status", a.status),
		zap.Duration("took", time.Since(r.came)),
		zap.String("remote", host(req.RemoteAddr)))
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
