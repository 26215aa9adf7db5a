package process

import (
	"context"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// validExporter exports spans with valid UTF-8 only. OTLP has no other text: one span with an id that another publisher
// stored, or with an error that quotes it, would otherwise lose its whole batch.
type validExporter struct{ sdktrace.SpanExporter }

// ExportSpans implements sdktrace.SpanExporter.
func (e validExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	valid := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, s := range spans {
		valid[i] = validSpan{s}
	}
	return e.SpanExporter.ExportSpans(ctx, valid)
}

// validSpan is a span whose texts have U+FFFD in the place of bytes that are not UTF-8.
type validSpan struct{ sdktrace.ReadOnlySpan }

func (s validSpan) Name() string { return validText(s.ReadOnlySpan.Name()) }

func (s validSpan) Attributes() []attribute.KeyValue {
	return validAttributes(s.ReadOnlySpan.Attributes())
}

func (s validSpan) Status() sdktrace.Status {
	status := s.ReadOnlySpan.Status()
	status.Description = validText(status.Description)
	return status
}

func (s validSpan) Events() []sdktrace.Event {
	events := slices.Clone(s.ReadOnlySpan.Events())
	for i, e := range events {
		events[i].Name, events[i].Attributes = validText(e.Name), validAttributes(e.Attributes)
	}
	return events
}

func (s validSpan) Links() []sdktrace.Link {
	links := slices.Clone(s.ReadOnlySpan.Links())
	for i, l := range links {
		links[i].Attributes = validAttributes(l.Attributes)
	}
	return links
}

func validAttributes(attributes []attribute.KeyValue) []attribute.KeyValue {
	valid := slices.Clone(attributes)
	for i, a := range valid {
		valid[i].Key, valid[i].Value = attribute.Key(validText(string(a.Key))), validValue(a.Value)
	}
	return valid
}

func validValue(v attribute.Value) attribute.Value {
	switch v.Type() {
	case attribute.STRING:
		return attribute.StringValue(validText(v.AsString()))
	case attribute.STRINGSLICE:
		texts := v.AsStringSlice()
		for i, text := range texts {
			texts[i] = validText(text)
		}
		return attribute.StringSliceValue(texts)
	case attribute.SLICE:
		values := v.AsSlice()
		for i, value := range values {
			values[i] = validValue(value)
		}
		return attribute.SliceValue(values...)
	case attribute.MAP:
		return attribute.MapValue(validAttributes(v.AsMap())...)
	}
	return v
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
