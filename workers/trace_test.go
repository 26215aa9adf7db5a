package workers

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/headgate/headgate/pkg/stream"
)

func TestTrace_AttemptContinuesTheRequestsTrace(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	w := newModel(t)
	w.procs[0].tracer = provider.Tracer("")
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	w.result = errBoom
	w.queue = append(w.queue, &message{subject: "codat.events.bills.write.successful", due: w.clock, header: nats.Header{
		stream.HeaderWebhookID: {"msg_1"}, stream.HeaderTraceParent: {parent},
	}})
	w.deliver(0)

	ended := spans.Ended()
	if len(ended) != 1 {
		t.Fatalf("%d spans; want the attempt's", len(ended))
	}
	s := ended[0]
	if got := s.Parent(); got.TraceID().String() != parent[3:35] || got.SpanID().String() != parent[36:52] || !got.IsRemote() {
		t.Errorf("the span's parent is %v; want the request's", got)
	}
	if s.Name() != "process bills.write.successful" || s.SpanKind() != trace.SpanKindConsumer || s.Status().Code != codes.Error {
		t.Errorf("span %q of kind %v with status %v; want the attempt as it failed", s.Name(), s.SpanKind(), s.Status())
	}
}

// A handler can pass the request's trace on, also when the worker exports no spans.
func TestTrace_ContextHasTheRequestsTraceWhenTracesAreOff(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := &runner{}
	for _, tt := range []struct{ parent, want string }{{parent, parent[3:35]}, {"", "00000000000000000000000000000000"}} {
		m := delivered{message: &message{header: nats.Header{stream.HeaderTraceParent: {tt.parent}}}}
		ctx, span := r.trace(t.Context(), &delivery{msg: m})
		if got := trace.SpanContextFromContext(ctx).TraceID().String(); got != tt.want || span.IsRecording() {
			t.Errorf("the handler of %q sees the trace %s; want %s", tt.parent, got, tt.want)
		}
	}
}
