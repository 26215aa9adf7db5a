package audit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/audit"
	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const source = streamtest.Source

// A testBroker is a broker and a worker named tested, whose handler does what the webhook-id begins with.
type testBroker struct {
	testing.TB
	*streamtest.Server
	worker    workers.Worker
	publisher *stream.Publisher
	at        sync.Map // sequences by id
}

func newTestBroker(t testing.TB, change ...func(*workers.Worker)) *testBroker {
	t.Helper()
	r := &testBroker{TB: t, worker: workers.Worker{Name: "tested", Begin: stream.BeginAll(), Handlers: []workers.Handler{
		workers.Handle(codat.AnyWriteSuccessful, func(_ context.Context, e codat.Event[codat.Write]) error {
			boom := errors.New("boom")
			switch kind, _, _ := strings.Cut(e.WebhookID, "_"); kind {
			case "dead":
				return workers.Permanent(boom)
			case "wait":
				return workers.RetryAfter(50*time.Second, boom)
			case "park":
				return workers.RetryAfter(time.Hour, boom)
			case "again":
				if e.Attempt < 3 {
					return workers.RetryAfter(20*time.Millisecond, boom)
				}
			case "repark":
				if e.Attempt < 2 {
					return workers.RetryAfter(20*time.Millisecond, boom)
				}
			}
			return nil
		}),
	}}}
	for _, c := range change {
		c(&r.worker)
	}
	r.Server = streamtest.New(t, r.worker.Spec())
	var err error
	if r.publisher, err = stream.NewPublisher(r.NC, stream.PublisherOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.publisher.Close)
	return r
}

// work runs the worker until stop is called or the test ends.
func (r *testBroker) work() (stop func()) {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		s := workers.Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: source, Grace: 30 * time.Second}
		ended <- workers.Run(ctx, s, process.New("tested", zap.NewNop()), r.worker, func(context.Context, workers.Parts) (workers.Worker, error) { return r.worker, nil })
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Errorf("Run = %v", err)
		}
	})
	r.Cleanup(stop)
	return stop
}

func (r *testBroker) store(e stream.Stored) {
	r.Helper()
	e.Received = time.Now()
	m, err := source.Message(e, []byte(`{"payload":{}}`))
	if err != nil {
		r.Fatal(err)
	}
	ack, err := r.JS.PublishMsg(context.Background(), m)
	if err != nil {
		r.Fatal(err)
	}
	r.at.Store(e.ID, ack.Sequence)
}

// post stores events of the worker's type.
func (r *testBroker) post(ids ...string) {
	r.Helper()
	for _, id := range ids {
		r.store(stream.Stored{ID: id, Head: codat.Head{Type: "invoices.write.successful"}})
	}
}

func (r *testBroker) bucket() jetstream.KeyValue {
	r.Helper()
	kv, err := r.JS.KeyValue(context.Background(), source.ClaimsBucket("tested"))
	if err != nil {
		r.Fatal(err)
	}
	return kv
}

// claim is where an id stands; "" without a claim.
func (r *testBroker) claim(id string) claims.Record {
	r.Helper()
	record, err := claims.NewKV(r.bucket(), r.publisher, nil).Get(context.Background(), claims.Key{WebhookID: id})
	if err != nil && !errors.Is(err, claims.ErrNoClaim) {
		r.Fatal(err)
	}
	return record
}

// quiet waits until the worker's consumer has nothing to deliver and waits for so many acks.
func (r *testBroker) quiet(acks int) {
	r.Helper()
	streamtest.Wait(r, func() bool {
		pending, unacknowledged, err := streamtest.Left(context.Background(), r.JS, source.Stream(), "tested")
		return err == nil && pending == 0 && unacknowledged == acks
	}, "the worker to be done with everything")
}

func (r *testBroker) audit(change ...func(*audit.Audit)) audit.Report {
	r.Helper()
	a := audit.Audit{JS: r.JS, Source: source, Settle: 50 * time.Millisecond}
	for _, c := range change {
		c(&a)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	report, err := a.Run(ctx)
	if err != nil {
		r.Fatalf("Run() = %v", err)
	}
	return report
}

// finds audits, and reports exceptions that are not as wanted: the kind, and the id where there is one.
func (r *testBroker) finds(want ...string) audit.Report {
	r.Helper()
	report := r.audit()
	var got []string
	for _, e := range report.Exceptions {
		got = append(got, strings.TrimSpace(string(e.Kind)+" "+e.WebhookID))
		if e.Detail == "" {
			r.Errorf("the exception %+v says nothing", e)
		}
	}
	if !slices.Equal(got, want) {
		r.Errorf("the audit finds %q; want %q\n%+v", got, want, report)
	}
	return report
}

// counts reports a worker's numbers that are not as wanted.
func (r *testBroker) counts(report audit.Report, want audit.Worker) {
	r.Helper()
	got := report.Workers[0]
	want.Name, got.Retries = "tested", nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		r.Errorf("the audit counts %+v; want %+v", got, want)
	}
}

