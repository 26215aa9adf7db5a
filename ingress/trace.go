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

// trace begins the span of a request. The sender's trace is linked, and not gone on with: nobody has signed it, and
// with it a stranger would decide what is sampled and under which trace it is found.
func (d *door) trace(req *http.Request, r *request) *http.Request {
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithNewRoot(),
		trace.WithTimestamp(r.came),
		trace.WithAttributes(
			attribute.String("http.request.method", method(req.Method)),
			attribute.String("http.route", d.Path),
			attribute.String("headgate.source", string(d.receiver.Source))),
	}
	if parent := traceParent(req.Header["Traceparent"]); parent != "" {
		sender := trace.SpanContextFromContext(process.TraceContext.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent}))
		options = append(options, trace.WithLinks(trace.Link{SpanContext: sender}))
	}
	ctx, span := d.tracer.Start(req.Context(), method(req.Method)+" "+d.Path, options...)
	r.span = span
	return req.WithContext(ctx)
}

// method keeps a stranger from choosing names of spans.
func method(name string) string {
	switch name {
	case http.MethodPost, http.MethodPut:
		return name
	}
	return "_OTHER"
}

// endSpan says on the span what the log says in its line.
func (d *door) endSpan(r *request, a answer) {
	r.span.SetAttributes(
		attribute.Int("http.response.status_code", a.status),
		attribute.String("headgate.outcome", a.outcome))
	if a.reason != "" {
		r.span.SetAttributes(attribute.String("headgate.reason", a.reason))
	}
	if r.got.ID != "" { // proven
		r.span.SetAttributes(
			attribute.String("headgate.webhook_id", clip(r.got.ID)),
			attribute.String("headgate.type", clip(r.got.Type)),
			attribute.Int("http.request.body.size", r.size))
	}
	if a.status >= http.StatusInternalServerError {
		r.span.SetStatus(codes.Error, a.reason)
	}
	r.span.End()
}

// ownTraceParent is what goes on in the event's header: the span of its request, "" when there is none.
func ownTraceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	process.TraceContext.Inject(ctx, carrier)
	return carrier["traceparent"]
}
