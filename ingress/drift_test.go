package ingress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// newTestDrift returns a drift, its log, and the number of events of a series by its labels.
func newTestDrift(t *testing.T) (d *drift, logs *observer.ObservedLogs, count func(metric string, labels ...string) float64) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	registry := prometheus.NewRegistry()
	return newDrift(registry, zap.New(core)), logs, func(metric string, labels ...string) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "headgate_ingress_"+metric {
				continue
			}
			for _, m := range f.GetMetric() {
				var values []string
				for _, l := range m.GetLabel() {
					values = append(values, l.GetValue())
				}
				slices.Sort(values)
				slices.Sort(labels)
				if slices.Equal(values, labels) {
					return m.GetCounter().GetValue()
				}
			}
		}
		return 0
	}
}

func TestDrift_CountsByNameAndLogsOnce(t *testing.T) {
	t.Parallel()
	d, logs, count := newTestDrift(t)
	for range 3 {
		d.compare(driftSample{"codat", "connection.connected", []byte(`{"payload":{"connection":{"region":"hidden","status":"Secret"}}}`)})
	}
	d.unknownType("codat", "teapots.boiled")
	d.compare(driftSample{"codat", "heron.read.completed", []byte(`{"more":1}`)})
	for _, want := range []struct {
		metric string
		labels []string
		n      float64
	}{
		{"unknown_fields_total", []string{"codat", "connection.connected", "payload.connection.region"}, 3},
		{"unknown_values_total", []string{"codat", "connection.connected", "payload.connection.status"}, 3},
		{"unknown_fields_total", []string{"codat", "*.read.completed", "more"}, 1},
		{"unknown_types_total", []string{"codat", "teapots.boiled"}, 1},
	} {
		if got := count(want.metric, want.labels...); got != want.n {
			t.Errorf("%s%q = %v; want %v", want.metric, want.labels, got, want.n)
		}
	}
	lines := logs.All()
	if len(lines) != 4 {
		t.Errorf("%d log lines; want one for each of 4 names", len(lines))
	}
	if text := fmt.Sprint(lines); strings.Contains(text, "hidden") || strings.Contains(text, "Secret") {
		t.Errorf("the log has a value: %s", text)
	}
}

func TestDrift_IsBounded(t *testing.T) {
	t.Parallel()
	d, logs, count := newTestDrift(t)
	for i := range 10 {
		var body strings.Builder
		for j := range 30 {
			fmt.Fprintf(&body, `"n%d_%d":1,`, i, j)
		}
		d.compare(driftSample{"codat", "company.created", []byte("{" + body.String() + `"id":"1"}`)})
	}
	if got := count("unknown_fields_total", "codat", "other", "other"); got != 100 {
		t.Errorf("%v names are counted together; want 300 less the 200 that have a series", got)
	}
	if got := count("unknown_fields_total", "codat", "company.created", "n0_0"); got != 1 || len(logs.All()) != 200 {
		t.Errorf("the first name = %v, and %d log lines; want 1 and 200", got, len(logs.All()))
	}
}

// A request must not wait for the comparison, and reuses the memory of its body.
func TestDrift_OfferNeitherBlocksNorKeepsTheBody(t *testing.T) {
	t.Parallel()
	d, _, count := newTestDrift(t)
	body := []byte(`{"early":1}`)
	d.offer("codat", "company.created", body)
	copy(body, `{"later":1}`)
	d.offer("codat", "company.created", make([]byte, maxDriftBody+1))
	for range 3 * driftBodies {
		d.offer("codat", "company.created", body)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		d.run(ctx)
		close(ended)
	}()
	of := func(name string) float64 { return count("unknown_fields_total", "codat", "company.created", name) }
	streamtest.Wait(t, func() bool { return of("later") == driftBodies-1 }, "the bodies that had a place are compared")
	d.offer("codat", "company.created", []byte(`{"last":1}`))
	streamtest.Wait(t, func() bool { return of("last") == 1 }, "memory is used again")
	cancel()
	<-ended
	if early, later := of("early"), of("later"); early != 1 || later != driftBodies-1 {
		t.Errorf("early = %v, later = %v; want 1 and %d: the rest had no place", early, later, driftBodies-1)
	}
}

// What a request pays while the goroutine is busy.
func BenchmarkDrift_Offer(b *testing.B) {
	d := newDrift(prometheus.NewRegistry(), zap.NewNop())
	body := make([]byte, 600)
	for b.Loop() {
		d.offer("codat", "company.created", body)
	}
}

func TestDrift_PanicEndsNothing(t *testing.T) {
	t.Parallel()
	d, logs, _ := newTestDrift(t)
	clear(d.shapes) // nil shapes
	d.compare(driftSample{"codat", "company.created", []byte(`{"a":1}`)})
	if n := logs.FilterMessage("comparing an event with the catalog failed").Len(); n != 1 {
		t.Errorf("%d log lines of a panic; want 1", n)
	}
}
