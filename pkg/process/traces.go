package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// tracesFlush bounds the time for which a process that stops sends its last spans.
const tracesFlush = 3 * time.Second

// traces returns the provider of the process's spans and the function that sends the last of them. Traces are off,
// at no cost, unless OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names a collector.
// OTEL_SDK_DISABLED=true and OTEL_TRACES_EXPORTER=none switch them off too. A variable that cannot be used is a
// warning in the log and switches traces off: a program never stops for its collector.
func traces(ctx context.Context, name, version string, log *zap.Logger) (provider trace.TracerProvider, flush func() error) {
	sdk, err := newTracerProvider(ctx, name, version, func(err error) {
		log.Warn("OpenTelemetry reports an error", zap.String("error", redact(err.Error())))
	})
	if err != nil {
		log.Warn("traces are off", zap.String("error", redact(err.Error())))
	}
	if sdk == nil {
		return noop.NewTracerProvider(), func() error { return nil }
	}
	return sdk, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesFlush)
		defer cancel()
		return sdk.Shutdown(ctx)
	}
}

// CheckTraces returns the error for which traces would be off, and nil when they are off because nothing asks for
// them. It opens no connection.
func CheckTraces() error {
	sdk, err := newTracerProvider(context.Background(), "check", "", func(error) {})
	if sdk == nil || err != nil {
		return err
	}
	return sdk.Shutdown(context.Background())
}

// newTracerProvider returns nil when traces are off, with an error when a variable cannot be used. report receives
// what OpenTelemetry reports later.
func newTracerProvider(ctx context.Context, name, version string, report func(error)) (*sdktrace.TracerProvider, error) {
	endpoint := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	exporters := os.Getenv("OTEL_TRACES_EXPORTER")
	if endpoint == "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || exporters == "none" {
		return nil, nil
	}
	if exporters != "" && exporters != "otlp" {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER must be otlp or none (got %q)", exporters)
	}
	if err := checkCollector(endpoint); err != nil {
		return nil, err
	}
	// The exporter reports variables that it cannot parse to OpenTelemetry's log only, and goes on with its defaults.
	problems := new(errorLog)
	otel.SetLogger(logr.New(problems))
	exporter, err := otlptracehttp.New(ctx)
	if err = errors.Join(append(problems.taken(report), err)...); err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ variables: %w", err)
	}
	// The environment's attributes come last and win.
	attributes, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", name), attribute.String("service.version", version),
	), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(report))
	attributes = resource.NewWithAttributes(attributes.SchemaURL(), validAttributes(attributes.Attributes())...)
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(validExporter{exporter}), sdktrace.WithResource(attributes)), nil
}

// checkCollector returns an error for variables that the exporter would read as its defaults without a word.
func checkCollector(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("OTEL_EXPORTER_OTLP_ENDPOINT must be a URL, as http://collector:4318")
	}
	for _, v := range []struct {
		name    string
		allowed []string
	}{
		{"PROTOCOL", []string{"http/protobuf", "http/json"}},
		{"COMPRESSION", []string{"gzip", "none"}},
	} {
		value := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_"+v.name), os.Getenv("OTEL_EXPORTER_OTLP_"+v.name))
		if value != "" && !slices.Contains(v.allowed, value) {
			return fmt.Errorf("OTEL_EXPORTER_OTLP_%s must be %s (got %q)", v.name, strings.Join(v.allowed, " or "), value)
		}
	}
	return nil
}

// An errorLog is OpenTelemetry's log. It keeps errors until taken is called, and reports them afterwards. Their
// details are left out: they can hold the value of a header.
type errorLog struct {
	mu     sync.Mutex
	kept   []error
	report func(error)
}

// taken returns the errors so far; later ones go to report.
func (l *errorLog) taken(report func(error)) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report = report
	return l.kept
}

// Error implements logr.LogSink.
func (l *errorLog) Error(err error, message string, _ ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err = fmt.Errorf("%s: %w", message, err)
	if l.report != nil {
		l.report(err)
		return
	}
	l.kept = append(l.kept, err)
}

// Init implements logr.LogSink.
func (l *errorLog) Init(logr.RuntimeInfo) {}

// Enabled implements logr.LogSink: errors only.
func (l *errorLog) Enabled(int) bool { return false }

// Info implements logr.LogSink.
func (l *errorLog) Info(int, string, ...any) {}

// WithValues implements logr.LogSink.
func (l *errorLog) WithValues(...any) logr.LogSink { return l }

// WithName implements logr.LogSink.
func (l *errorLog) WithName(string) logr.LogSink { return l }

// TraceContext reads and writes the W3C header traceparent, which carries a trace from a request to the handler of
// its event.
var TraceContext = propagation.TraceContext{}

// Tracer returns the provider's tracer of a scope, or nil when traces are off, so that a caller can save the cost of
// a span's attributes.
func Tracer(provider trace.TracerProvider, scope string) trace.Tracer {
	if _, off := provider.(noop.TracerProvider); off || provider == nil {
		return nil
	}
	return provider.Tracer(scope)
}
