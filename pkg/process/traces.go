package process

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// tracesFlush is the time that the last spans have to leave when the process stops.
const tracesFlush = 3 * time.Second

// traces are off, which costs nothing, unless OpenTelemetry's own variables name a collector that takes OTLP over
// HTTP: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. Sampling, headers, time-outs and the
// resource's attributes come from its variables too. What goes wrong later is in the log. flush sends what is left.
func traces(ctx context.Context, name, version string, log *zap.Logger) (provider trace.TracerProvider, flush func() error, err error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return noop.NewTracerProvider(), func() error { return nil }, nil
	}
	client, err := newOTLP()
	if err != nil {
		return nil, nil, Misconfigured(fmt.Errorf("traces: %w", err))
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, nil, fmt.Errorf("traces: %w", err)
	}
	// The environment's attributes come last, so that they win.
	of, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", name), attribute.String("service.version", version),
	), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, nil, Misconfigured(fmt.Errorf("traces: OTEL_RESOURCE_ATTRIBUTES: %w", err))
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", zap.String("error", redact(err.Error()))) }))
	sdk := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(of))
	return sdk, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracesFlush)
		defer cancel()
		return sdk.Shutdown(ctx)
	}, nil
}

// CheckTraces says what is wrong with OpenTelemetry's variables, as Misconfigured. It opens no connection.
func CheckTraces() error {
	_, flush, err := traces(context.Background(), "check", "", zap.NewNop())
	if err != nil {
		return err
	}
	return flush()
}

// TraceContext reads and writes the W3C header traceparent, by which a trace goes on from a request to the handler
// of its event.
var TraceContext = propagation.TraceContext{}

// Tracer is the provider's tracer of a scope, nil when traces are off: who asks first spares what a span would hold.
func Tracer(provider trace.TracerProvider, scope string) trace.Tracer {
	if _, off := provider.(noop.TracerProvider); off || provider == nil {
		return nil
	}
	return provider.Tracer(scope)
}
