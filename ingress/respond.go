package ingress

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/headgate/headgate/ingress/connlimit"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
)

// retryAfter, in seconds, is long enough for the election of a leader and no longer than Svix's first pause.
const retryAfter = "5"

// respond writes the response to a request, without a body, ends its span, counts it and writes its log line. A refusal
// has a span and a line only within the limit of its reason. It always returns nil, as echo's handlers must when they have
// responded.
func (h *handler) respond(c echo.Context, r *request, err error) error {
	resp := response{http.StatusNoContent, r.outcome(), ""}
	if err != nil {
		resp = responseTo(err)
	}
	header := c.Response().Header()
	switch resp.status {
	case http.StatusServiceUnavailable:
		header.Set(echo.HeaderRetryAfter, retryAfter)
	case http.StatusMethodNotAllowed:
		header.Set(echo.HeaderAllow, "POST, PUT")
	}
	// A client that is still sending receives the response now and makes a new connection for the next request; on a
	// connection that stays open, net/http would read the rest before it responds. A client that has sent more requests
	// does too: net/http already holds a part of the next head, and nothing has counted its lines.
	announced := c.Request().ContentLength
	sending := r.size < 0 && announced != 0
	if sending || h.draining.Load() || connlimit.Pipelined(c.Request()) && (announced >= 0 || r.verified.ID == "") {
		header.Set(echo.HeaderConnection, "close")
	}
	// A small body has arrived with its headers or soon will: a connection does not linger for it.
	large := announced < 0 || announced > firstBuffer
	if sending && (c.Request().Close && large || resp.status == http.StatusRequestEntityTooLarge) {
		linger(c.Response().Writer)
	}
	c.Response().WriteHeader(resp.status)
	h.metrics.count(r, resp, err)
	recorded := resp.reason == "" || h.refusals.allow(resp.reason)
	if recorded && r.span == nil && h.tracer != nil {
		h.startSpan(c.Request(), r)
	}
	if r.span != nil {
		h.endSpan(r, resp)
	}
	e := ended{c.Request(), r, resp, err, recorded}
	switch {
	case !recorded || !wrongSignature(err):
		h.logEnded(e, nil)
	case h.diagnoses[r.class].AllowN(r.received, 1) && h.budgets[r.class].reserve(len(r.unverified)) == nil:
		// Not before the response is sent: its time would tell a client what is wrong.
		r.unverified = bytes.Clone(r.unverified)
		h.diagnosing.Go(func() {
			defer h.budgets[r.class].release(len(r.unverified), false)
			h.diagnose(e)
		})
	default:
		h.logEnded(e, &signature.Diagnosis{Evidence: signature.Evidence(e.req.Header)})
	}
	return nil
}

// An ended request has its response. The body of req belongs to the connection again.
type ended struct {
	req *http.Request
	*request
	response
	err      error
	recorded bool // whether it may have a log line
}

// logEnded shows a request to the observer and writes its log line. The diagnosis is nil where the signature is not wrong.
func (h *handler) logEnded(e ended, d *signature.Diagnosis) {
	if !h.observe(e.request, e.response, d) && e.recorded {
		h.logRequest(e, d)
	}
}

// observe calls the process's observer, and reports whether the request needs no log line.
func (h *handler) observe(r *request, resp response, d *signature.Diagnosis) bool {
	if h.observer == nil {
		return false
	}
	found := ""
	if d != nil && !slices.Contains([]string{"", "missing", "malformed", "no_match"}, d.Code) { // those say no more than the reason
		found = d.Text
	}
	return h.observer.RequestEnded(process.Request{
		Outcome: resp.outcome, Status: resp.status, ID: r.verified.ID, Type: r.typ,
		Quarantine: r.quarantine, Reason: resp.reason, Found: found, Took: time.Since(r.received),
		Failed: resp.outcome == unavailable || resp.outcome == failed,
	})
}

// linger keeps the connection open for a moment after the response. Closed at once, with bytes still arriving, it would
// be reset, and the client might never see the response. net/http does this only for a connection that it would have
// kept, when the rest is not too large, and for its own reader of limited bodies, which reads more than is needed here.
func linger(w http.ResponseWriter) {
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// logRequest writes the log line of a request: of an event with its ids, of a refusal with the client and the reason. Of
// many stored events some are left out.
func (h *handler) logRequest(e ended, d *signature.Diagnosis) {
	req, r, resp, err := e.req, e.request, e.response, e.err
	if resp.outcome == accepted && !h.accepted.sample(r.received) || resp.outcome == duplicate && !h.duplicates.sample(r.received) {
		return
	}
	level := zap.InfoLevel
	switch resp.outcome {
	case refused:
		level = zap.WarnLevel
	case unavailable, failed:
		level = zap.ErrorLevel
	}
	line := h.log.Check(level, "request")
	if line == nil {
		return
	}
	fields := append(make([]zapcore.Field, 0, 20),
		zap.String("outcome", resp.outcome),
		zap.Int("status", resp.status),
		zap.Duration("took", time.Since(r.received)),
		zap.String("remote", host(req.RemoteAddr)))
	fields = h.appendFields(fields, r)
	if err == nil {
		line.Write(append(fields, zap.Uint64("sequence", r.stored.Sequence))...)
		return
	}
	fields = append(fields, zap.String("reason", resp.reason), zap.Error(err))
	switch {
	case errors.Is(err, echo.ErrNotFound), errors.Is(err, echo.ErrMethodNotAllowed):
		fields = append(fields, zap.String("method", clip(req.Method)), zap.String("path", clip(req.URL.Path)))
	case r.stack != nil:
		fields = append(fields, zap.ByteString("stack", r.stack))
	case r.verified.ID == "":
		// The id is not verified: it only helps to find the request in Codat's Portal.
		if id := cmp.Or(req.Header.Get("webhook-id"), req.Header.Get("svix-id")); validID(id) {
			fields = append(fields, zap.String("claimed_id", id))
		}
	}
	line.Write(appendDiagnosis(fields, d)...)
}

// appendFields appends what is known about a request.
func (h *handler) appendFields(fields []zapcore.Field, r *request) []zapcore.Field {
	if h.Source != "" {
		fields = append(fields, zap.String("source", string(h.Source)))
	}
	if r.client.IsValid() && len(h.proxies) > 0 {
		fields = append(fields, zap.Stringer("client", r.client))
	}
	if r.size >= 0 {
		fields = append(fields, zap.Int("bytes", r.size))
	}
	if r.verified.ID != "" {
		fields = append(fields, zap.String("id", clip(r.verified.ID)), zap.String("key", r.verified.Key))
	}
	if r.typ != "" {
		fields = append(fields, zap.String("type", clip(r.typ)), zap.Bool("known", r.known))
	}
	if r.quarantine != "" {
		fields = append(fields, zap.String("quarantine", r.quarantine))
	}
	if r.span != nil && r.span.SpanContext().IsValid() {
		fields = append(fields, zap.Stringer("trace", r.span.SpanContext().TraceID()))
	}
	return fields
}

// host returns an address without its port.
func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

// clip shortens a text that a client chose, so that it cannot fill the log.
func clip(s string) string {
	if len(s) <= maxID {
		return s
	}
	return s[:maxID] + "…"
}
