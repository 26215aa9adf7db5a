package connections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/stream/streamtest"
	"github.com/headgate/headgate/workers"
)

// A rig has a stand-in for Codat behind a proxy that counts its calls, and a server.
type rig struct {
	*testing.T
	*streamtest.Server
	codat   *codattest.Server
	url     string // of Codat's API
	calls   atomic.Int64
	refuse  atomic.Int64 // the status with which calls are refused; 0 for none
	records state.Connections
	store   Store
	pace    pace
}

func newRig(t *testing.T) *rig {
	t.Helper()
	standIn, err := codattest.Start(codattest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standIn.Close)
	to, err := url.Parse(standIn.URL())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		T: t, codat: standIn, Server: streamtest.New(t, Worker(Store{}).Spec(), stream.WorkerSpec{Name: "writes", State: []string{state.QuotaName}}),
		pace: pace{period: time.Hour, look: 10 * time.Millisecond, lease: time.Minute, minPause: 10 * time.Millisecond, maxPause: 50 * time.Millisecond},
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.calls.Add(1)
		if status := r.refuse.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(front.Close)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections) // the proxy's
	r.url = front.URL
	if r.records, err = state.OpenConnections(t.Context(), r.JS, streamtest.Source); err != nil {
		t.Fatal(err)
	}
	r.store.bucket, err = r.JS.KeyValue(t.Context(), streamtest.Source.StateBucket(state.ConnectionsName))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) settings() api.Settings {
	r.Helper()
	key := filepath.Join(r.TempDir(), "key")
	if err := os.WriteFile(key, []byte(codattest.DefaultKey+"\n"), 0o600); err != nil {
		r.Fatal(err)
	}
	return api.Settings{CodatKeyFile: key, CodatURL: r.url, CodatTimeout: time.Minute, CodatConcurrency: 4}
}

// run runs the worker until the test ends.
func (r *rig) run() *process.Process {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	p := process.New(Name, zaptest.NewLogger(r.T))
	s := &Settings{
		Settings: workers.Settings{NATS: stream.NATS{NATSURL: r.URL}, Source: streamtest.Source, Grace: 20 * time.Second},
		Codat:    r.settings(), Reconcile: r.pace.period,
	}
	go func() { ended <- run(ctx, s, p, r.pace) }()
	r.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.Errorf("Run = %v; want a clean stop", err)
		}
	})
	return p
}

// reconciler returns a reconciler whose steps the test makes, and its log.
func (r *rig) reconciler() (*reconciler, *observer.ObservedLogs) {
	r.Helper()
	core, logs := observer.New(zap.WarnLevel)
	client, err := api.New(r.settings(), prometheus.NewRegistry())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(client.Close)
	parts := workers.Parts{JS: r.JS, Source: streamtest.Source, Log: zap.New(core)}
	return newReconciler(r.store, parts, client, newMetrics(prometheus.NewRegistry()), r.pace), logs
}

// step makes a step, and returns the round after it.
func (r *rig) step(c *reconciler) (round, error) {
	r.Helper()
	_, err := c.step(r.Context())
	now, _, readErr := workers.ReadRecord[round](r.Context(), r.store.bucket, roundKey)
	if readErr != nil {
		r.Fatal(readErr)
	}
	return now, err
}