// everything has an event in every standing but to come.
func everything(t testing.TB) *testBroker {
	r := newTestBroker(t)
	r.post("done_1", "dead_1", "park_1", "again_1", "done_2", "wait_1")
	r.store(stream.Stored{ID: "other_1", Head: codat.Head{Type: "connection.connected"}})
	r.store(stream.Stored{ID: "odd_1", Quarantine: "not JSON"})
	stop := r.work()
	r.quiet(1)
	stop()
	return r
}

// redrive gives an event to the worker again.
func (r *testBroker) redrive(id, redrive string) {
	r.Helper()
	st, err := r.JS.Stream(context.Background(), source.Stream())
	if err != nil {
		r.Fatal(err)
	}
	at, _ := r.at.Load(id)
	m, err := st.GetMsg(context.Background(), at.(uint64))
	if err != nil {
		r.Fatal(err)
	}
	_, err = deadletter.Redriver{JS: r.JS, Publisher: r.publisher, Source: source}.Redrive(context.Background(), redrive, deadletter.Letter{
		Worker: "tested", Type: source.TypeOf(m.Subject), WebhookID: id, Sequence: m.Sequence, Header: m.Header, Body: m.Data,
	})
	if err != nil {
		r.Fatal(err)
	}
}

// key is an id's key in the claims.
func claimKey(id, redrive string) string {
	return claims.Key{WebhookID: id, Redrive: redrive}.String()
}

func TestAudit_FindsNothingInCleanSystem(t *testing.T) {
	t.Parallel()
	r := everything(t)
	report := r.finds()
	r.counts(report, audit.Worker{Events: 6, Done: 3, Dead: 1, Parked: 1, Waiting: 1})
	if report.Stored != 7 || len(report.Quarantined) != 1 || report.Quarantined[0].Reason != "not JSON" || report.Quarantined[0].WebhookID != "odd_1" {
		t.Errorf("%d are stored and %+v quarantined; want 7, and odd_1 because it is not JSON", report.Stored, report.Quarantined)
	}
	waits := report.Workers[0].Retries
	if len(waits) != 2 || waits[0].WebhookID != "park_1" || waits[0].State != audit.Parked || waits[0].Attempts != 1 || time.Until(waits[0].Next) < 30*time.Minute ||
		waits[1].WebhookID != "wait_1" || waits[1].State != audit.Waiting || waits[1].Next.IsZero() {
		t.Errorf("there wait %+v; want park_1 and wait_1, with attempt and next time", waits)
	}
	r.post("done_3")
	r.counts(r.finds(), audit.Worker{Events: 7, Done: 3, Dead: 1, Parked: 1, Waiting: 1, ToCome: 1})
	if since := r.audit(func(a *audit.Audit) { a.Since = time.Now().Add(time.Minute) }); since.Stored != 0 || len(since.Exceptions) > 0 {
		t.Errorf("since the future it finds %+v; want nothing", since)
	}
}

func TestAudit_AcceptsWorkerWithoutEvents(t *testing.T) {
	t.Parallel()
	r := newTestBroker(t)
	r.counts(r.finds(), audit.Worker{})
	r.post("done_1")
	r.counts(r.finds(), audit.Worker{Events: 1, ToCome: 1})
	empty := audit.Audit{JS: streamtest.New(t).JS, Source: source}
	if got, err := empty.Run(t.Context()); err != nil || len(got.Workers) > 0 {
		t.Errorf("Run without workers = %+v, %v; want no workers", got, err)
	}
	a := audit.Audit{JS: r.JS, Source: source, Workers: []string{"nobody"}}
	if _, err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "provisioned workers: tested") {
		t.Errorf("Run() of a worker that is not provisioned = %v; want the names of those that are", err)
	}
}

