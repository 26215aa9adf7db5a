package writes_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
	"github.com/headgate/headgate/workers/writes"
)

// A standIn is the stand-in for Codat, whose calls by the worker are counted and can fail.
type standIn struct {
	settings api.Settings // of the worker
	asked    atomic.Int64 // calls of the worker
	down     atomic.Bool

	own *api.Client
}

func newStandIn(t *testing.T, o codattest.Options) *standIn {
	t.Helper()
	codatAPI, err := codattest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(codatAPI.Close)
	codatAPI.AddCompany(codattest.Company{ID: "company-1", Name: "A Company", Connections: []string{"connection-1"}})
	target, err := url.Parse(codatAPI.URL())
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	forward := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	counted := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if s.down.Load() {
			http.Error(w, `{"statusCode":503}`, http.StatusServiceUnavailable)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(counted.Close)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(codattest.DefaultKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.settings = api.Settings{CodatKeyFile: key, CodatURL: counted.URL, CodatTimeout: time.Minute, CodatConcurrency: 4}
	own := s.settings
	own.CodatURL = codatAPI.URL()
	if s.own, err = api.New(own, prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.own.Close)
	return s
}

// push makes a push that times out after a number of minutes, 0 for never, and returns its key.
func (s *standIn) push(t *testing.T, minutes int) string {
	t.Helper()
	o, err := s.own.Create(t.Context(), api.Target{Company: "company-1", Connection: "connection-1", DataType: codat.DataDirectCosts, TimeoutMinutes: minutes}, uuid.NewString(), []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	return o.PushOperationKey
}

// until waits until the record of a write is as it should be.
func until(t *testing.T, records state.Writes, key, what string, holds func(state.Write) bool) {
	t.Helper()
	streamtest.Wait(t, func() bool { w, err := records.Get(t.Context(), key); return err == nil && holds(w) }, what)
}

func overdue(w state.Write) bool { return w.Status == codat.Pending && !w.Overdue.IsZero() }

// A write that stays pending is asked for once, however many events say that it is, and marked overdue until its outcome
// comes.
func TestWorker_MarksAWriteThatStaysPendingOverdue(t *testing.T) {
	api := newStandIn(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) { return codattest.StayPending(), true }})
	srv, records := start(t, func(s *writes.Settings) { s.Codat, s.OverdueAfter = api.settings, 50*time.Millisecond })
	key := api.push(t, 0)
	before := time.Now()
	post(t, srv, "msg_1", legacy(key, "Pending"))
	until(t, records, key, "the write to be overdue", overdue)
	post(t, srv, "msg_2", legacy(key, "Pending"))
	settled(t, srv)
	if got := api.asked.Load(); got != 1 {
		t.Errorf("the API is asked %d times; want once", got)
	}
	if w, err := records.Get(t.Context(), key); err != nil || w.Overdue.Before(before) || w.Overdue.After(time.Now()) || w.Asked == nil {
		t.Errorf("the record is %+v, %v; want it overdue since it was due, with the answer", w, err)
	}
	post(t, srv, "msg_3", write("directCosts.write.successful", key, "Success", "record-1"))
	until(t, records, key, "the write to be there and not overdue", func(w state.Write) bool { return w.Status == codat.Success && w.Overdue.IsZero() })
}

func TestWorker_MarksAWriteOverdueWithoutAnAPIKey(t *testing.T) {
	srv, records := start(t, func(s *writes.Settings) { s.OverdueAfter = 50 * time.Millisecond })
	post(t, srv, "msg_1", legacy("push-1", "Pending"))
	until(t, records, "push-1", "the write to be overdue", overdue)
	settled(t, srv)
}

// An event that never came is made up for by the API.
func TestWorker_TakesTheOutcomeOfAnOverdueWriteFromTheAPI(t *testing.T) {
	api := newStandIn(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) { return codattest.Fail(0, "no such account"), true }})
	srv, records := start(t, func(s *writes.Settings) { s.Codat, s.OverdueAfter = api.settings, 50*time.Millisecond })
	key := api.push(t, 0)
	streamtest.Wait(t, func() bool {
		o, err := api.own.Push(t.Context(), "company-1", key)
		return err == nil && o.Status == codat.Failed
	}, "the push to fail")
	post(t, srv, "msg_1", legacy(key, "Pending"))
	until(t, records, key, "the write to have failed, with its reason", func(w state.Write) bool {
		return w.Status == codat.Failed && w.Reason != nil && w.Reason.Message == "no such account" && w.Overdue.IsZero()
	})
}

