package ingress

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/stream/streamtest"
)

func TestKeepProvisioned_MakesStreamsAgainAndSaysSo(t *testing.T) {
	t.Parallel()
	s := streamtest.Empty(t)
	registry := prometheus.NewRegistry()
	src := &source{handler: &handler{metrics: newMetrics(registry, streamtest.Source)}}
	src.Name = streamtest.Source
	logged, logs := observer.New(zap.ErrorLevel)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { keepProvisioned(ctx, s.JS, src, 10*time.Millisecond, zap.New(logged)) })
	defer running.Wait()
	defer cancel()
	exists := func(name string) bool {
		_, err := s.JS.Stream(t.Context(), name)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	remade := func() float64 {
		metrics, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metrics {
			if m.GetName() == "headgate_ingress_streams_remade_total" {
				return m.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return -1
	}
	last := "KV_" + src.Name.WorkersBucket() // provisioning makes it last
	streamtest.Wait(t, func() bool { return exists(last) }, "the streams are made")

	// The events come last: provisioning makes them first, so that it cannot make them again while it makes the dead letters.
	for i, name := range []string{src.Name.DeadStream(), src.Name.Stream()} {
		if err := s.JS.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		streamtest.Wait(t, func() bool { return exists(name) && logs.Len() > i }, name+" is made again, and a line says so")
		if got := remade(); got != float64(i+1) {
			t.Errorf("streams_remade_total = %v after %s was made again; want %d", got, name, i+1)
		}
		lines := logs.All()
		if len(lines) != i+1 || lines[i].ContextMap()["source"] != "codat" {
			t.Errorf("logged %v; want one line at error for each stream", lines)
		}
	}
}
