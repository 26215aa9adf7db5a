package workers

import (
	"context"
	"errors"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// bareError panics in every method.
type bareError struct{ text *string }

func (e bareError) Error() string { return *e.text }
func (e bareError) Unwrap() error { return errors.New(*e.text) }

func TestPromise6_WhateverAHandlerDoesIsAnOutcome(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"Goexit", func() error { runtime.Goexit(); return nil }},
		{"panic", func() error { panic("boom") }},
		{"panic with nil", func() error { panic(nil) }},
		{"nil pointer as error", func() error { var e *url.Error; return e }},
		{"error that panics", func() error { return Permanent(bareError{}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var runs atomic.Int64
			r := newFixture(t, Worker{Key: func(codat.Event[struct{}]) string { return "one" }, Concurrency: 1}, func(context.Context, write) error {
				if runs.Add(1) == 1 {
					return tt.do()
				}
				return nil
			})
			w := r.startObserved()
			for _, id := range []string{"msg_1", "msg_2"} {
				r.post(id)
			}
			for _, id := range []string{"msg_1", "msg_2"} {
				r.waitState(id, claims.Done)
			}
			r.waitQuiet()
			if n := runs.Load(); n != 3 {
				t.Errorf("%d runs; want 3: two of the event whose handler failed", n)
			}
			if got := w.value("headgate_worker_running"); got != 0 {
				t.Errorf("the metric says that %v handlers run; want 0", got)
			}
		})
	}
}

// A handler that ends its goroutine in a probe does not stop the worker.
func TestPromise6_ProbeOutlivesAHandlerThatEndsItsGoroutine(t *testing.T) {
	var state atomic.Int32 // 0: unavailable, 1: Goexit, 2: fine
	r := newFixture(t, Worker{}, func(context.Context, write) error {
		switch state.Load() {
		case 0:
			return Unavailable(errBoom)
		case 1:
			state.Store(2)
			runtime.Goexit()
		}
		return nil
	})
	w := r.startObserved()
	ids := []string{"msg_1", "msg_2", "msg_3"}
	for _, id := range ids {
		r.post(id)
	}
	w.waitPaused()
	state.Store(1)
	for _, id := range ids {
		r.waitState(id, claims.Done)
	}
}

// A handler that ignores its context is named, gives its slot back after a while, and its attempt counts as a crash.
func TestPromise6_HandlerThatIgnoresItsContextIsAbandoned(t *testing.T) {
	never := make(chan struct{})
	p := quickPauses
	p.stuck, p.abandon = 20*time.Millisecond, 2*time.Second
	r := newFixture(t, Worker{Concurrency: 1, Attempts: 1, Timeout: 20 * time.Millisecond, pauses: p}, func(_ context.Context, e write) error {
		if e.WebhookID == "msg_stuck" {
			<-never
		}
		return nil
	})
	w := r.startObserved()
	r.post("msg_stuck")
	r.waitState("msg_stuck", claims.Dead)
	r.post("msg_next")
	r.waitState("msg_next", claims.Done)
	if letters := r.letters(); len(letters) != 1 || letters[0].Cause != CauseCrash || !strings.Contains(letters[0].LastError, "did not return") {
		t.Errorf("letters %+v; want one with cause %s", letters, CauseCrash)
	}
	if got := w.value("headgate_worker_stuck_handlers"); got != 1 {
		t.Errorf("the metric says that %v handlers are stuck; want 1", got)
	}
	// On a slow machine msg_next can take longer than its context for a moment too.
	if n := w.lines.FilterMessageSnippet("does not return although its context has ended").FilterField(zap.String("id", "msg_stuck")).Len(); n != 1 {
		t.Errorf("%d lines name the handler; want 1", n)
	}
	streamtest.Wait(t, func() bool { return w.process.Health.Ready() == nil }, "ready with a warning")
	close(never)
	streamtest.Wait(t, func() bool { return w.value("headgate_worker_stuck_handlers") == 0 }, "the handler to be forgotten")
}
