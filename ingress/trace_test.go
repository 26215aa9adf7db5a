package ingress_test

import (
	"fmt"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const senders = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// Each request has a span, whose context is in the event's header. The sender's trace is linked: its header is not signed.
func TestHandler_TracesRequests(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	k := newKey(t, "us")
	server := streamtest.New(t)
	g := run(t, settings(t, server.URL, k), func(p *process.Process) {
		provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
		t.Cleanup(func() { _ = provider.Shutdown(t.Context()) })
		p.Traces = provider
	})
	g.waitReady(t)

	req := post(g.url, k, "msg_1", event("company.created"))
	req.Header.Set("traceparent", senders)
	if got := send(t, req); got.status != 204 {
		t.Fatalf("answered %d; want 204", got.status)
	}
	refused := post(g.url, newKey(t, "another"), "msg_2", event("company.created"))
	refused.Method = "PUT"
	if got := send(t, refused); got.status != 401 {
		t.Fatalf("answered %d; want 401", got.status)
	}
	streamtest.Wait(t, func() bool { return len(spans.GetSpans()) == 2 }, "both requests have a span")

	one, other := spans.GetSpans()[0], spans.GetSpans()[1]
	if one.Name != "POST "+path || one.SpanKind != trace.SpanKindServer || one.Parent.IsValid() {
		t.Errorf("the span is %s of kind %v under %v; want a server's at the root", one.Name, one.SpanKind, one.Parent)
	}
	if len(one.Links) != 1 || one.Links[0].SpanContext.TraceID().String() != senders[3:35] {
		t.Errorf("the span is linked to %v; want the sender's trace", one.Links)
	}
	if one.SpanContext.TraceID().String() == senders[3:35] {
		t.Error("the span continues a trace that is not signed")
	}
	want := fmt.Sprintf("00-%s-%s-01", one.SpanContext.TraceID(), one.SpanContext.SpanID())
	if got := stored(t, server.JS)[0].Header.Get(stream.HeaderTraceParent); got != want {
		t.Errorf("the event has traceparent %q; want %q", got, want)
	}
	attributes := func(s tracetest.SpanStub) map[string]string {
		m := map[string]string{}
		for _, a := range s.Attributes {
			m[string(a.Key)] = a.Value.String()
		}
		return m
	}
	for name, want := range map[string]string{
		"headgate.outcome": "accepted", "headgate.webhook_id": "msg_1", "headgate.type": "company.created",
		"headgate.source": "codat", "http.response.status_code": "204",
	} {
		if got := attributes(one)[name]; got != want {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
	if got := attributes(other); got["headgate.reason"] != "no_match" || got["headgate.webhook_id"] != "" || other.Name != "PUT "+path {
		t.Errorf("the refusal's span is %s %v; want why, and no unverified id", other.Name, got)
	}
	found := false
	for _, line := range g.lines() {
		found = found || line.ContextMap()["trace"] == one.SpanContext.TraceID().String()
	}
	if !found {
		t.Error("no line of the log names the trace")
	}
}

// Without traces the event has the sender's traceparent, as a hint.
func TestHandler_KeepsTheSendersTraceparentWithoutTraces(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	req := post(g.url, k, "msg_1", event("company.created"))
	req.Header.Set("traceparent", senders)
	send(t, req)
	if got := stored(t, server.JS)[0].Header.Get(stream.HeaderTraceParent); got != senders {
		t.Errorf("the event has traceparent %q; want the sender's", got)
	}
}

// After a start the time of the last event is that of the last message in the stream.
func TestRun_RestoresTheLastEventTime(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, server := start(t, k)
	if got := g.value(t, "last_accepted_timestamp_seconds", ""); got != 0 {
		t.Errorf("last accepted at %v before anything was; want 0", got)
	}
	send(t, post(g.url, k, "msg_1", event("company.created")))
	stored := stored(t, server.JS)[0].Time
	g.stop()
	<-g.ended

	g = run(t, settings(t, server.URL, k))
	streamtest.Wait(t, func() bool { return g.value(t, "last_accepted_timestamp_seconds", "") > 0 }, "the last one is known")
	got := time.UnixMilli(int64(1000 * g.value(t, "last_accepted_timestamp_seconds", "")))
	if diff := got.Sub(stored); diff.Abs() > 10*time.Millisecond {
		t.Errorf("last accepted at %v; want %v, when the last message was stored", got, stored)
	}
}

// Of many accepted requests in a second some have no log line; refusals always have one.
func TestHandler_SamplesAcceptedRequestsInTheLog(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	server := streamtest.New(t)
	g := run(t, settings(t, server.URL, k, "--log-accepted", "0"))
	g.waitReady(t)
	for n := range 30 {
		if got := send(t, post(g.url, k, fmt.Sprintf("msg_%d", n), event("company.created"))); got.status != 204 {
			t.Fatalf("answered %d; want 204", got.status)
		}
		send(t, post(g.url, newKey(t, "another"), "msg_x", event("company.created")))
	}
	send(t, post(g.url, k, "msg_q", "not JSON"))
	streamtest.Wait(t, func() bool { return len(g.lines()) >= 31 }, "the refusals that are diagnosed have their lines")
	outcomes := map[any]int{}
	for _, line := range g.lines() {
		outcomes[line.ContextMap()["outcome"]]++
	}
	if outcomes["accepted"] != 0 || outcomes["refused"] != 30 || outcomes["quarantined"] != 1 {
		t.Errorf("logged %v; want nothing that was accepted, and all else", outcomes)
	}
	if got := g.value(t, "requests_total", "accepted"); got != 30 {
		t.Errorf("requests_total{outcome=\"accepted\"} = %v; want 30", got)
	}
}

func TestHandler_CountsClockRefusals(t *testing.T) {
	t.Parallel()
	k := newKey(t, "us")
	g, _ := start(t, k)
	body := event("company.created")
	for direction, at := range map[string]time.Time{"past": time.Now().Add(-time.Hour), "future": time.Now().Add(time.Hour)} {
		req := post(g.url, k, "msg_1", body)
		sign(req.Header, k, "msg_1", at, body)
		send(t, req)
		// A client without a key cannot raise this alarm.
		forged := post(g.url, k, "msg_1", body)
		sign(forged.Header, newKey(t, "another"), "msg_1", at, body)
		send(t, forged)
		if got := g.value(t, "clock_refusals_total", direction); got != 1 {
			t.Errorf("clock_refusals_total{direction=%q} = %v; want 1", direction, got)
		}
	}
	late := post(g.url, k, "msg_2", body)
	sign(late.Header, k, "msg_2", time.Now().Add(-2*time.Minute), body)
	send(t, late)
	if got := g.value(t, "signature_age_seconds", ""); got < 119 || got > 119+timeout.Seconds() {
		t.Errorf("signature_age_seconds = %v; want 120 or a little more", got)
	}
}
