package ingress

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/headgate/headgate/pkg/process"
)

// startSpan starts the span of a request. It links the sender's trace and does not continue it: the header is not signed,
// and an unauthenticated client would decide what is sampled and under which trace it is found.
func (h *handler) startSpan(req *http.Request, r *request) *http.Request {
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithNewRoot(),
		trace.WithTimestamp(r.received),
		trace.WithAttributes(
			attribute.String("http.request.method", method(req.Method)),
			attribute.String("http.route", h.Path),
			attribute.String("headgate.source", string(h.Source))),
	}
	if parent := traceParent(req.Header["Traceparent"]); parent != "" {
		sender := trace.SpanContextFromContext(process.TraceContext.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent}))
		options = append(options, trace.WithLinks(trace.Link{SpanContext: sender}))
	}
	ctx, span := h.tracer.Start(req.Context(), method(req.Method)+" "+h.Path, options...)
	r.span = span
	return req.WithContext(ctx)
}

// method returns a method that a span may be named after, so that clients cannot choose names of spans.
func method(name string) string {
	switch name {
	case http.MethodPost, http.MethodPut:
		return name
	}
	return "_OTHER"
}

// endSpan ends the span of a request, with the attributes of its log line.
func (h *handler) endSpan(r *request, resp response) {
	r.span.SetAttributes(
		attribute.Int("http.response.status_code", resp.status),
		attribute.String("headgate.outcome", resp.outcome))
	if resp.reason != "" {
		r.span.SetAttributes(attribute.String("headgate.reason", resp.reason))
	}
	if r.verified.ID != "" {
		r.span.SetAttributes(
			attribute.String("headgate.webhook_id", clip(r.verified.ID)),
			attribute.String("headgate.type", clip(r.typ)),
			attribute.Int("http.request.body.size", r.size))
	}
	if resp.status >= http.StatusInternalServerError {
		r.span.SetStatus(codes.Error, resp.reason)
	}
	r.span.End()
}

// ownTraceParent returns the traceparent of the request's span, which its event carries, or "" without a span.
func ownTraceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	process.TraceContext.Inject(ctx, carrier)
	return carrier["traceparent"]
}
