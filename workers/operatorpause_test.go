package workers

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// A worker that an operator pauses is ready, says so once, receives nothing, and goes on after the pause.
func TestRun_IsReadyAndSaysSoWhileAnOperatorPausesIt(t *testing.T) {
	r := newFixture(t, Worker{}, succeed)
	logged, logs := observer.New(zap.InfoLevel)
	p := process.New("tested", zap.New(logged))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}, p, r.worker,
			func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	r.post("before")
	r.waitState("before", claims.Done)

	if err := stream.PauseWorker(t.Context(), r.JS, source, r.worker.Name, time.Time{}); err != nil {
		t.Fatal(err)
	}
	said := func(text string) int { return logs.FilterMessageSnippet(text).Len() }
	streamtest.Wait(t, func() bool { return said("paused by an operator") > 0 }, "the log to tell the pause")
	r.post("during")
	streamtest.Wait(t, func() bool { return p.Health.Ready() == nil }, "ready during the pause")
	streamtest.Wait(t, func() bool {
		pending, unacknowledged, err := streamtest.Left(t.Context(), r.JS, source.Stream(), r.worker.Name)
		return err == nil && pending == 1 && unacknowledged == 0
	}, "during the pause one event waits and none is delivered")
	if err := stream.ResumeWorker(t.Context(), r.JS, source, r.worker.Name); err != nil {
		t.Fatal(err)
	}
	r.waitState("during", claims.Done)
	streamtest.Wait(t, func() bool { return said("pause has ended") > 0 }, "the log to tell the end of the pause")
	if n := said("paused by an operator"); n != 1 {
		t.Errorf("the log tells the pause %d times; want once", n)
	}
	if n := said("pulling events failed"); n != 0 {
		t.Errorf("the log tells %d interruptions; want none", n)
	}
}
