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

func healthy(context.Context) error { return nil }

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

func TestHealth_Ready(t *testing.T) {
	t.Parallel()
	away := errors.New("no server at 127.0.0.1:4222")

	t.Run("not ready before a check", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		wantNotReady(t, h, "process: starting")
		h.Add("keys", healthy)
		wantReady(t, h)
	})
	t.Run("not ready with a failed check, which is named", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("keys", healthy)
		h.Add("nats", func(context.Context) error { return away })
		wantNotReady(t, h, "nats: no server at 127.0.0.1:4222")
	})
	t.Run("ready with a warning", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("files", func(context.Context) error { return process.Warning(away) })
		wantReady(t, h)
		if process.Warning(nil) != nil || !errors.Is(process.Warning(away), away) {
			t.Error("Warning does not keep the error, or makes one of nil")
		}
	})
	t.Run("second check of a name replaces the first", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("nats", func(context.Context) error { return away })
		wantNotReady(t, h, "nats: no server at 127.0.0.1:4222")
		h.Add("nats", healthy)
		wantReady(t, h)
	})
	t.Run("not ready before every part", func(t *testing.T) {
		p := process.New("dev", zap.NewNop())
		ingress, worker := p.Named("ingress").Health, p.Named("connections").Health
		wantNotReady(t, p.Health, "ingress: starting; connections: starting")
		ingress.Add("nats", healthy)
		wantNotReady(t, p.Health, "connections: starting")
		worker.Add("nats", func(context.Context) error { return away })
		wantNotReady(t, p.Health, "connections/nats: no server at 127.0.0.1:4222")
		worker.Add("nats", healthy)
		wantReady(t, p.Health)
	})
	t.Run("not ready while it drains", func(t *testing.T) {
		p := process.New("dev", zap.NewNop())
		p.Health.Add("keys", healthy)
		wantReady(t, p.Health)
		p.Named("ingress").Health.Drain()
		wantNotReady(t, p.Health, "process: stopping")
	})
	t.Run("check that panics has failed", func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		h.Add("nats", func(context.Context) error { panic("nil map") })
		wantNotReady(t, h, "nats: panic: nil map")
	})
}

func TestHealth_UsesResultsForASecond(t *testing.T) {
	t.Parallel()
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
			t.Errorf("10 probes ran the check %d times; want 1", got)
		}
		time.Sleep(time.Second)
		wantReady(t, h)
		if got := calls.Load(); got != 2 {
			t.Errorf("after a second the check has run %d times; want 2", got)
		}
	})
}

func TestHealth_ConcurrentProbesShareResults(t *testing.T) {
	t.Parallel()
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
		t.Error("the check did not run")
	}
}

func TestHealth_ChecksRunTogetherWithinTheirTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := process.New("p", zap.NewNop()).Health
		var stuckCalls atomic.Int32
		release := make(chan struct{})
		slow := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		h.Add("a", slow)
		h.Add("b", slow)
		h.Add("stuck", func(context.Context) error { stuckCalls.Add(1); <-release; return errors.New("late") })

		began := time.Now()
		err := h.Ready()
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("Ready() took %v; want 2s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "stuck: no answer within 2s") {
			t.Errorf("Ready() = %v; want the stuck check named", err)
		}
		h.Add("a", healthy)
		h.Add("b", healthy)
		wantNotReady(t, h, "stuck: no answer within 2s")
		if got := stuckCalls.Load(); got != 1 {
			t.Errorf("the stuck check ran %d times before it returned; want 1", got)
		}

		// Its late result is out of date, and it runs again.
		close(release)
		synctest.Wait()
		h.Add("c", healthy)
		wantNotReady(t, h, "stuck: late")
		if got := stuckCalls.Load(); got != 2 {
			t.Errorf("the stuck check ran %d times after it had returned; want 2", got)
		}
	})
}

func TestAdmin_ReadyzNamesEveryCheckAndNoSecret(t *testing.T) {
	t.Parallel()
	p := process.New("p", zap.NewNop())
	admin, err := p.ServeAdmin("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	probe(t, admin.Addr(), "/readyz", 503, "not ready\nFAIL  process: starting\n")
	p.Health.Add("keys", healthy)
	p.Health.Add("nats", func(context.Context) error {
		return errors.Join(errors.New("dial nats://user:hunter2@127.0.0.1:4222: refused"), errors.New("whsec_c2VjcmV0"))
	})
	probe(t, admin.Addr(), "/readyz", 503, "not ready\nok    keys\nFAIL  nats: dial nats://…@127.0.0.1:4222: refused; whsec_…\n")
	p.Health.Add("nats", func(context.Context) error { return process.Warning(errors.New("far away")) })
	probe(t, admin.Addr(), "/readyz", 200, "ready\nok    keys\nWARN  nats: far away\n")
	probe(t, admin.Addr(), "/livez", 200, "alive")
	p.Health.Add("nats", healthy)
	probe(t, admin.Addr(), "/readyz", 200, "ready\nok    keys\nok    nats\n")
}
