package process

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
)

func spansNamed(name string) []*tracepb.ResourceSpans {
	return []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{Name: name}}}}}}
}

func TestSpansThatDidNotGoSayWhy(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked atomic.Int32
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 2 {
			cancel()
		}
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	o, err := newOTLP()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.UploadTraces(ctx, spansNamed("work")); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "502") {
		t.Errorf("UploadTraces = %v; want that it was ended, and what the collector had answered", err)
	}
	if err := o.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v", err)
	}

	core, lines := observer.New(zap.WarnLevel)
	_, flush, err := traces(t.Context(), "test", "v0", zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	otel.Handle(errors.New("what OpenTelemetry has to say"))
	if got := lines.FilterMessage("traces").All(); len(got) != 1 || got[0].ContextMap()["error"] != "what OpenTelemetry has to say" {
		t.Errorf("the log has %v; want what OpenTelemetry had to say", got)
	}
	if err := flush(); err != nil {
		t.Errorf("flush = %v", err)
	}
}

func TestSpansGoOverTheWireAsCollectorsReadThem(t *testing.T) {
	var body []byte
	var path, encoding, kind, tenant string
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		path, encoding, kind, tenant = r.URL.Path, r.Header.Get("Content-Encoding"), r.Header.Get("Content-Type"), r.Header.Get("X-Tenant")
		in := io.Reader(r.Body)
		if encoding == "gzip" {
			var err error
			if in, err = gzip.NewReader(r.Body); err != nil {
				t.Error(err)
				return
			}
		}
		body, _ = io.ReadAll(in)
	}))
	defer collector.Close()
	tests := []struct {
		name, variable, value, path, encoding string
	}{
		{"plain", "COMPRESSION", "none", "/v1/traces", ""},
		{"gzip", "COMPRESSION", "gzip", "/v1/traces", "gzip"},
		{"an address for traces alone is taken as it is", "TRACES_ENDPOINT", collector.URL + "/in", "/in", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL+"/")
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-other=1, x-tenant=ours%20too")
			t.Setenv("OTEL_EXPORTER_OTLP_"+tt.variable, tt.value)
			o, err := newOTLP()
			if err != nil {
				t.Fatal(err)
			}
			if err := o.UploadTraces(t.Context(), spansNamed("work")); err != nil {
				t.Fatalf("UploadTraces = %v", err)
			}
			if err := o.Stop(t.Context()); err != nil {
				t.Errorf("Stop = %v", err)
			}
			var got tracepb.TracesData
			if err := proto.Unmarshal(body, &got); err != nil || len(got.ResourceSpans) != 1 || got.ResourceSpans[0].ScopeSpans[0].Spans[0].Name != "work" {
				t.Errorf("the collector got %v, %v; want the span", &got, err)
			}
			if path != tt.path || encoding != tt.encoding || kind != "application/x-protobuf" || tenant != "ours too" {
				t.Errorf("the collector got path %q, encoding %q, type %q, tenant %q", path, encoding, kind, tenant)
			}
		})
	}
}

func TestSpansAreSentAgainWhereThatMayHelp(t *testing.T) {
	var calls atomic.Int64
	answers := []int{}
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(answers[min(int(calls.Add(1)), len(answers))-1])
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	tests := []struct {
		name    string
		answers []int
		calls   int64
		says    string
	}{
		{"a collector that is busy", []int{503, 429, 502, 200}, 4, ""},
		{"a collector that does not want them", []int{400}, 1, "400"},
		{"a partial success is one", []int{202}, 1, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			calls.Store(0)
			answers = tt.answers
			o, err := newOTLP()
			if err != nil {
				t.Fatal(err)
			}
			defer o.client.CloseIdleConnections()
			err = o.UploadTraces(t.Context(), spansNamed("work"))
			if calls.Load() != tt.calls || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("UploadTraces = %v after %d calls; want %q after %d", err, calls.Load(), tt.says, tt.calls)
			}
		})
	}
	t.Run("but not for ever", func(t *testing.T) {
		answers = []int{503}
		o, err := newOTLP()
		if err != nil {
			t.Fatal(err)
		}
		defer o.client.CloseIdleConnections()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := o.UploadTraces(ctx, spansNamed("work")); err == nil {
			t.Error("UploadTraces = nil after its time was over")
		}
	})
}

func TestVariablesOfTracesThatCannotBeMeant(t *testing.T) {
	for name, value := range map[string]string{
		"ENDPOINT":           "collector:4318",
		"PROTOCOL":           "grpc",
		"HEADERS":            "hello",
		"TIMEOUT":            "10s",
		"COMPRESSION":        "zstd",
		"CERTIFICATE":        "/nowhere",
		"CLIENT_CERTIFICATE": "/nowhere",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
			t.Setenv("OTEL_EXPORTER_OTLP_"+name, value)
			_, _, err := traces(t.Context(), "test", "v0", zap.NewNop())
			if ExitCode(err) != 2 || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_"+name) {
				t.Errorf("traces = %v, exit code %d; want an error that names the variable, and 2", err, ExitCode(err))
			}
			if checked := CheckTraces(); fmt.Sprint(checked) != fmt.Sprint(err) {
				t.Errorf("CheckTraces = %v; want %v", checked, err)
			}
		})
	}
}