func TestAudit_FindsEachPlantedException(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	check := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// put overwrites a claim.
	put := func(t *testing.T, r *testBroker, id, record string) {
		t.Helper()
		_, err := r.bucket().Put(ctx, claimKey(id, ""), []byte(record))
		check(t, err)
	}
	purge := func(t *testing.T, r *testBroker, name string, opts ...jetstream.StreamPurgeOpt) {
		t.Helper()
		st, err := r.JS.Stream(ctx, name)
		check(t, err)
		check(t, st.Purge(ctx, opts...))
	}
	tests := []struct {
		name  string
		plant func(*testing.T, *testBroker)
		want  []string
	}{
		{"a claim is deleted after the ack", func(t *testing.T, r *testBroker) { check(t, r.bucket().Delete(ctx, claimKey("done_2", ""))) }, []string{"skipped done_2"}},
		{"a claim is purged after the ack", func(t *testing.T, r *testBroker) { check(t, r.bucket().Purge(ctx, claimKey("done_1", ""))) }, []string{"skipped done_1"}},
		{"the bucket is emptied", func(t *testing.T, r *testBroker) { purge(t, r, "KV_"+source.ClaimsBucket("tested")) }, []string{"no-claims"}},
		{"a letter is missing", func(t *testing.T, r *testBroker) { purge(t, r, source.DeadStream()) }, []string{"no-letter dead_1"}},
		{"a parked copy is missing", func(t *testing.T, r *testBroker) { purge(t, r, source.ParkedStream()) }, []string{"no-copy park_1"}},
		{"an event is done and dead", func(t *testing.T, r *testBroker) {
			check(t, deadletter.Bury(ctx, r.publisher, source, deadletter.Letter{
				Worker: "tested", Type: "invoices.write.successful", WebhookID: "done_1", Sequence: 1, Cause: "attempts",
				Header: nats.Header{stream.HeaderWebhookID: {"done_1"}},
			}))
		}, []string{"done-and-dead done_1"}},
		{"a claim waits, and its event is acknowledged", func(t *testing.T, r *testBroker) {
			put(t, r, "done_1", `{"state":"waiting","seq":1,"attempts":2}`)
		}, []string{"stranded done_1"}},
		{"a claim runs for ever, and its event is acknowledged", func(t *testing.T, r *testBroker) {
			put(t, r, "done_1", `{"state":"running","seq":1,"attempts":2}`)
		}, []string{"stranded done_1"}},
		{"a claim is in a state of another version", func(t *testing.T, r *testBroker) {
			put(t, r, "done_1", `{"state":"dreaming","seq":1}`)
		}, []string{"unknown-state done_1"}},
		{"a claim is no JSON", func(t *testing.T, r *testBroker) { put(t, r, "done_1", `{`) }, []string{"unknown-state done_1"}},
		{"the stream drops an event that waits", func(t *testing.T, r *testBroker) { purge(t, r, source.Stream()) }, []string{"expired"}},
		{"the stream drops one event only, and it waits", func(t *testing.T, r *testBroker) {
			st, err := r.JS.Stream(ctx, source.Stream())
			check(t, err)
			check(t, st.DeleteMsg(ctx, r.claim("wait_1").Sequence))
		}, []string{"expired"}},
		{"the consumer takes more types than when it passed them", func(t *testing.T, r *testBroker) {
			plan := r.worker.Spec()
			plan.Types = append(plan.Types, "connection.connected")
			streamtest.Provision(t, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{plan}})
		}, []string{"skipped other_1"}},
		{"the consumer was made again, beginning with new events", func(t *testing.T, r *testBroker) {
			old, err := r.JS.Consumer(ctx, source.Stream(), "tested")
			check(t, err)
			check(t, r.JS.DeleteConsumer(ctx, source.Stream(), "tested"))
			r.post("done_3")
			config := old.CachedInfo().Config
			config.DeliverPolicy = jetstream.DeliverNewPolicy
			_, err = r.JS.CreateConsumer(ctx, source.Stream(), config)
			check(t, err)
		}, []string{"stranded wait_1", "skipped done_3"}},
		{"an event was acknowledged while an older one waits", func(t *testing.T, r *testBroker) {
			r.post("done_3")
			c, err := r.JS.Consumer(ctx, source.Stream(), "tested")
			check(t, err)
			m, err := c.Next(jetstream.FetchMaxWait(30 * time.Second))
			check(t, err)
			check(t, m.DoubleAck(ctx))
		}, []string{"acknowledged"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := everything(t)
			tt.plant(t, r)
			r.finds(tt.want...)
		})
	}
}