// company adds a company with connections, which are linked by events of two days ago.
func (r *rig) company(id string, connections ...string) {
	r.Helper()
	r.codat.AddCompany(codattest.Company{ID: id, Name: "A Company", Connections: connections})
	for _, c := range connections {
		if err := r.store.add(r.Context(), id, c, dated("connection.connected", codat.Linked, time.Now().Add(-48*time.Hour).UTC())); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *rig) record(company, connection string) state.Connection {
	r.Helper()
	c, err := r.records.Get(r.Context(), company, connection)
	if err != nil {
		r.Fatalf("record of %s: %v", connection, err)
	}
	return c
}

func (r *rig) event(id, typ, company, connection, status string, at time.Time) {
	r.Helper()
	body := fmt.Appendf(nil, `{"id":"e","eventType":%q,"generatedDate":%q,"payload":{"referenceCompany":{"id":%q},"connection":{"id":%q,"integrationKey":"gbol","status":%q}}}`,
		typ, at.UTC().Format(time.RFC3339Nano), company, connection, status)
	head, err := codat.Read(body)
	if err != nil {
		r.Fatal(err)
	}
	m, err := streamtest.Source.Message(stream.Stored{ID: id, Head: head, Received: time.Now()}, body)
	if err == nil {
		_, err = r.JS.PublishMsg(r.Context(), m)
	}
	if err != nil {
		r.Fatal(err)
	}
}

func silent(c *reconciler, change string) float64 { return value(c.metrics.silent, change) }

func value(v *prometheus.CounterVec, label string) float64 {
	var m dto.Metric
	_ = v.WithLabelValues(label).Write(&m) // it returns no error for a counter
	return m.GetCounter().GetValue()
}

// A connection is cut on the platform's side, and no event comes. The worker finds it through Codat's API, and an event that is
// newer than the answer counts again.
func TestWorker_FindsASilentDisconnect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.codat.AddCompany(codattest.Company{ID: "c-1", Connections: []string{"k-1"}})
	p := r.run()
	r.event("msg_1", "connection.connected", "c-1", "k-1", "Linked", time.Now().Add(-48*time.Hour))
	streamtest.Wait(t, func() bool {
		c, err := r.records.Get(t.Context(), "c-1", "k-1")
		return err == nil && !c.Reconciled.IsZero()
	}, "the connection to be reconciled")
	if c := r.record("c-1", "k-1"); c.Status != codat.Linked || len(c.Timeline) != 1 || c.WebhookID != "msg_1" {
		t.Errorf("an answer that says the same has changed the record: %+v", c)
	}

	r.codat.SetConnection("c-1", "k-1", codat.Deauthorized)
	r.due()
	streamtest.Wait(t, func() bool { return r.record("c-1", "k-1").Status == codat.Deauthorized }, "the disconnect to be found")
	c := r.record("c-1", "k-1")
	if last := c.Timeline[len(c.Timeline)-1]; !last.Found || last.From != codat.Linked || last.Type != "" || c.From != codat.Linked || c.WebhookID != "" || c.Platform != "gbol" {
		t.Errorf("the record is %+v", c)
	}
	streamtest.Wait(t, func() bool { // it is counted when it is recorded
		families, err := p.Gatherer.Gather()
		return err == nil && slices.ContainsFunc(families, func(f *dto.MetricFamily) bool {
			return f.GetName() == "headgate_connections_silent_changes_total" && f.GetMetric()[1].GetCounter().GetValue() == 1
		})
	}, "the metrics to tell of the disconnect")
	r.event("msg_2", "connection.disconnected", "c-1", "k-1", "Unlinked", time.Now().Add(-time.Hour)) // late
	r.event("msg_3", "connection.reconnected", "c-1", "k-1", "Linked", time.Now().Add(time.Minute))
	streamtest.Wait(t, func() bool { return len(r.record("c-1", "k-1").Timeline) == 4 }, "both events to be there")
	if c := r.record("c-1", "k-1"); c.Status != codat.Linked || c.WebhookID != "msg_3" || c.From != codat.Deauthorized {
		t.Errorf("after a newer event the record is %+v", c)
	}
}

// due makes the next round due.
func (r *rig) due() {
	r.Helper()
	err := workers.UpdateRecord(r.Context(), r.store.bucket, roundKey, func(now round) round {
		now.Began, now.Completed = now.Began.Add(-r.pace.period), now.Completed.Add(-r.pace.period)
		return now
	})
	if err != nil {
		r.Fatal(err)
	}
}

