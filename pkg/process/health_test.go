package process_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/process"
)

func newCounter() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "events_total", Help: "Events."})
}

func well(context.Context) error { return nil }

func wantReady(t *testing.T, h *process.Health) {
	t.Helper()
	if err := h.Ready(); err != nil {
		t.Errorf("Ready() = %v; want nil", err)
	}
}

func wantNotReady(t *testing.T, h *process.Health, want string) {
	t.Helper()
	if err := h.Ready(); err == nil || err.Error() != want {
		t.Errorf("Ready() = %v; want %q", err, want)
	}
}

func TestReady(t *testing.T) {
	away := errors.New("no server at 127.0.0.1:4222")

	t.Run("not before a check says so", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		wantNotReady(t, h, "process: starting")
		h.Add("keys", well)
		wantReady(t, h)
	})
	t.Run("not when one check fails, and it is named", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("keys", well)
		h.Add("nats", func(context.Context) error { return away })
		wantNotReady(t, h, "nats: no server at 127.0.0.1:4222")
	})
	t.Run("but with a warning", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("files", func(context.Context) error { return process.Warning(away) })
		wantReady(t, h)
		if process.Warning(nil) != nil || !errors.Is(process.Warning(away), away) {
			t.Error("Warning does not keep the error, or makes one of nil")
		}
	})
	t.Run("a check added again replaces the first", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("nats", func(context.Context) error { return away })
		wantNotReady(t, h, "nats: no server at 127.0.0.1:4222")
		h.Add("nats", well)
		wantReady(t, h)
	})
	t.Run("not before each part says so", func(t *testing.T) {
		p := process.New("dev", zap.NewNop())
		ingress, worker := p.Named("ingress").Health, p.Named("connections").Health
		wantNotReady(t, p.Health, "ingress: starting; connections: starting")
		ingress.Add("nats", well)
		wantNotReady(t, p.Health, "connections: starting")
		worker.Add("nats", func(context.Context) error { return away })
		wantNotReady(t, p.Health, "connections/nats: no server at 127.0.0.1:4222")
		worker.Add("nats", well)
		wantReady(t, p.Health)
	})
	t.Run("not while it drains, whatever the checks say", func(t *testing.T) {
		p := process.New("dev", zap.NewNop())
		p.Health.Add("keys", well)
		wantReady(t, p.Health)
		p.Named("ingress").Health.Drain()
		wantNotReady(t, p.Health, "process: stopping")
	})
	t.Run("a check that panics has failed", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("nats", func(context.Context) error { panic("nil map") })
		wantNotReady(t, h, "nats: panic: nil map")
	})
}

func TestManyProbesCostOne(t *testing.T) {
	h := process.New("p", zap.NewNop()).Health
	var calls atomic.Int32
	h.Add("nats", func(context.Context) error {
		calls.Add(1)
		return nil
	})
	synctest.Test(t, func(t *testing.T) {
		for range 10 {
			wantReady(t, h)
		}
		if got := calls.Load(); got != 1 {
			t.Errorf("10 probes asked %d times; want 1", got)
		}
		time.Sleep(time.Second)
		wantReady(t, h)
		if got := calls.Load(); got != 2 {
			t.Errorf("a probe a second later had asked %d times; want 2", got)
		}
	})
}

func TestProbesAtOnceShareAnAnswer(t *testing.T) {
	h := process.New("p", zap.NewNop()).Health
	var calls, running atomic.Int32
	h.Add("nats", func(context.Context) error {
		calls.Add(1)
		if running.Add(1) > 1 {
			t.Error("the check runs twice at once")
		}
		runtime.Gosched()
		running.Add(-1)
		return nil
	})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { wantReady(t, h) })
	}
	wg.Wait()
	if calls.Load() == 0 {
		t.Error("nobody asked the check")
	}
}

func TestChecksRunAtOnceAndEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		var deafCalls atomic.Int32
		wake := make(chan struct{})
		patient := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		h.Add("a", patient)
		h.Add("b", patient)
		h.Add("deaf", func(context.Context) error { deafCalls.Add(1); <-wake; return errors.New("late") })

		began := time.Now()
		err := h.Ready()
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("Ready() took %v; want 2s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "deaf: no answer within 2s") {
			t.Errorf("Ready() = %v; want the deaf check named", err)
		}
		h.Add("a", well)
		h.Add("b", well)
		wantNotReady(t, h, "deaf: no answer within 2s")
		if got := deafCalls.Load(); got != 1 {
			t.Errorf("the deaf check was asked %d times while it did not answer; want 1", got)
		}

		// What it answers at last is about the past: it is asked again.
		close(wake)
		synctest.Wait()
		h.Add("c", well)
		wantNotReady(t, h, "deaf: late")
		if got := deafCalls.Load(); got != 2 {
			t.Errorf("the deaf check was asked %d times once it had answered; want 2", got)
		}
	})
}

func TestReadyzNamesEveryCheckAndNoSecret(t *testing.T) {
	p := process.New("p", zap.NewNop())
	admin, err := p.ServeAdmin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	probe(t, admin.Addr(), "/readyz", 503, "not ready\nFAIL  process: starting\n")
	p.Health.Add("keys", well)
	p.Health.Add("nats", func(context.Context) error {
		return errors.Join(errors.New("dial nats://user:hunter2@127.0.0.1:4222: refused"), errors.New("whsec_c2VjcmV0"))
	})
	probe(t, admin.Addr(), "/readyz", 503, "not ready\nok    keys\nFAIL  nats: dial nats://…@127.0.0.1:4222: refused; whsec_…\n")
	p.Health.Add("nats", func(context.Context) error { return process.Warning(errors.New("far away")) })
	probe(t, admin.Addr(), "/readyz", 200, "ready\nok    keys\nWARN  nats: far away\n")
	probe(t, admin.Addr(), "/livez", 200, "alive")
	p.Health.Add("nats", well)
	probe(t, admin.Addr(), "/readyz", 200, "ready\nok    keys\nok    nats\n")
}
