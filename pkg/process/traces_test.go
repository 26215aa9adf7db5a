package process

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A collector answers every request with 200 and keeps the requests.
type collector struct {
	*httptest.Server
	requests chan request
}

type request struct {
	path, encoding, tenant string
	body                   []byte
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{requests: make(chan request, 9)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.requests <- request{r.URL.Path, r.Header.Get("Content-Encoding"), r.Header.Get("X-Tenant"), body}
	}))
	t.Cleanup(c.Close)
	return c
}

// off reports whether traces are off, and returns the warnings in the log.
func off(t *testing.T) (bool, []observer.LoggedEntry) {
	t.Helper()
	core, lines := observer.New(zap.WarnLevel)
	provider, flush := traces(t.Context(), "test", "v0", zap.New(core))
	if err := flush(); err != nil {
		t.Errorf("flush = %v; want nil", err)
	}
	_, off := provider.(noop.TracerProvider)
	if off != (Tracer(provider, "test") == nil) {
		t.Errorf("Tracer = %v while traces are off: %v", Tracer(provider, "test"), off)
	}
	return off, lines.All()
}

func TestTraces_Off(t *testing.T) {
	tests := []struct {
		name, variable, value string
	}{
		{"no collector is named", "OTEL_EXPORTER_OTLP_ENDPOINT", ""},
		{"the SDK is disabled", "OTEL_SDK_DISABLED", "true"},
		{"the SDK is disabled in capitals", "OTEL_SDK_DISABLED", "TRUE"},
		{"no exporter", "OTEL_TRACES_EXPORTER", "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", newCollector(t).URL)
			t.Setenv(tt.variable, tt.value)
			if off, lines := off(t); !off || len(lines) > 0 {
				t.Errorf("traces off = %v with the warnings %v; want true without a warning", off, lines)
			}
			if err := CheckTraces(); err != nil {
				t.Errorf("CheckTraces = %v; want nil", err)
			}
		})
	}
	if Tracer(nil, "test") != nil {
		t.Error("Tracer(nil) is not nil")
	}
}

func TestTraces_UnusableVariableIsOneWarning(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":        "collector:4318",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://%zz",
		"OTEL_EXPORTER_OTLP_PROTOCOL":        "grpc",
		"OTEL_EXPORTER_OTLP_COMPRESSION":     "zstd",
		"OTEL_EXPORTER_OTLP_HEADERS":         "hunter2",
		"OTEL_EXPORTER_OTLP_TIMEOUT":         "10s",
		"OTEL_EXPORTER_OTLP_CERTIFICATE":     "/nowhere",
		"OTEL_RESOURCE_ATTRIBUTES":           "hello",
		"OTEL_TRACES_EXPORTER":               "zipkin",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
			t.Setenv(name, value)
			off, lines := off(t)
			if !off || len(lines) != 1 || lines[0].Message != "traces are off" {
				t.Fatalf("traces off = %v with the warnings %v; want true with one", off, lines)
			}
			text, _ := lines[0].ContextMap()["error"].(string)
			if !strings.Contains(text, "OTEL_") || strings.Contains(text, "hunter2") {
				t.Errorf("the warning is %q; want the variable in it and no value of a header", text)
			}
			if err := CheckTraces(); err == nil || redact(err.Error()) != text {
				t.Errorf("CheckTraces = %v; want %q", err, text)
			}
		})
	}
}

func TestTraces_SentToTheCollectorOfTheEnvironment(t *testing.T) {
	collector := newCollector(t)
	tests := []struct {
		name, variable, value, path, encoding string
	}{
		{"address for all signals", "TIMEOUT", "30000", "/v1/traces", ""},
		{"address for traces alone", "TRACES_ENDPOINT", collector.URL + "/in", "/in", ""},
		{"compressed", "COMPRESSION", "gzip", "/v1/traces", "gzip"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL+"/")
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-other=1, x-tenant=ours%20too")
			t.Setenv("OTEL_EXPORTER_OTLP_"+tt.variable, tt.value)
			provider, flush := traces(t.Context(), "test", "v0", zap.NewNop())
			_, span := Tracer(provider, "test").Start(t.Context(), "work")
			span.End()
			if err := flush(); err != nil {
				t.Fatalf("flush = %v", err)
			}
			got := <-collector.requests
			if got.path != tt.path || got.encoding != tt.encoding || got.tenant != "ours too" {
				t.Errorf("the collector received path %q, encoding %q, tenant %q", got.path, got.encoding, got.tenant)
			}
			if tt.encoding == "" && (!strings.Contains(string(got.body), "work") || !strings.Contains(string(got.body), "service.name")) {
				t.Errorf("the collector received %q; want the span and its resource", got.body)
			}
		})
	}
}

func TestTraces_LateProblemsAreWarnings(t *testing.T) {
	refuse := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }))
	defer refuse.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", refuse.URL)
	core, lines := observer.New(zap.WarnLevel)
	provider, flush := traces(t.Context(), "test", "v0", zap.New(core))
	_, span := Tracer(provider, "test").Start(t.Context(), "work")
	span.End()
	if err := flush(); err != nil {
		t.Errorf("flush = %v", err)
	}
	otel.Handle(errors.New("dial nats://user:hunter2@127.0.0.1: refused"))
	got := lines.FilterMessage("OpenTelemetry reports an error").All()
	if len(got) != 2 || !strings.Contains(got[0].ContextMap()["error"].(string), "400") || got[1].ContextMap()["error"] != "dial nats://…@127.0.0.1: refused" {
		t.Errorf("the log has %v; want the collector's answer and an error without the password", got)
	}
}

// A span with text that is not UTF-8, such as an id that another publisher stored, is sent with the text replaced, and loses
// no other span.
func TestTraces_SendSpansWithTextThatIsNotUTF8(t *testing.T) {
	const wrong = "id\xff"
	collector := newCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "resource=resource id%ff")
	core, lines := observer.New(zap.WarnLevel)
	provider, flush := traces(t.Context(), "test", "v0", zap.New(core))
	tracer := Tracer(provider, "test")
	_, span := tracer.Start(t.Context(), "another span")
	span.End()
	_, span = tracer.Start(t.Context(), "name "+wrong, trace.WithAttributes(
		attribute.String("string", "string "+wrong), attribute.String("key "+wrong, "value"), attribute.StringSlice("strings", []string{"good", "slice " + wrong}),
		attribute.Slice("slice", attribute.MapValue(attribute.String("map", "map "+wrong)))))
	span.AddEvent("event "+wrong, trace.WithAttributes(attribute.String("event", "event attribute "+wrong)))
	span.AddLink(trace.Link{SpanContext: span.SpanContext(), Attributes: []attribute.KeyValue{attribute.String("link", "link "+wrong)}})
	span.SetStatus(codes.Error, "status "+wrong)
	span.End()
	if err := flush(); err != nil {
		t.Errorf("flush = %v; want nil", err)
	}
	if lines.Len() > 0 {
		t.Errorf("warnings %v; want none", lines.All())
	}
	select {
	case r := <-collector.requests:
		for _, prefix := range []string{"name", "string", "key", "slice", "map", "event", "event attribute", "link", "status", "resource"} {
			if want := prefix + " id\uFFFD"; !bytes.Contains(r.body, []byte(want)) {
				t.Errorf("the collector did not get %q", want)
			}
		}
		if !bytes.Contains(r.body, []byte("another span")) {
			t.Error("the collector did not get the other span")
		}
	default:
		t.Error("the collector got no spans")
	}
}