func TestAudit_JudgesByNewestRedrive(t *testing.T) {
	t.Parallel()
	r := newTestBroker(t)
	r.post("done_1")
	r.redrive("done_1", "monday")
	stop := r.work()
	r.quiet(0)
	stop()
	r.counts(r.finds(), audit.Worker{Events: 1, Done: 1})
	if err := r.bucket().Delete(context.Background(), claimKey("done_1", "")); err != nil {
		t.Fatal(err)
	}
	r.finds()
	if err := r.bucket().Delete(context.Background(), claimKey("done_1", "monday")); err != nil {
		t.Fatal(err)
	}
	r.finds("no-claims")
}

func TestAudit_AcceptsUnusualStates(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("what was stored before the worker", func(t *testing.T) {
		r := &testBroker{TB: t, Server: streamtest.New(t)}
		r.post("done_1")
		plan := workers.Worker{Name: "tested", Handlers: []workers.Handler{workers.Handle(codat.AnyWriteSuccessful, nil)}}.Spec()
		streamtest.Provision(t, r.JS, stream.Layout{Source: source, Workers: []stream.WorkerSpec{plan}})
		r.post("done_2")
		r.counts(r.finds(), audit.Worker{Events: 1, ToCome: 1})
	})
	t.Run("what the stream dropped after its end", func(t *testing.T) {
		r := newTestBroker(t)
		r.post("done_1", "dead_1", "park_1")
		stop := r.work()
		r.quiet(0)
		stop()
		st, err := r.JS.Stream(ctx, source.Stream())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Purge(ctx); err != nil {
			t.Fatal(err)
		}
		r.counts(r.finds(), audit.Worker{Events: 1, Parked: 1})
	})
	t.Run("what went wrong and was given again since", func(t *testing.T) {
		r := everything(t)
		if err := r.bucket().Delete(ctx, claimKey("done_1", "")); err != nil {
			t.Fatal(err)
		}
		r.redrive("done_1", "monday")
		r.redrive("dead_1", "monday")
		r.counts(r.finds(), audit.Worker{Events: 6, Done: 2, Parked: 1, Waiting: 1, ToCome: 2})
		stop := r.work()
		r.quiet(1)
		stop()
		r.counts(r.finds(), audit.Worker{Events: 6, Done: 3, Dead: 1, Parked: 1, Waiting: 1})
	})
	t.Run("an idle worker whose last event is long gone", func(t *testing.T) {
		r := newTestBroker(t)
		for i := range 20 {
			r.store(stream.Stored{ID: fmt.Sprintf("other_%d", i), Head: codat.Head{Type: "connection.connected"}})
		}
		st, err := r.JS.Stream(ctx, source.Stream())
		if err != nil {
			t.Fatal(err)
		}
		// As the retention does it: a purge would tell the consumer.
		for sequence := range uint64(15) {
			if err := st.DeleteMsg(ctx, sequence+1); err != nil {
				t.Fatal(err)
			}
		}
		r.post("done_1")
		r.counts(r.finds(), audit.Worker{Events: 1, ToCome: 1})
	})
}

// A worker that stands still while the stream drops what it has not seen.
func TestAudit_FindsWorkerThatStreamOvertakes(t *testing.T) {
	t.Parallel()
	r := newTestBroker(t)
	streamtest.Provision(t, r.JS, stream.Layout{Source: source, MaxAge: time.Second, Workers: []stream.WorkerSpec{r.worker.Spec()}})
	ctx, cancel := context.WithCancel(context.Background())
	var load sync.WaitGroup
	load.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			r.post(fmt.Sprintf("done_%d", n))
			<-tick.C
		}
	})
	defer load.Wait()
	defer cancel()
	streamtest.Wait(t, func() bool {
		report := r.audit()
		return len(report.Exceptions) == 1 && report.Exceptions[0].Kind == audit.Expired && strings.Contains(report.Exceptions[0].Detail, "never got")
	}, "the audit to find what was dropped")
}