// The operation's own limit counts when it is later: until then the event waits, and the record has no mark.
func TestWorker_WaitsForTheLimitThatCodatSays(t *testing.T) {
	api := newStandIn(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) { return codattest.StayPending(), true }})
	srv, records := start(t, func(s *writes.Settings) { s.Codat, s.OverdueAfter = api.settings, 50*time.Millisecond })
	before := time.Now()
	key := api.push(t, 60)
	post(t, srv, "msg_1", legacy(key, "Pending"))
	bucket, err := srv.JS.KeyValue(t.Context(), source.ClaimsBucket(writes.Name))
	if err != nil {
		t.Fatal(err)
	}
	claimed := claims.NewKV(bucket, nil, nil) // to look
	var r claims.Record
	streamtest.Wait(t, func() bool {
		r, err = claimed.Get(t.Context(), claims.Key{WebhookID: "msg_1"})
		return err == nil && r.State == claims.Parked && api.asked.Load() == 1
	}, "the event to be parked after the API was asked")
	if due := before.Add(65 * time.Minute); r.Next.Before(due.Add(-time.Minute)) || r.Next.After(due.Add(time.Minute)) {
		t.Errorf("the event is parked until %v; want 65 min after the push, %v", r.Next, due)
	}
	if w, err := records.Get(t.Context(), key); err != nil || !w.Overdue.IsZero() || w.Asked == nil || w.Asked.TimeoutMinutes != 60 {
		t.Errorf("the record is %+v, %v; want no mark, and the limit of the answer", w, err)
	}
}

// With an API that does not answer, a write is marked all the same, and asked for until there is an answer.
func TestWorker_MarksAWriteOverdueWhenTheAPIFails(t *testing.T) {
	api := newStandIn(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) { return codattest.Succeed(0), true }})
	api.down.Store(true)
	srv, records := start(t, func(s *writes.Settings) {
		s.Codat, s.OverdueAfter, s.BackoffMin, s.BackoffMax = api.settings, 50*time.Millisecond, 10*time.Millisecond, 10*time.Millisecond
		s.Attempts = 1_000_000
	})
	key := api.push(t, 0)
	post(t, srv, "msg_1", legacy(key, "Pending"))
	until(t, records, key, "the write to be overdue", overdue)
	api.down.Store(false)
	until(t, records, key, "the write to have succeeded", func(w state.Write) bool { return w.Status == codat.Success && w.Record != "" && w.Overdue.IsZero() })
	settled(t, srv)
}

// An event that was due before it came, as in a replay, waits for the event of the outcome and asks nothing.
func TestWorker_DoesNotAskForAWriteWhoseOutcomeFollows(t *testing.T) {
	api := newStandIn(t, codattest.Options{})
	srv, records := start(t, func(s *writes.Settings) { s.Codat = api.settings })
	postAs(t, srv, "msg_1", legacy("push-1", "Pending"), time.Now().Add(-24*time.Hour))
	until(t, records, "push-1", "the write to be pending", func(w state.Write) bool { return w.Status == codat.Pending })
	post(t, srv, "msg_2", write("directCosts.write.successful", "push-1", "Success", "record-1"))
	if w, err := records.AwaitWrite(t.Context(), "push-1"); err != nil || w.Status != codat.Success || !w.Overdue.IsZero() || api.asked.Load() != 0 {
		t.Errorf("AwaitWrite = %+v, %v, after %d questions; want the success, and none", w, err, api.asked.Load())
	}
}

// A wait for an outcome outlives the worker: it is in the stream of parked events.
func TestWorker_FollowsAWriteAfterARestart(t *testing.T) {
	srv := streamtest.New(t, writes.Worker(writes.Store{}).Spec())
	run := func(until func(context.Context)) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		s := &writes.Settings{
			Settings: workers.Settings{
				NATS: stream.NATS{NATSURL: srv.URL}, Source: source, Grace: 20 * time.Second, ParkAfter: 10 * time.Millisecond,
			},
			OverdueAfter: 2 * time.Second,
		}
		go func() { ended <- writes.Run(ctx, s, process.New(writes.Name, zaptest.NewLogger(t))) }()
		until(ctx)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v; want a clean stop", err)
		}
	}
	records, err := state.OpenWrites(t.Context(), srv.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := srv.JS.KeyValue(t.Context(), source.ClaimsBucket(writes.Name))
	if err != nil {
		t.Fatal(err)
	}
	claimed := claims.NewKV(bucket, nil, nil) // to look
	post(t, srv, "msg_1", legacy("push-1", "Pending"))
	run(func(ctx context.Context) {
		streamtest.Wait(t, func() bool {
			r, err := claimed.Get(ctx, claims.Key{WebhookID: "msg_1"})
			return err == nil && (r.State == claims.Parked || r.State == claims.Done) // done when this was slow
		}, "the event to be parked")
	})
	run(func(context.Context) { until(t, records, "push-1", "the write to be overdue", overdue) })
}

// A plan tells of a write that is pending without an event.
func TestWorker_MarksAWriteOfAPlanOverdue(t *testing.T) {
	srv, _ := startPlans(t, codattest.Options{Outcome: func(codattest.Push) (codattest.Outcome, bool) { return codattest.StayPending(), true }},
		func(s *writes.Settings) { s.OverdueAfter = 50 * time.Millisecond })
	submit(t, srv, expense(t, "expense-1", `{"name":"Travel"}`))
	records, err := state.OpenWrites(t.Context(), srv.JS, source)
	if err != nil {
		t.Fatal(err)
	}
	streamtest.Wait(t, func() bool {
		all, err := records.List(t.Context(), "company-1")
		return err == nil && len(all) == 1 && overdue(all[0]) && all[0].Plan == "expense-1"
	}, "the account's write to be overdue")
}
