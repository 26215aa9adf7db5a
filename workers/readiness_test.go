package workers

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// running runs the fixture's worker, which may end with an error.
func (r *fixture) running() (p *process.Process, ended chan error) {
	r.Helper()
	p, ended = process.New("tested", zaptest.NewLogger(r)), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- Run(ctx, Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source}, p, r.worker,
			func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	r.Cleanup(func() {
		cancel()
		<-done
	})
	return p, ended
}

func TestRun_EndsWhenItsStreamIsDeleted(t *testing.T) {
	for _, name := range []string{source.Stream(), source.ParkedStream()} {
		t.Run(name, func(t *testing.T) {
			r := newFixture(t, Worker{}, succeed)
			_, ended := r.running()
			r.post("msg_1")
			r.waitState("msg_1", claims.Done)
			if err := r.JS.DeleteStream(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, stream.ErrNotProvisioned) || !strings.Contains(err.Error(), "run headgate provision") {
				t.Errorf("Run = %v; want ErrNotProvisioned and the cure", err)
			}
		})
	}
}

// A paused worker asks for nothing for up to half a minute, and is told of nothing.
func TestRun_EndsWhenItsConsumerIsDeletedDuringAPause(t *testing.T) {
	r := newFixture(t, Worker{}, func(context.Context, write) error { return Unavailable(errBoom) })
	p, ended := r.running()
	for _, id := range []string{"msg_1", "msg_2", "msg_3"} {
		r.post(id)
	}
	streamtest.Wait(t, func() bool {
		metrics, err := p.Gatherer.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metrics {
			if m.GetName() == "headgate_worker_paused_seconds" {
				return m.GetMetric()[0].GetGauge().GetValue() > 0
			}
		}
		return false
	}, "the worker pauses")
	if err := r.JS.DeleteConsumer(t.Context(), source.Stream(), "tested"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, stream.ErrNotProvisioned) {
		t.Errorf("Run = %v; want ErrNotProvisioned", err)
	}
}

// What it needs is taken away one by one, the connection to NATS and the permission to pull have tests of their own.
func TestReadiness_AsksForEverythingThatTheWorkerNeeds(t *testing.T) {
	for _, tt := range []struct {
		check string
		take  func(context.Context, jetstream.JetStream) error
	}{
		{"claims", func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteKeyValue(ctx, source.ClaimsBucket("tested"))
		}},
		{"state books", func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteKeyValue(ctx, source.StateBucket("books"))
		}},
		{"events", func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteConsumer(ctx, source.Stream(), "tested")
		}},
		{"parked", func(ctx context.Context, js jetstream.JetStream) error {
			return js.DeleteConsumer(ctx, source.ParkedStream(), "tested")
		}},
	} {
		t.Run(tt.check, func(t *testing.T) {
			r := newFixture(t, Worker{State: []string{"books"}}, succeed)
			p := process.New("tested", zaptest.NewLogger(t))
			runner := r.runner(&crashingProcess{})
			runner.nc = r.NC
			consumer := func(stream string) jetstream.Consumer {
				c, err := r.JS.Consumer(t.Context(), stream, "tested")
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			runner.addChecks(p.Health, r.JS, consumer(source.Stream()), consumer(source.ParkedStream()))
			streamtest.Wait(t, func() bool { return p.Health.Ready() == nil }, "ready with everything in place")
			if err := tt.take(t.Context(), r.JS); err != nil {
				t.Fatal(err)
			}
			streamtest.Wait(t, func() bool {
				err := p.Health.Ready()
				return err != nil && strings.HasPrefix(err.Error(), tt.check+": ")
			}, "unready for "+tt.check)
		})
	}
}

func TestReadiness_RemembersARefusedDeadLetter(t *testing.T) {
	r := newFixture(t, Worker{}, func(context.Context, write) error { return Permanent(errBoom) })
	p := process.New("tested", zaptest.NewLogger(t))
	runner := r.runner(&crashingProcess{})
	runner.nc = r.NC
	now := time.Now()
	runner.now = func() time.Time { return now }
	dead, err := r.JS.Stream(t.Context(), source.DeadStream())
	if err != nil {
		t.Fatal(err)
	}
	cfg := dead.CachedInfo().Config
	cfg.MaxMsgSize = 1
	if _, err := r.JS.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	events, err := r.JS.Consumer(t.Context(), source.Stream(), "tested")
	if err != nil {
		t.Fatal(err)
	}
	runner.addChecks(p.Health, r.JS, events, events)
	r.post("msg_1")
	if got := runner.deliver(r.next(source.Stream())); got != retry {
		t.Fatalf("deliver = %s; want retry, because the dead letter is refused", got)
	}
	if err := p.Health.Ready(); err == nil || !strings.Contains(err.Error(), "dead letters: ") {
		t.Errorf("Ready = %v; want the dead letters named", err)
	}
	now = now.Add(refusalTTL)
	streamtest.Wait(t, func() bool { return p.Health.Ready() == nil }, "ready again after a while without dead letters")
}