// What Codat no longer lists is deleted, what no event has told of gets a record, and an answer clears what is suspect.
func TestReconciler_FindsWhatIsDeletedAndUnknown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.company("c-1", "linked", "gone", "suspect")
	if err := r.store.add(t.Context(), "c-1", "suspect", readAt(true, time.Now().Add(-time.Hour).UTC())); err != nil || !r.record("c-1", "suspect").Suspect {
		t.Fatalf("the connection is not suspect: %v", err)
	}
	r.codat.AddCompany(codattest.Company{ID: "c-1", Connections: []string{"linked", "suspect"}})
	r.codat.SetConnection("c-1", "new", codat.PendingAuth)
	r.company("c-2", "other")
	r.codat.RemoveCompany("c-2")
	c, _ := r.reconciler()
	streamtest.Wait(t, func() bool { now, _ := r.step(c); return !now.Completed.IsZero() }, "the round to be complete")
	for id, want := range map[string]state.Connection{
		"c-1.linked":  {Status: codat.Linked},
		"c-1.suspect": {Status: codat.Linked},
		"c-1.gone":    {Status: codat.Linked, From: codat.Linked, Deleted: true},
		"c-1.new":     {Status: codat.PendingAuth},
		"c-2.other":   {Status: codat.Linked, From: codat.Linked, Deleted: true},
	} {
		company, connection, _ := strings.Cut(id, ".")
		got := r.record(company, connection)
		if got.Status != want.Status || got.From != want.From || got.Deleted != want.Deleted || got.DeletedAt.IsZero() == want.Deleted || got.Suspect || got.Reconciled.IsZero() {
			t.Errorf("%s is %+v", id, got)
		}
	}
	if silent(c, changeDeleted) != 2 || silent(c, changeUnknown) != 1 || silent(c, changeDisconnected) != 0 || silent(c, changeOther) != 0 {
		t.Errorf("%v deleted, %v unknown", silent(c, changeDeleted), silent(c, changeUnknown))
	}
	calls := r.calls.Load()
	r.due()
	if now, err := r.step(c); err != nil || now.running() {
		t.Errorf("the second round: %+v, %v", now, err)
	}
	if n := r.calls.Load() - calls; n != 1 || silent(c, changeDeleted) != 2 {
		t.Errorf("the second round has made %d calls; want one for c-1, and none for a company whose connections are deleted", n)
	}
}

// However many processes there are, each company is asked for once in a round.
func TestWorker_ManyProcessesAskOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const companies = 12
	for i := range companies {
		r.company(fmt.Sprintf("c-%d", i), "k")
	}
	for range 3 {
		r.run()
	}
	streamtest.Wait(t, func() bool {
		now, _, err := workers.ReadRecord[round](t.Context(), r.store.bucket, roundKey)
		return err == nil && !now.Completed.IsZero()
	}, "the round to be complete")
	if n := r.calls.Load(); n != companies {
		t.Errorf("%d calls; want %d", n, companies)
	}
}

// A process dies in the middle of a round. Another goes on with it after the lease, and asks for the rest only.
func TestReconciler_AnotherProcessGoesOnAfterTheLease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const companies = 8
	for i := range companies {
		r.company(fmt.Sprintf("c-%d", i), "k")
	}
	first, _ := r.reconciler()
	dying := &dyingAPI{connectionsAPI: first.api, left: 3}
	first.api = dying
	ctx, kill := context.WithCancel(t.Context())
	dying.kill = kill
	if _, err := first.step(ctx); err == nil {
		t.Fatal("the process has not died")
	}
	second, _ := r.reconciler()
	if now, err := r.step(second); err != nil || now.Holder != first.holder {
		t.Fatalf("within the lease another process holds the round: %+v, %v", now, err)
	}
	err := workers.UpdateRecord(t.Context(), r.store.bucket, roundKey, func(now round) round {
		now.Lease = time.Now().Add(-time.Second).UTC()
		return now
	})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := r.step(second); err != nil || now.running() {
		t.Fatalf("the round is not complete: %+v, %v", now, err)
	}
	if n := r.calls.Load(); n != companies {
		t.Errorf("%d calls; want %d", n, companies)
	}
}

// A dyingAPI makes some calls, and then its process dies.
type dyingAPI struct {
	connectionsAPI
	left int
	kill func()
}

func (a *dyingAPI) Connections(ctx context.Context, company string, p api.Page) (api.List[codat.Connection], error) {
	if a.left--; a.left < 0 {
		a.kill()
		return api.List[codat.Connection]{}, context.Canceled
	}
	return a.connectionsAPI.Connections(ctx, company, p)
}

