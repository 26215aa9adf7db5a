//go:build faults

package workers

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

// Two versions of a worker share its consumer in a rollout, and in a rollback. What only one of them handles waits
// for it.
func TestRun_Faults_TwoVersionsShareConsumer(t *testing.T) {
	var v1, v2 atomic.Int64
	v1Only := Handle(codat.AnyWriteSuccessful, func(context.Context, write) error { v1.Add(1); return nil })
	both := []Handler{
		Handle(codat.AnyWriteSuccessful, func(context.Context, write) error { v2.Add(1); return nil }),
		Handle(codat.CompanyCreated, func(context.Context, codat.Event[codat.Company]) error { v2.Add(1); return nil }),
	}
	r := newFixture(t, Worker{Attempts: 1}, succeed)
	r.worker.Handlers = []Handler{v1Only}
	stopV1 := r.start()
	r.postAll("msg_before", 50)

	// The rollout: provision first, then the new version beside the old one, then the old one goes.
	next := r.worker
	next.Handlers = both
	streamtest.Provision(t, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{next.Spec()}})
	r.worker = next
	stopV2 := r.start()
	for i := range 20 {
		r.postType(fmt.Sprintf("msg_new_%d", i), "company.created")
	}
	r.postAll("msg_during", 50)
	if err := stopV1(); err != nil {
		t.Error(err)
	}
	for i := range 20 {
		waitFor(t, 2*time.Minute, func() bool { return r.state(fmt.Sprintf("msg_new_%d", i)) == claims.Done })
	}

	// The rollback: the old version binds to the wider consumer.
	r.worker.Handlers = []Handler{v1Only}
	r.start()
	if err := stopV2(); err != nil {
		t.Error(err)
	}
	r.postAll("msg_after", 50)
	r.waitQuiet()
	for _, id := range []string{"before", "during", "after"} {
		for i := range 50 {
			if rec := r.record(claims.Key{WebhookID: fmt.Sprintf("msg_%s_%d", id, i)}); rec.State != claims.Done || rec.Attempts != 1 {
				t.Errorf("msg_%s_%d is %s after %d attempts; want done after 1", id, i, rec.State, rec.Attempts)
			}
		}
	}
	if total := v1.Load() + v2.Load(); total != 170 || v1.Load() == 0 || v2.Load() < 20 {
		t.Errorf("handled %d by the old and %d by the new version; want 170 together", v1.Load(), v2.Load())
	}
}

// 20,000 is what the parked consumer may have pending at once. Meanwhile new events have all slots of the worker, the lag
// that an autoscaler reads is what new events wait, and the parked ones cost nothing: none is delivered before its time.
func TestWait_Faults_NewEventsPass20000ParkedOnes(t *testing.T) {
	const many, fresh = 20_000, 2000
	var running atomic.Int64
	open := make(chan struct{})
	r := newFixture(t, Worker{Concurrency: 64, ParkAfter: 30 * time.Minute}, func(_ context.Context, e write) error {
		if strings.HasPrefix(e.WebhookID, "msg_slow") {
			return RetryAfter(time.Hour, errBoom)
		}
		running.Add(1)
		defer running.Add(-1)
		<-open
		return nil
	})
	r.postAll("msg_slow", many)
	r.start()
	info := func(st string) *jetstream.ConsumerInfo {
		t.Helper()
		c, err := r.JS.Consumer(context.Background(), st, "tested")
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo()
	}
	// lag is what deploy/k8s has KEDA read: what the worker was not given yet, and what it works on.
	lag := func() int {
		events := info(source.Stream())
		return int(events.NumPending) + events.NumAckPending
	}
	parkedNow := func() int { return info(source.ParkedStream()).NumAckPending }
	waitFor(t, 2*time.Minute, func() bool { return parkedNow() == many && lag() == 0 })

	r.postAll("msg_new", fresh)
	waitFor(t, 2*time.Minute, func() bool { return running.Load() == int64(r.worker.Concurrency) })
	if got := lag(); got != fresh {
		t.Errorf("the lag that an autoscaler reads is %d; want the %d events that wait, and none of the %d parked ones", got, fresh, many)
	}
	close(open)
	waitFor(t, 2*time.Minute, func() bool { return lag() == 0 })

	store := r.claims()
	state := func(id string) claims.Record {
		t.Helper()
		rec, err := store.Get(context.Background(), claims.Key{WebhookID: id})
		if err != nil {
			t.Fatalf("the claim of %s: %v", id, err)
		}
		return rec
	}
	for i := range fresh {
		if rec := state(fmt.Sprintf("msg_new_%d", i)); rec.State != claims.Done || rec.Attempts != 1 {
			t.Errorf("msg_new_%d is %s after %d attempts; want done after 1", i, rec.State, rec.Attempts)
		}
	}
	for i := 0; i < many; i += 100 {
		if rec := state(fmt.Sprintf("msg_slow_%d", i)); rec.State != claims.Parked || rec.Attempts != 1 {
			t.Errorf("msg_slow_%d is %s after %d attempts; want it parked after 1", i, rec.State, rec.Attempts)
		}
	}
	if got := parkedNow(); got != many {
		t.Errorf("%d events are parked; want all %d still", got, many)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.runs) != many+fresh {
		t.Errorf("the handler ran %d times; want once for each of %d events", len(r.runs), many+fresh)
	}
	// Each is delivered when it is parked, and is put off until its time. A few may come again whose answer was late.
	if got := info(source.ParkedStream()).Delivered.Consumer; got < many || got > many+many/100 {
		t.Errorf("parked events were delivered %d times; want each of %d once", got, many)
	}
}
