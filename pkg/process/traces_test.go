package process

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

func TestTracesAreOffUnlessACollectorIsNamed(t *testing.T) {
	provider, flush, err := traces(t.Context(), "test", "v0", zap.NewNop())
	if _, off := provider.(noop.TracerProvider); !off || err != nil {
		t.Errorf("traces = %T, %v; want them off", provider, err)
	}
	if Tracer(provider, "test") != nil || Tracer(nil, "test") != nil {
		t.Error("there is a tracer; want none while traces are off")
	}
	if err := flush(); err != nil {
		t.Errorf("flush = %v", err)
	}
}

func TestTracesGoToTheCollectorThatTheEnvironmentNames(t *testing.T) {
	got := make(chan *http.Request, 9)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got <- r }))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")
	ctx, cancel := context.WithCancel(t.Context())
	provider, flush, err := traces(ctx, "test", "v0", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	_, span := Tracer(provider, "test").Start(ctx, "work")
	span.End()
	cancel() // the process stops: the last span leaves all the same
	if err := flush(); err != nil {
		t.Fatalf("flush = %v", err)
	}
	select {
	case r := <-got:
		if r.URL.Path != "/v1/traces" || r.Header.Get("x-tenant") != "ours" || r.ContentLength == 0 {
			t.Errorf("the collector got %s %v with %d bytes", r.URL.Path, r.Header, r.ContentLength)
		}
	case <-time.After(30 * time.Second):
		t.Error("no trace came to the collector")
	}
}