// The audit and the worker see the same events at the same time; the audit must not take motion for loss.
func TestAudit_FindsNothingInRunningSystem(t *testing.T) {
	t.Parallel()
	// A parked copy that comes before its claim says so waits for a lease.
	r := newTestBroker(t, func(w *workers.Worker) { w.ParkAfter, w.AckWait = 10*time.Millisecond, time.Second })
	r.work()
	ctx, cancel := context.WithCancel(context.Background())
	var load sync.WaitGroup
	load.Go(func() {
		kinds := []string{"done", "dead", "again", "repark", "done", "done"}
		for n := 0; ctx.Err() == nil; n++ {
			id := fmt.Sprintf("%s_%d", kinds[n%len(kinds)], n)
			r.post(id)
			if n%5 == 0 {
				r.redrive(id, "live")
			}
		}
	})
	defer load.Wait()
	defer cancel()
	events := 0
	for range 8 {
		report := r.finds()
		events = report.Workers[0].Events
	}
	cancel()
	load.Wait()
	r.quiet(0)
	streamtest.Wait(t, func() bool {
		w := r.audit().Workers[0]
		return w.Waiting+w.Parked+w.ToCome == 0
	}, "every event to be at its end")
	report := r.finds()
	if w := report.Workers[0]; w.Done+w.Dead != w.Events || w.Events < events || events == 0 {
		t.Errorf("at the end it counts %+v, after %d under load; want all done or dead", w, events)
	}
}

func TestAudit_ComparesWithExpectation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, lines string
		want        []string
	}{
		{"all that was sent", "done_1\ndead_1\npark_1\nagain_1\ndone_2\nwait_1\nother_1\nodd_1\n", nil},
		{"sent twice", "done_1\ndead_1\ndone_1\npark_1\n\nagain_1\ndone_2\nwait_1\nother_1\nodd_1\n", nil},
		{"one that is not stored", "lost_1\ndone_1\ndead_1\npark_1\nagain_1\ndone_2\nwait_1\nother_1\nodd_1\n", []string{"not-stored lost_1"}},
		{"one that was not sent", "dead_1\npark_1\nagain_1\ndone_2\nwait_1\nother_1\nodd_1\n", []string{"not-expected done_1"}},
		{"as JSON", `{"webhook_id":"done_1"}` + "\ndead_1\npark_1\nagain_1\ndone_2\nwait_1\nother_1\nodd_1\n", nil},
		{"all effects", effect("done_1") + effect("again_1") + effect("done_2"), nil},
		{"an effect twice", effect("done_1") + effect("again_1") + effect("done_2") + effect("done_2"), []string{"twice done_2"}},
		{"an effect missing", effect("done_1") + effect("again_1"), []string{"no-effect done_2"}},
		{"an effect of what is not done", effect("done_1") + effect("again_1") + effect("done_2") + effect("dead_1"), []string{"not-done dead_1"}},
		{"an effect of what is not stored", effect("done_1") + effect("again_1") + effect("done_2") + effect("lost_1"), []string{"not-done lost_1"}},
		{"effects of another worker", `{"webhook_id":"done_1","worker":"other"}`, nil},
	}
	r := everything(t)
	for _, tt := range tests {
		x, err := audit.ReadExpectation(strings.NewReader(tt.lines))
		if err != nil {
			t.Fatalf("%s: ReadExpectation() = %v", tt.name, err)
		}
		var got []string
		for _, e := range r.audit(func(a *audit.Audit) { a.Expect = x }).Exceptions {
			got = append(got, string(e.Kind)+" "+e.WebhookID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: the audit finds %q; want %q", tt.name, got, tt.want)
		}
	}
	for _, bad := range []string{"", "\n\n", `{"id":"msg_1"}`, `{"webhook_id":`} {
		if _, err := audit.ReadExpectation(strings.NewReader(bad)); err == nil {
			t.Errorf("ReadExpectation(%q) = nil; want an error", bad)
		}
	}
}

func effect(id string) string { return fmt.Sprintf("{\"webhook_id\":%q,\"worker\":\"tested\"}\n", id) }

func TestAudit_VerifiesStoredBytes(t *testing.T) {
	t.Parallel()
	r := everything(t)
	asked := 0
	report := r.audit(func(a *audit.Audit) {
		a.Verify = func(h nats.Header, body []byte) error {
			asked++
			if string(body) != `{"payload":{}}` {
				t.Errorf("it is given the body %q", body)
			}
			if h.Get(stream.HeaderWebhookID) == "done_2" {
				return errors.New("forged")
			}
			return nil
		}
	})
	if len(report.Exceptions) != 1 || report.Exceptions[0].Kind != audit.Unverified || report.Exceptions[0].WebhookID != "done_2" || asked != 8 {
		t.Errorf("of %d it finds %+v; want done_2 of 8", asked, report.Exceptions)
	}
}
