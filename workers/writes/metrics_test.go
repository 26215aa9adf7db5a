package writes_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/writes"
)

// The quota is that of the record, which another process may have written.
func TestWorker_CountsOverdueWritesAndShowsTheQuota(t *testing.T) {
	srv := streamtest.New(t, writes.Worker(writes.Store{}).Spec())
	run := func(check func(metric func(name string) (float64, bool))) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		p := process.New(writes.Name, zaptest.NewLogger(t))
		s := &writes.Settings{
			Settings:     workers.Settings{NATS: stream.NATS{NATSURL: srv.URL}, Source: source, Grace: 20 * time.Second},
			OverdueAfter: 50 * time.Millisecond,
		}
		go func() { ended <- writes.Run(ctx, s, p) }()
		check(func(name string) (float64, bool) {
			families, err := p.Gatherer.Gather()
			if err != nil {
				t.Error(err)
			}
			for _, f := range families {
				if f.GetName() == name {
					return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue(), true
				}
			}
			return 0, false
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	}
	is := func(metric func(string) (float64, bool), name string, want float64) {
		t.Helper()
		streamtest.Wait(t, func() bool { v, ok := metric(name); return ok && v == want }, name+" to change")
	}
	const overdue, exhausted = "headgate_writes_overdue_total", "headgate_writes_quota_exhausted"
	run(func(metric func(string) (float64, bool)) {
		is(metric, exhausted, 0)
		is(metric, overdue, 0)
		post(t, srv, "msg_1", legacy("push-1", "Pending"))
		post(t, srv, "msg_2", legacy("push-1", "Pending"))
		settled(t, srv)
		is(metric, overdue, 1)
		post(t, srv, "msg_3", `{"id":"e","eventType":"client.rateLimit.reached","payload":{"dailyQuota":1000,"quotaRemaining":0,"expiryDate":"2126-11-22T00:00:00Z"}}`)
		is(metric, exhausted, 1)
	})
	run(func(metric func(string) (float64, bool)) {
		is(metric, exhausted, 1) // since it began
		post(t, srv, "msg_4", `{"id":"e","eventType":"client.rateLimit.reset","payload":{"dailyQuota":1000,"quotaRemaining":1000,"expiryDate":"2126-11-22T00:00:00Z"}}`)
		is(metric, exhausted, 0)
	})
}