// While the quota is used up Codat is not called. Without its bucket nothing is known of the quota.
func TestReconciler_WaitsForTheQuota(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.company("c-1", "k")
	r.company("c-2", "k")
	kv, err := r.JS.KeyValue(t.Context(), streamtest.Source.StateBucket(state.QuotaName))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(state.Quota{Exhausted: true, Renewal: time.Now().Add(time.Hour)})
	if err == nil {
		_, err = kv.Put(t.Context(), state.QuotaKey, text)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, _ := r.reconciler()
	if now, err := r.step(c); !errors.Is(err, errNoCalls) || !now.running() || r.calls.Load() != 0 {
		t.Errorf("%d calls, round %+v, %v; want no call", r.calls.Load(), now, err)
	}
	if got := value(c.metrics.results, resultPaused); got != 1 {
		t.Errorf("%v companies are paused; want the first only", got)
	}
	if err := r.JS.DeleteKeyValue(t.Context(), kv.Bucket()); err != nil {
		t.Fatal(err)
	}
	if now, err := r.step(c); err != nil || now.running() || r.calls.Load() != 2 {
		t.Errorf("%d calls, round %+v, %v; want the round complete", r.calls.Load(), now, err)
	}
}

// An API that fails is logged once, is called for a few companies only, and changes no record. A worker beside it handles events.
func TestReconciler_AnAPIThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int64{"an API that fails": 500, "a key that is refused": 401, "no such company": 404} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for i := range 6 {
				r.company(fmt.Sprintf("c-%d", i), "k")
			}
			r.refuse.Store(status)
			c, logs := r.reconciler()
			for range 3 {
				now, err := r.step(c)
				if err == nil || !now.running() {
					t.Fatalf("the round is %+v, %v; want an error", now, err)
				}
				c.complain(err)
			}
			if most := int64(3 * maxFailures); status != 404 && r.calls.Load() > most {
				t.Errorf("%d calls; want at most %d", r.calls.Load(), most)
			}
			for i := range 6 {
				if got := r.record(fmt.Sprintf("c-%d", i), "k"); got.Deleted || got.Status != codat.Linked || !got.Reconciled.IsZero() {
					t.Errorf("the record has changed: %+v", got)
				}
			}
			if logs.Len() != 1 {
				t.Errorf("%d log lines; want one: %v", logs.Len(), logs.All())
			}
			r.refuse.Store(0)
			if now, err := r.step(c); err != nil || now.running() {
				t.Errorf("after that the round is %+v, %v; want it complete", now, err)
			}
		})
	}
}

// A company whose records were purged is not asked for, and gets no record again.
func TestReconciler_LeavesOutWhatWasErased(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.company("c-1", "k")
	r.company("c-2", "k")
	if err := r.store.bucket.Purge(t.Context(), "c-1.k"); err != nil {
		t.Fatal(err)
	}
	c, _ := r.reconciler()
	if now, err := r.step(c); err != nil || now.running() || r.calls.Load() != 1 {
		t.Errorf("%d calls, round %+v, %v; want one call", r.calls.Load(), now, err)
	}
	if _, err := r.records.Get(t.Context(), "c-1", "k"); err == nil {
		t.Error("the record is there again")
	}
}

// A round that is never complete does not hold up the next: a company whose calls fail is left, and the others are asked again.
func TestReconciler_ACompanyThatFailsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 5 {
		r.company(fmt.Sprintf("c-%d", i), "k")
	}
	c, _ := r.reconciler()
	c.api = failingAPI{c.api, "c-3"}
	for range 2 {
		began := time.Now().Add(-time.Second)
		if now, err := r.step(c); err == nil || !now.running() || now.Began.Before(began) {
			t.Fatalf("the round is %+v, %v; want one that is not complete", now, err)
		}
		for i := range 5 {
			if got := r.record(fmt.Sprintf("c-%d", i), "k").Reconciled; got.Before(began) != (i == 3) {
				t.Errorf("c-%d was reconciled at %s", i, got)
			}
		}
		r.due()
	}
}

// The API key becomes that of another client in the middle of a pass: what it does not know is not deleted.
func TestReconciler_AnotherClientsKeyDeletesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 4 {
		r.company(fmt.Sprintf("c-%d", i), "k")
	}
	c, _ := r.reconciler()
	c.api = &otherClientAPI{connectionsAPI: c.api}
	if now, err := r.step(c); !errors.Is(err, api.ErrNotFound) || !now.running() {
		t.Errorf("the round is %+v, %v; want one that is not complete", now, err)
	}
	for i := range 4 {
		if got := r.record(fmt.Sprintf("c-%d", i), "k"); got.Deleted {
			t.Errorf("c-%d is deleted", i)
		}
	}
}

// The API key is that of another client in the middle of a pass, and is mended before its end: what it did not know is not deleted.
func TestReconciler_AnotherClientsKeyForAWhileDeletesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 4 {
		r.company(fmt.Sprintf("c-%d", i), "k")
	}
	c, _ := r.reconciler()
	key := &changedKeyAPI{connectionsAPI: c.api, wrong: map[int]bool{1: true, 2: true}}
	c.api = key
	if now, err := r.step(c); err == nil || !now.running() {
		t.Errorf("the round is %+v, %v; want one that is not complete", now, err)
	}
	if now, err := r.step(c); err != nil || now.running() {
		t.Errorf("with the right key the round is %+v, %v; want it complete", now, err)
	}
	for i := range 4 {
		if got := r.record(fmt.Sprintf("c-%d", i), "k"); got.Deleted || got.Reconciled.IsZero() {
			t.Errorf("c-%d is %+v; want it reconciled, and not deleted", i, got)
		}
	}
}

