//go:build faults

package workers

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// NATS is away for longer than the lease after a handler's effect: when it is back, the process saves done and does not run
// the handler again.
func TestPromise5_Faults_SuccessOutlastsAnOutageLongerThanTheLease(t *testing.T) {
	var proxy *streamtest.Proxy
	cut := make(chan struct{}, 9)
	r := newFixture(t, Worker{AckWait: time.Second}, func(context.Context, write) error {
		proxy.Cut()
		cut <- struct{}{}
		return nil
	})
	proxy = streamtest.NewProxy(t, strings.TrimPrefix(r.URL, "nats://"))
	r.post("msg_1")
	r.start(func(s *Settings) { s.NATSURL = proxy.URL() })
	<-cut
	waitFor(t, time.Minute, func() bool {
		return time.Now().After(r.record(claims.Key{WebhookID: "msg_1"}).LeaseUntil.Add(claims.ClockSkew + time.Second))
	})
	proxy.Heal()
	waitFor(t, time.Minute, func() bool { return r.state("msg_1") == claims.Done })
	r.waitQuiet()
	if runs, successes := r.attempts("msg_1"); runs != 1 || successes != 1 {
		t.Errorf("%d runs, %d successes; want one of each", runs, successes)
	}
}

// What NATS could not be told before the process had to end is no fault of a handler that returned.
func TestPromise7_Faults_StopWithoutNATSBlamesNoHandler(t *testing.T) {
	var proxy *streamtest.Proxy
	started := make(chan struct{}, 9)
	r := newFixture(t, Worker{Concurrency: 2}, func(ctx context.Context, e write) error {
		started <- struct{}{}
		if e.WebhookID == "msg_waits" {
			<-ctx.Done()
			return ctx.Err()
		}
		proxy.Mute()
		return nil
	})
	proxy = streamtest.NewProxy(t, strings.TrimPrefix(r.URL, "nats://"))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		s := Settings{NATS: stream.NATS{NATSURL: proxy.URL()}, Source: source, Grace: time.Millisecond}
		ended <- Run(ctx, s, process.New("tested", zaptest.NewLogger(t)), r.worker, func(context.Context, Parts) (Worker, error) { return r.worker, nil })
	}()
	r.post("msg_waits")
	<-started
	r.post("msg_done")
	<-started
	stop()
	// Nil when it could return what it had in flight, which depends on what was under way.
	if err := <-ended; err != nil && !strings.Contains(err.Error(), "NATS or the claims did not answer") {
		t.Errorf("Run = %v; want it to blame NATS or nothing", err)
	}
}