// A deletion was so when Codat did not know the company, and not at the end of the pass: an event that is newer counts.
func TestReconciler_ADeletedCompanyWasSoWhenItWasAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.company("c-1", "k")
	if err := r.store.add(r.Context(), "c-2", "k", dated("connection.connected", codat.Linked, time.Now().Add(-48*time.Hour).UTC())); err != nil {
		t.Fatal(err)
	}
	c, _ := r.reconciler()
	calls := &changedKeyAPI{connectionsAPI: c.api, last: map[string]time.Time{}}
	c.api = calls
	if now, err := r.step(c); err != nil || now.running() {
		t.Fatalf("the round is %+v, %v", now, err)
	}
	if got, answered := r.record("c-2", "k"), calls.last["c-2"]; !got.Deleted || got.Reconciled.After(answered) {
		t.Errorf("the record is %+v; want it deleted, as of a time before %s", got, answered)
	}
}

// A changedKeyAPI has the key of another client in some of its calls. It keeps when the last call for each company ended.
type changedKeyAPI struct {
	connectionsAPI
	calls int
	wrong map[int]bool // by number of the call, from 0
	last  map[string]time.Time
}

func (a *changedKeyAPI) Connections(ctx context.Context, company string, p api.Page) (api.List[codat.Connection], error) {
	a.calls++
	if a.wrong[a.calls-1] {
		return api.List[codat.Connection]{}, api.ErrNotFound
	}
	list, err := a.connectionsAPI.Connections(ctx, company, p)
	if a.last != nil {
		a.last[company] = time.Now()
	}
	return list, err
}

// An otherClientAPI knows the company of its first call only, and once.
type otherClientAPI struct {
	connectionsAPI
	called bool
}

func (a *otherClientAPI) Connections(ctx context.Context, company string, p api.Page) (api.List[codat.Connection], error) {
	if a.called {
		return api.List[codat.Connection]{}, api.ErrNotFound
	}
	a.called = true
	return a.connectionsAPI.Connections(ctx, company, p)
}

// Clocks differ: an event of the last minute before the call is newer than the answer.
func TestReconciler_AnEventOfTheLastMinuteIsNewer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.company("c-1", "k")
	if err := r.store.add(t.Context(), "c-1", "k", dated("connection.disconnected", codat.Unlinked, time.Now().UTC())); err != nil {
		t.Fatal(err)
	}
	c, _ := r.reconciler()
	if now, err := r.step(c); err != nil || now.running() {
		t.Fatalf("the round is %+v, %v", now, err)
	}
	if got := r.record("c-1", "k"); got.Status != codat.Unlinked || got.Type != "connection.disconnected" || got.Reconciled.IsZero() {
		t.Errorf("the record is %+v; want what the event says", got)
	}
	if silent(c, changeOther) != 0 {
		t.Error("what an event has told of was counted as silent")
	}
}

// A failingAPI fails for one company.
type failingAPI struct {
	connectionsAPI
	company string
}

func (a failingAPI) Connections(ctx context.Context, company string, p api.Page) (api.List[codat.Connection], error) {
	if company == a.company {
		return api.List[codat.Connection]{}, errors.New("codat fails")
	}
	return a.connectionsAPI.Connections(ctx, company, p)
}

func TestSettings_Validate(t *testing.T) {
	for reconcile, valid := range map[time.Duration]bool{0: true, time.Minute: true, 24 * time.Hour: true, time.Second: false, -time.Hour: false, 200 * time.Hour: false} {
		s := &Settings{
			Settings:  workers.Settings{Settings: process.Settings{LogLevel: "info", LogFormat: "json", AdminListen: ":0"}, NATS: stream.NATS{NATSURL: "nats://127.0.0.1:4222"}, Source: "codat"},
			Codat:     api.Settings{CodatURL: "https://api.codat.io", CodatTimeout: time.Second, CodatConcurrency: 1},
			Reconcile: reconcile,
		}
		if err := s.Validate(); (err == nil) != valid {
			t.Errorf("--reconcile %s: %v", reconcile, err)
		}
	}
}
